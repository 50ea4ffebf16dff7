import threading
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from mmcv.transforms import LoadImageFromFile
from mmdet.apis import inference_detector, init_detector
from mmengine.config import Config
from mmseg.apis import inference_model, init_model
from PIL import Image
from random_models import NAMES, Models
from timm.data import create_transform, resolve_model_data_config

from mmpoolformer.analysis.browsing import open_data
from mmpoolformer.analysis.complexity import count_config
from mmpoolformer.inference.predictor import Predictor
from mmpoolformer.utils.errors import UserError
from mmpoolformer.utils.images import PictureError
from mmpoolformer.utils.results import Classes, Regions, Result

pytestmark = pytest.mark.slow


def arrays(result: Result) -> list[np.ndarray]:
    """Return all that was found."""
    found = vars(result.found).values()
    return [np.asarray(value) for value in found if value is not None]


def assert_same(result: Result, other: Result, tolerance: float = 0.0) -> None:
    pairs = list(zip(arrays(result), arrays(other), strict=True))
    assert pairs
    for ours, theirs in pairs:
        if ours.dtype.kind in 'bui':  # a pixel may lie between two classes
            assert (ours != theirs).mean() <= tolerance
        else:
            np.testing.assert_allclose(ours, theirs, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize('name', ['detection', 'masks'])
def test_detections_are_mmdets(models: Models, name: str) -> None:
    detector = init_detector(
        str(models.config(name)), str(models.checkpoint(name)), device='cpu'
    )
    predictor = models.predictor(name)
    has_masks = name == 'masks'
    assert predictor.task == 'instance segmentation' if has_masks else 'detection'
    for path in models.pictures:
        theirs = inference_detector(detector, path).pred_instances
        found = predictor(path).found
        assert len(found.labels) > 5
        np.testing.assert_allclose(found.boxes, theirs.bboxes, atol=1e-3)
        np.testing.assert_allclose(found.scores, theirs.scores, atol=1e-5)
        assert found.labels.tolist() == theirs.labels.tolist()
        if has_masks:
            np.testing.assert_array_equal(found.masks, theirs.masks)


def test_regions_are_mmsegs(models: Models) -> None:
    config, weights = models.config('segmentation'), models.checkpoint('segmentation')
    segmentor = init_model(str(config), str(weights), device='cpu')
    # mmseg's function reads the variable, which here is the base config's.
    segmentor.cfg.test_pipeline = segmentor.cfg.test_dataloader.dataset.pipeline
    predictor = models.predictor('segmentation')
    assert predictor.task == 'semantic segmentation'
    for path in models.pictures:
        theirs = inference_model(segmentor, path).pred_sem_seg.data[0].numpy()
        found = predictor(path).found
        assert isinstance(found, Regions)
        assert len(np.unique(theirs)) > 1
        np.testing.assert_array_equal(found.labels, theirs)


def test_classes_are_timms(models: Models) -> None:
    content = torch.load(models.checkpoint('classification'), weights_only=True)
    weights = content['state_dict'].items()
    network = timm.create_model('test_resnet', num_classes=3).eval()
    network.load_state_dict({k.removeprefix('backbone.'): v for k, v in weights})
    transform = create_transform(48, crop_pct=1.0)
    predictor = models.predictor('classification')
    for path in models.pictures:
        with Image.open(path) as picture, torch.no_grad():
            chances = network(transform(picture)[None]).softmax(1)[0]
        found = predictor(path).found
        assert isinstance(found, Classes)
        best = chances.argsort(descending=True)
        assert found.labels.tolist() == best.tolist()
        np.testing.assert_allclose(found.scores, chances[best], rtol=1e-4)


def test_classifiers_by_name(models: Models, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = timm.create_model('test_resnet').eval()
    torch.save(network.state_dict(), tmp_path / 'net.pth')
    predictor = Predictor('timm/test_resnet', tmp_path / 'net.pth')
    transform = create_transform(**resolve_model_data_config(network))
    with Image.open(models.pictures[1]) as picture, torch.no_grad():
        chances = network(transform(picture)[None]).softmax(1)[0]
    found = predictor(models.pictures[1]).found
    assert predictor.classes[0].startswith('tench')
    assert found.labels[0] == chances.argmax()
    assert found.scores[0] == pytest.approx(chances.max().item(), rel=1e-4)


@pytest.mark.parametrize('name', NAMES)
def test_batches_are_the_single_pictures_in_order(models: Models, name: str) -> None:
    predictor = models.predictor(name)
    together = predictor.batch(models.pictures, batch_size=3)
    assert [result.name for result in together] == models.pictures
    for path, result in zip(models.pictures, together, strict=True):
        assert_same(result, predictor(path), tolerance=1e-4)
        assert result.picture.shape == np.asarray(Image.open(path)).shape


def test_streams_hold_one_batch_at_most(models: Models) -> None:
    predictor = models.predictor('detection')
    taken = []

    def without_end() -> Iterator[np.ndarray]:
        while True:
            taken.append(1)
            yield np.zeros((64, 64, 3), np.uint8)

    stream = predictor.stream(without_end(), batch_size=3)
    for count in (3, 3, 3, 6):
        next(stream)
        assert len(taken) == count


@pytest.mark.parametrize('name', NAMES)
def test_threads_find_what_one_finds(models: Models, name: str) -> None:
    predictor = models.predictor(name)
    orders = [np.roll(models.pictures, i).tolist() for i in range(4)]
    alone = {path: predictor(path) for path in models.pictures}
    found, start = {}, threading.Barrier(len(orders))

    def look(place: int) -> None:
        start.wait()
        found[place] = predictor.batch(orders[place], batch_size=1)

    threads = [threading.Thread(target=look, args=(i,)) for i in range(len(orders))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == [0, 1, 2, 3]
    for place, results in found.items():
        for path, result in zip(orders[place], results, strict=True):
            assert_same(result, alone[path])


def test_kinds_of_pictures(models: Models, tmp_path: Path) -> None:
    predictor = models.predictor('detection')
    path = models.pictures[1]
    with Image.open(path) as picture:
        expected = predictor(path)
        assert_same(predictor(picture), expected)
        assert_same(predictor(np.asarray(picture)), expected)
        turned = picture.transpose(Image.Transpose.ROTATE_90)
        exif = Image.Exif()
        exif[274] = 6  # to be shown turned clockwise
        turned.save(tmp_path / 'turned.png', exif=exif)
        assert_same(predictor(tmp_path / 'turned.png'), expected)
        grey = picture.convert('L')
        grey.convert('RGB').convert('CMYK').save(tmp_path / 'inks.tif')
        deep = np.asarray(grey).astype(np.uint16) * 257
        Image.fromarray(deep).save(tmp_path / 'deep.png')
    expected = predictor(np.asarray(grey))
    assert_same(predictor(grey.convert('RGB')), expected)
    assert_same(predictor(tmp_path / 'deep.png'), expected)
    assert_same(predictor(tmp_path / 'inks.tif'), expected)


def test_turned_16_bit_pictures_are_upright(models: Models, tmp_path: Path) -> None:
    values = np.arange(30 * 50, dtype=np.uint16).reshape(30, 50) * 40
    exif = Image.Exif()
    exif[274] = 3  # to be shown upside down
    Image.fromarray(values[::-1, ::-1].copy()).save(tmp_path / 'deep.tif', exif=exif)
    picture = models.predictor('classification')(tmp_path / 'deep.tif').picture
    assert picture.shape == (30, 50, 3)
    np.testing.assert_array_equal(picture[..., 1], np.round(values / 257))
    picture = models.predictor('detection')(tmp_path / 'deep.tif').picture
    np.testing.assert_array_equal(picture[..., 1], values // 256)  # as OpenCV


def test_files_are_seen_as_in_the_test_of_their_config(
    models: Models, tmp_path: Path
) -> None:
    with Image.open(models.pictures[1]) as picture:
        picture.load()
    clear = picture.copy()
    clear.putalpha(Image.linear_gradient('L').resize(picture.size))
    exif = Image.Exif()
    exif[274] = 6
    deep = np.asarray(picture.convert('L')).astype(np.uint16) * 250
    clear.save(tmp_path / 'clear.tif')
    clear.save(tmp_path / 'clear.png')
    picture.save(tmp_path / 'turned.webp', exif=exif, lossless=True)
    picture.save(tmp_path / 'turned.jpg', exif=exif)
    picture.convert('CMYK').save(tmp_path / 'inks.jpg')
    Image.fromarray(deep).save(tmp_path / 'deep.png')
    predictor, files = models.predictor('detection'), sorted(tmp_path.iterdir())
    assert len(files) == 6
    for file in files:
        loaded = LoadImageFromFile()({'img_path': str(file)})['img'][..., ::-1]
        np.testing.assert_array_equal(predictor(file).picture, loaded)
        assert_same(predictor(file), predictor(loaded))


@pytest.mark.parametrize('name', ['detection', 'segmentation'])
def test_frames_are_colours_whatever_reads_the_files(
    models: Models, name: str, tmp_path: Path
) -> None:
    config = tmp_path / 'own.py'
    own = "type='LoadImageFromFile', color_type='color_ignore_orientation'"
    text = models.config(name).read_text()
    config.write_text(text.replace("type='LoadImageFromFile'", own))
    predictor = Predictor(config, models.checkpoint(name))
    for path in models.pictures:
        pixels = np.array(Image.open(path).convert('RGB'))
        expected = predictor(path)
        assert np.array_equal(expected.picture, pixels)
        assert_same(predictor(pixels), expected)
        assert_same(predictor(Image.fromarray(pixels)), expected)


@pytest.mark.parametrize(
    ('picture', 'error', 'words'),
    [
        (np.zeros((9, 9, 3)), ValueError, 'float64 is no picture: give uint8'),
        (np.zeros((9, 9, 4), np.uint8), ValueError, r'\(9, 9, 4\) of uint8'),
        (np.zeros((0, 9), np.uint8), ValueError, 'no pixels'),
        (7, TypeError, 'int is no picture'),
        (Image.new('F', (9, 9)), PictureError, 'fractions'),
        ('gone.png', PictureError, 'gone.png: no such picture'),
    ],
)
def test_what_is_no_picture(
    models: Models, picture: object, error: type, words: str
) -> None:
    with pytest.raises(error, match=words):
        models.predictor('detection')(picture)


def test_pictures_are_read_as_the_config_says(models: Models, tmp_path: Path) -> None:
    config = tmp_path / 'stored.py'
    own = "type='LoadImageFromFile', color_type='color_ignore_orientation'"
    text = models.config('detection').read_text()
    config.write_text(text.replace("type='LoadImageFromFile'", own))
    exif = Image.Exif()
    exif[274] = 6  # to be shown turned clockwise
    pixels = np.array(Image.open(models.pictures[1]))
    Image.fromarray(pixels).save(tmp_path / 'a.png', exif=exif)
    checkpoint = models.checkpoint('detection')
    result = Predictor(config, checkpoint)(tmp_path / 'a.png')
    assert np.array_equal(result.picture, pixels)
    assert_same(result, Predictor(models.config('detection'), checkpoint)(pixels))


def test_broken_pictures_are_told_or_skipped(models: Models, tmp_path: Path) -> None:
    predictor = models.predictor('classification')
    broken = tmp_path / 'broken.png'
    broken.write_bytes(Path(models.pictures[0]).read_bytes()[:200])
    paths = [models.pictures[0], broken, models.pictures[2]]
    with pytest.raises(PictureError, match=r'broken\.png: can not be read'):
        predictor.batch(paths)
    results = list(predictor.stream(paths, 2, skip_unreadable=True))
    assert [bool(result.problem) for result in results] == [False, True, False]
    assert results[1].found is None
    assert_same(results[2], predictor(paths[2]), tolerance=1e-5)


def test_pictures_that_can_not_be_resized(models: Models, tmp_path: Path) -> None:
    predictor = models.predictor('detection')
    Image.new('RGB', (3000, 1)).save(tmp_path / 'line.png')
    paths = [models.pictures[0], tmp_path / 'line.png']
    with pytest.raises(PictureError, match=r'3000 x 1 pixels .* resized'):
        predictor.batch(paths)
    whole, line = predictor.stream(paths, 2, skip_unreadable=True)
    assert_same(whole, predictor(paths[0]))
    assert line.problem.startswith(f'{paths[1]}: 3000 x 1 pixels')


def test_names_come_from_the_checkpoint_then_the_config(
    models: Models, tmp_path: Path
) -> None:
    config = models.config('detection')
    content = torch.load(models.checkpoint('detection'), weights_only=True)
    torch.save({'state_dict': content['state_dict']}, tmp_path / 'bare.pth')
    assert Predictor(config, tmp_path / 'bare.pth').classes == ('square', 'disc')
    content['meta']['dataset_meta'] = {'classes': ('box', 'ball')}
    torch.save(content, tmp_path / 'named.pth')
    assert Predictor(config, tmp_path / 'named.pth').classes == ('box', 'ball')
    content['meta'] = {'CLASSES': ('old box', 'old ball')}
    torch.save(content, tmp_path / 'old.pth')
    assert Predictor(config, tmp_path / 'old.pth').classes == ('old box', 'old ball')


def in_full(node: object, scope: str) -> object:
    """Write the names of a package's classes with its scope."""
    if isinstance(node, dict):
        full = {key: in_full(value, scope) for key, value in node.items()}
        kind = full.get('type')
        registries = import_module(f'{scope}.registry')
        if any(
            kind in getattr(registries, name).module_dict
            for name in ('MODELS', 'DATASETS', 'TRANSFORMS')
        ):
            full['type'] = f'{scope}.{kind}'
        return full
    if isinstance(node, list | tuple):
        return type(node)(in_full(value, scope) for value in node)
    return node


@pytest.mark.parametrize(
    ('name', 'scope', 'size'),
    [('detection', 'mmdet', (800, 1333)), ('segmentation', 'mmseg', (512, 512))],
)
def test_configs_without_a_scope_are_used_as_those_with_one(
    models: Models, name: str, scope: str, size: tuple[int, int]
) -> None:
    config = Config.fromfile(models.config(name))
    config.default_scope = None
    for part in ('model', 'test_dataloader'):
        config[part] = in_full(config[part].to_dict(), scope)
    config.test_dataloader.dataset.pipeline[0].type = f'{scope}.LoadImageFromFile'
    predictor = Predictor(config, models.checkpoint(name))
    for path in models.pictures:
        assert_same(predictor(path), models.predictor(name)(path))
    assert count_config(config).shape[2:] == size
    config.test_dataloader.dataset.test_mode = False
    data = open_data(config, 'test')
    fed = data.read(data.dataset[0])
    assert (fed.boxes is not None) == (scope == 'mmdet')
    assert (fed.labels is not None) == (scope == 'mmseg')


def test_palettes_come_from_the_config(models: Models) -> None:
    colours = models.predictor('segmentation').colours
    assert colours.tolist() == [[230, 40, 40], [40, 60, 230], [99, 99, 99]]


def test_what_can_not_be_used(models: Models, tmp_path: Path) -> None:
    config = models.config('detection')
    with pytest.raises(UserError, match='names no weights of the whole model'):
        Predictor(config)
    with pytest.raises(UserError, match=r'nothere\.py: no such config'):
        Predictor('nothere.py', models.checkpoint('detection'))
    with pytest.raises(ValueError, match='no model'):
        Predictor('poolformer_s1', models.checkpoint('detection'))
    with pytest.raises(UserError, match=r'another shape|lacks'):
        Predictor(config, models.checkpoint('segmentation'))
    other = Config.fromfile(models.config('classification'))
    other.model = dict(type='BaseDataPreprocessor')
    with pytest.raises(UserError, match='no detector of mmdet'):
        Predictor(other, models.checkpoint('detection'))
    with pytest.raises(ValueError, match='batch_size=0'):
        models.predictor('detection').batch([], batch_size=0)
