import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from tool_process import run_many

pytestmark = pytest.mark.slow

# Beside a backend of the config's own, which keeps TensorBoard out by itself.
OWN_FILES = {'type': 'LocalVisBackend', 'scalar_save_file': 'own.json'}
TRACKED = [
    *('--log', 'tensorboard', '--cfg-options'),
    f'visualizer.vis_backends=[{OWN_FILES}]',
]


def losses(work_dir: Path) -> list[float]:
    (scalars,) = work_dir.glob('*/vis_data/scalars.json')
    entries = [json.loads(line) for line in scalars.read_text().splitlines()]
    return [entry['loss'] for entry in entries if 'loss' in entry]


def load(checkpoint: Path) -> dict:
    return torch.load(checkpoint, weights_only=False)


def test_detector_learns(trained: SimpleNamespace) -> None:
    found = losses(trained.det)
    assert all(math.isfinite(loss) for loss in found)
    assert found[-1] < found[0] / 2
    assert load(trained.det_checkpoint)['meta']['epoch'] == 10


def test_segmentor_trains(trained: SimpleNamespace) -> None:
    found = losses(trained.seg)
    assert len(found) == 4
    assert all(math.isfinite(loss) for loss in found)
    assert load(trained.seg_checkpoint)['meta']['iter'] == 4


def test_metrics_of_each_validation_are_kept(trained: SimpleNamespace) -> None:
    detection = json.loads((trained.det / 'val_results.json').read_text())
    assert [(e['epoch'], e['iter']) for e in detection] == [(10, 40)]
    parts = ['mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l']
    assert list(detection[0]['metrics']) == [f'coco/bbox_{part}' for part in parts]
    printed = re.search(r'coco/bbox_mAP: ([\d.]+)', trained.det_output)
    assert detection[0]['metrics']['coco/bbox_mAP'] == float(printed[1])
    segmentation = json.loads((trained.seg / 'val_results.json').read_text())
    assert [e['iter'] for e in segmentation] == [2, 4]
    assert set(segmentation[0]['metrics']) == {'aAcc', 'mIoU', 'mAcc'}
    assert f'results: {trained.seg / "val_results.json"}' in trained.seg_output


def test_a_training_draws_its_curves(trained: SimpleNamespace) -> None:
    for work_dir in (trained.det, trained.seg):
        with Image.open(work_dir / 'curves.png') as picture:
            assert picture.height > 0.8 * picture.width  # loss, validation, rate


def test_tensorboard_gets_the_same_numbers(trained: SimpleNamespace) -> None:
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = trained.det.glob('*/vis_data/events.out.tfevents.*')
    accumulator = EventAccumulator(str(events))
    accumulator.Reload()
    found = [point.value for point in accumulator.Scalars('loss')]
    assert found == pytest.approx(losses(trained.det), rel=1e-3)
    assert 'coco/bbox_mAP' in accumulator.Tags()['scalars']


def test_tensorboard_joins_what_the_config_has(continued: SimpleNamespace) -> None:
    (place,) = (continued.work / 'options').glob('*/vis_data')
    assert (place / 'own.json').is_file()
    assert list(place.glob('events.out.tfevents.*'))


@pytest.fixture(scope='module')
def continued(tiny: SimpleNamespace, trained: SimpleNamespace) -> SimpleNamespace:
    """Trainings that go on, and one with scaled rate and mixed precision."""
    work = tiny.folder / 'continued'
    train = ['tools/train.py', tiny.segmentation, '--work-dir']
    short = ['--cfg-options', 'train_cfg.max_iters=2']
    detector = [
        'tools/train.py',
        tiny.detection,
        '--resume',
        trained.det / 'epoch_5.pth',
    ]
    runs = run_many(
        [
            [*train, work / 'auto', '--resume', *short],
            [*train, work / 'auto', '--resume'],
            [
                *detector,
                '--work-dir',
                work / 'file',
                '--cfg-options',
                'train_cfg.max_epochs=6',
            ],
            [*train, work / 'options', '--auto-scale-lr', '--amp', *TRACKED, *short],
        ],
        tiny.folder,
    )
    for run in runs:
        assert run['code'] == 0, run['err'] + run['out'][-2000:]
    names = ('first', 'second', 'file', 'options')
    return SimpleNamespace(work=work, **dict(zip(names, runs, strict=True)))


def test_resumed_training_ends_as_an_unbroken_one(
    trained: SimpleNamespace, continued: SimpleNamespace
) -> None:
    assert 'resumed epoch' not in continued.first['out']
    assert 'resumed epoch: 0, iter: 2' in continued.second['out']
    unbroken = load(trained.seg_checkpoint)
    resumed = load(continued.work / 'auto' / 'iter_4.pth')
    for name, tensor in unbroken['state_dict'].items():
        assert torch.equal(tensor, resumed['state_dict'][name]), name
    for number, state in unbroken['optimizer']['state'].items():
        for name, tensor in state.items():
            other = resumed['optimizer']['state'][number][name]
            assert torch.equal(tensor, other), (number, name)
    kept = (continued.work / 'auto' / 'val_results.json').read_text()
    assert kept == (trained.seg / 'val_results.json').read_text()


def test_resume_from_a_file(continued: SimpleNamespace) -> None:
    assert 'resumed epoch: 5, iter: 20' in continued.file['out']
    epochs = re.findall(r'Epoch\(train\) +\[(\d+)\]', continued.file['out'])
    assert set(epochs) == {'6'}
    meta = load(continued.work / 'file' / 'epoch_6.pth')['meta']
    assert (meta['epoch'], meta['iter']) == (6, 24)


def test_learning_rate_is_scaled_to_the_batch(continued: SimpleNamespace) -> None:
    # 5e-4 for 32 images a step; this run has 4.
    rates = re.findall(r' lr: (\S+)', continued.options['out'])
    assert [float(rate) for rate in rates] == [6.25e-5, 6.25e-5]


def test_mixed_precision_trains_on_a_cpu(continued: SimpleNamespace) -> None:
    assert 'Mixed precision on the CPU: bfloat16' in continued.options['out']
    found = re.findall(r' loss: (\S+)', continued.options['out'])
    assert len(found) == 2
    assert all(math.isfinite(float(loss)) for loss in found)
