import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from exported_files import FORMATS, export_config
from tiny_data import write_classification_config
from tool_process import run_here
from torch import nn

from mmpoolformer.models.folding import computes_bfloat16

pytestmark = pytest.mark.slow
TEST = 'tools/test.py'
# Sides of 96 and 80, padded to 96.
OTHER_SIZE = (
    '--cfg-options',
    *(
        f'test_dataloader.dataset.pipeline.2.{option}'
        for option in ('scale=(96,80)', 'keep_ratio=False')
    ),
)
NAMES = ('det', 'seg')


@pytest.fixture(scope='module')
def exported(tiny: SimpleNamespace, trained: SimpleNamespace) -> dict[str, Path]:
    """Files of both trained models, without their endings."""
    paths = {name: tiny.folder / f'{name}_exported' for name in NAMES}
    configs = dict(zip(NAMES, (tiny.detection, tiny.segmentation), strict=True))
    for name, path in paths.items():
        checkpoint = getattr(trained, f'{name}_checkpoint')
        export_config(configs[name], checkpoint, path)
    return paths


def measured(config: Path, checkpoint: Path, *more: str) -> tuple[dict, str]:
    """Return what a test writes and prints."""
    folder = checkpoint.parent / 'tests'
    run = run_here(
        [TEST, config, checkpoint, '--work-dir', folder, *more], checkpoint.parent
    )
    assert run['code'] == 0, run['err'] + run['out'][-2000:]
    [path] = re.findall('^results: (.*)', run['out'], re.MULTILINE)
    return json.loads(Path(path).read_text()), run['out']


@pytest.mark.parametrize(
    ('suffix', 'size'),
    [
        ('.xml', ()),
        ('.onnx', OTHER_SIZE),
        pytest.param('.onnx', (), marks=pytest.mark.long),
        pytest.param('.xml', OTHER_SIZE, marks=pytest.mark.long),
    ],
)
def test_detections_are_as_good(
    tiny: SimpleNamespace,
    trained: SimpleNamespace,
    exported: dict[str, Path],
    size: tuple[str, ...],
    suffix: str,
) -> None:
    expected, _ = measured(tiny.detection, trained.det_checkpoint, *size)
    path = exported['det'].with_suffix(suffix)
    found, printed = measured(tiny.detection, path, *size)
    assert found['metrics'] == pytest.approx(expected['metrics'], abs=1e-3)
    assert found['metrics']['coco/bbox_mAP_50'] > 0.1
    assert re.search(r'model: +RetinaNet in a file, run by (ONNX|OpenVINO) ', printed)
    assert found['checkpoint'] == str(path)


@pytest.mark.parametrize('suffix', FORMATS)
def test_regions_are_as_good(
    tiny: SimpleNamespace,
    trained: SimpleNamespace,
    exported: dict[str, Path],
    suffix: str,
) -> None:
    expected, _ = measured(tiny.segmentation, trained.seg_checkpoint)
    found, _ = measured(tiny.segmentation, exported['seg'].with_suffix(suffix))
    assert found['metrics'] == pytest.approx(expected['metrics'], abs=0.02)  # percent
    assert found['metrics']['mIoU'] > 5


def test_views_are_merged_and_times_told(
    tiny: SimpleNamespace, trained: SimpleNamespace, exported: dict[str, Path]
) -> None:
    path = exported['det'].with_suffix('.onnx')
    expected, one = measured(tiny.detection, trained.det_checkpoint, '--tta')
    found, other = measured(tiny.detection, path, '--tta')
    assert found['metrics'] == pytest.approx(expected['metrics'], abs=1e-3)
    for results, printed in ((expected, one), (found, other)):
        times = results['seconds_per_image']
        assert list(times) == ['reading', 'pre-processing', 'model', 'post-processing']
        assert all(0 < time < 60 for time in times.values())
        total = 1000 * sum(times.values())
        assert f'time per image: {total:.1f} ms (reading ' in printed


def test_a_classifier_is_as_good(tmp_path: Path) -> None:
    config = tmp_path / 'classifier.py'
    write_classification_config(config, tmp_path / 'data')
    run = run_here(['tools/train.py', config, '--work-dir', tmp_path / 'run'], tmp_path)
    assert run['code'] == 0, run['err']
    checkpoint = tmp_path / 'run' / 'epoch_2.pth'
    path = tmp_path / 'run' / 'model'
    export_config(config, checkpoint, path)
    expected, _ = measured(config, checkpoint)
    found, _ = measured(config, path.with_suffix('.onnx'))
    assert found['metrics'] == expected['metrics']
    found, _ = measured(config, path.with_suffix('.xml'), '--dtype', 'bf16')
    assert found['dtype'] == 'bf16'


def test_infer_writes_boxes_in_bfloat16(
    tiny: SimpleNamespace, trained: SimpleNamespace, exported: dict[str, Path]
) -> None:
    boxes = []
    weights = trained.det_checkpoint
    for name, words in {
        'exact': [weights],
        'low': [weights, '--dtype', 'bf16'],
        'stored': [exported['det'].with_suffix('.xml'), '--dtype', 'bf16'],
    }.items():
        words = ['tools/infer.py', tiny.detection, *words, '--out', name]
        words += ['--score-thr', 0, '--', tiny.data / 'images' / 'validation']
        run = run_here(words, tiny.folder)
        assert run['code'] == 0, run['err']
        found = json.loads((tiny.folder / name / 'predictions.json').read_text())
        boxes.append(max(found, key=lambda one: one['score']))
    for one in boxes[1:]:
        assert one['score'] == pytest.approx(boxes[0]['score'], abs=0.03)
        # bfloat16 has 8 bits of precision; CPUs without it compute in float32.
        assert one != boxes[0] or not computes_bfloat16(nn.Linear(1, 1))


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (('--optimize',), '--optimize: for checkpoints'),
        (('--dtype', 'bf16'), 'ONNX Runtime computes it in float32'),
    ],
)
def test_options_that_files_do_not_have(
    tiny: SimpleNamespace,
    exported: dict[str, Path],
    words: tuple[str, ...],
    message: str,
) -> None:
    path = exported['det'].with_suffix('.onnx')
    run = run_here([TEST, tiny.detection, path, *words], tiny.folder)
    assert run['code'] in (1, 2)
    assert message in run['err']
    assert len(run['err'].splitlines()) == 1


def test_classes_in_another_order_are_refused(
    tiny: SimpleNamespace, trained: SimpleNamespace, exported: dict[str, Path]
) -> None:
    order = 'test_dataloader.dataset.metainfo.classes=[disc,square,background]'
    for path in (trained.seg_checkpoint, exported['seg'].with_suffix('.onnx')):
        job = [TEST, tiny.segmentation, path, '--work-dir', tiny.folder / 'refused']
        run = run_here([*job, '--cfg-options', order], tiny.folder)
        assert run['code'] == 1
        assert f'{path.name}: its classes are in the order square, disc' in (run['err'])
