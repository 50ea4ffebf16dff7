"""Pictures of four bands and 16 bits, from the check to what a model sees."""

import json
import pickle
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_data import write_data, write_detection_config, write_segmentation_config
from tool_process import run_many

from mmpoolformer.analysis.gradcam_pages import (
    WHOLE_WIDTH,
    Settings,
    page_of,
    read_picture,
)
from mmpoolformer.apps.infer import Inference, infer
from mmpoolformer.apps.page.results import run_on_file
from mmpoolformer.inference.adapters import load_adapter
from mmpoolformer.inference.predictor import Predictor
from mmpoolformer.utils.errors import UsageError
from mmpoolformer.utils.images import PictureError
from mmpoolformer.visual.drawing import GAP

tifffile = pytest.importorskip('tifffile')
pytestmark = pytest.mark.slow

WRITERS = {'det': write_detection_config, 'seg': write_segmentation_config}
READ = "type='LoadImageFromFile', color_type='unchanged', imdecode_backend='tifffile'"
MODEL = """
bands = dict(mean=[2e4], std=[1e4], bgr_to_rgb=False)
model = dict(data_preprocessor=bands, backbone=dict(in_channels=4))
"""


def tiff(values: np.ndarray) -> bytes:
    file = BytesIO()
    tifffile.imwrite(file, values, photometric='minisblack', planarconfig='contig')
    return file.getvalue()


@pytest.fixture(scope='module')
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, configs and what the tools have made of them."""
    folder = tmp_path_factory.mktemp('bands')
    write_data(folder / 'data')
    for path in folder.glob('data/images/*/*.png'):
        values = np.array(Image.open(path)).astype(np.uint16) * 200
        values = np.concatenate([values, values[..., :1]], axis=2)
        path.with_suffix('.tif').write_bytes(tiff(values))
        path.unlink()
    for path in folder.glob('data/*.json'):
        path.write_text(path.read_text().replace('.png', '.tif'))
    commands = []
    for name, write in WRITERS.items():
        config = folder / f'{name}.py'
        write(config, folder / 'data')
        text = config.read_text().replace("type='LoadImageFromFile'", READ)
        config.write_text(text.replace("img_suffix='.png'", "img_suffix='.tif'"))
        own = folder / f'bands_{name}.py'
        own.write_text(f"_base_ = '{config}'" + MODEL)
        run = folder / name
        last = run / ('epoch_2.pth' if name == 'det' else 'iter_4.pth')
        photos = folder / 'data' / 'images' / 'validation'
        seen = ('--out', run / 'infer', '--score-thr', '0')
        commands += [
            ['tools/check_data.py', own, '--work-dir', run, '--decode'],
            ['tools/train.py', own, '--work-dir', run],
            ['tools/test.py', own, last, '--work-dir', run, '--out', run / 'seen.pkl'],
            ['tools/infer.py', own, last, photos, *seen],
            ['tools/browse_data.py', own, '--out', run / 'browse', '--single'],
        ]
    for done in run_many(commands, folder):
        assert done['code'] == 0, done['err'] + done['out'][-2000:]
    return folder


def test_infer_sees_what_the_test_has_seen(work: Path) -> None:
    for sample in pickle.loads((work / 'seg' / 'seen.pkl').read_bytes()):
        name = Path(sample['img_path']).stem
        found = np.array(Image.open(work / 'seg' / 'infer' / 'masks' / f'{name}.png'))
        assert np.array_equal(found, sample['pred_sem_seg']['data'][0].numpy())
    found = json.loads((work / 'det' / 'infer' / 'predictions.json').read_text())
    tested = pickle.loads((work / 'det' / 'seen.pkl').read_bytes())
    expected = sorted(
        score for one in tested for score in one['pred_instances']['scores'].tolist()
    )
    scores = sorted(one['score'] for one in found)
    assert len(scores) > 5
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_the_first_three_bands_are_shown(work: Path) -> None:
    predictor = Predictor(work / 'bands_seg.py', work / 'seg' / 'iter_4.pth')
    for drawing in (work / 'det' / 'browse').iterdir():
        path = work / 'data' / 'images' / 'training' / f'{drawing.stem[-3:]}.tif'
        values = tifffile.imread(path)[..., :3]
        expected = values * (255 / values.max())
        assert abs(predictor(path).picture - expected).max() <= 0.51
        drawn = np.array(Image.open(drawing))[: len(values)]  # with boxes and names
        assert np.median(abs(drawn - expected)) < 1


def test_a_map_of_evidence_lies_over_the_first_three_bands(work: Path) -> None:
    model = load_adapter(work / 'bands_seg.py', work / 'seg' / 'iter_4.pth')
    path = work / 'data' / 'images' / 'training' / '000.tif'
    picture = read_picture(path, model)
    values = tifffile.imread(path)
    assert np.array_equal(picture.pixels, values)
    assert (
        abs(picture.shown - values[..., :3] * (255 / values[..., :3].max())).max() < 1
    )
    page = page_of([path], [model], Settings(top=1))
    assert page.shape[1] == 2 * (WHOLE_WIDTH + GAP) + GAP
    detector = load_adapter(work / 'bands_det.py', work / 'det' / 'epoch_2.pth')
    page = page_of([path], [model, detector], Settings(top=1, score_thr=0.0))
    assert page.shape[0] > 2 * WHOLE_WIDTH * values.shape[0] / values.shape[1]


def test_pictures_of_other_bands_are_refused_in_a_line(work: Path) -> None:
    predictor = Predictor(work / 'bands_seg.py', work / 'seg' / 'iter_4.pth')
    path = work / 'data' / 'images' / 'validation' / '000.tif'
    pixels = tifffile.imread(path)
    labels = predictor(path).found.labels
    assert np.array_equal(predictor(pixels).found.labels, labels)
    with pytest.raises(PictureError, match='reads other pictures than RGB of 8 bits'):
        predictor(Image.fromarray((pixels[..., :3] // 256).astype(np.uint8)))
    Image.fromarray(pixels[..., :3].astype(np.uint8)).save(work / 'rgb.png')
    said = run_on_file(predictor, work / 'rgb.png', 0.3, 10**8)  # on the web page
    assert said.is_problem and 'reads other pictures' in said.message
    (work / 'street.mp4').touch()
    with pytest.raises(UsageError, match=r'street\.mp4: videos are RGB of 8 bits, but'):
        infer(
            Inference(
                model=str(work / 'bands_seg.py'),
                checkpoint=str(work / 'seg' / 'iter_4.pth'),
                inputs=[str(work / 'street.mp4')],
                out=str(work / 'of_video'),
            )
        )
    rgb, broken = work / 'rgb.tif', work / 'broken.tif'
    rgb.write_bytes(tiff(pixels[..., :3]))
    broken.write_bytes(path.read_bytes()[:-900])
    results = list(predictor.stream([rgb, path, broken, work / 'no.tif'], 4, True))
    assert [bool(one.problem) for one in results] == [True, False, True, True]
    assert [one.problem.startswith(one.name) for one in results if one.problem]
