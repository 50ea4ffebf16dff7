"""Pretrain, then detect: what is printed, drawn and skipped, in second processes."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from tool_process import run_many

from mmpoolformer.visual.curves import find_logs, read_curves

pytestmark = pytest.mark.slow

ARCH = {'depths': (1, 1, 1, 1), 'dims': (8, 16, 16, 16)}
LOADERS = [
    f'{part}_dataloader.{option}'
    for part in ('train', 'val')
    for option in ('num_workers=0', 'persistent_workers=False')
]
CLASSIFIER = [
    *(f'model.backbone.arch.{k}=[{",".join(map(str, v))}]' for k, v in ARCH.items()),
    'train_cfg.max_epochs=1',
    'param_scheduler.t_initial=2',
    *LOADERS,
]
DETECTOR = [
    *(f'model.backbone.arch.{k}=[{",".join(map(str, v))}]' for k, v in ARCH.items()),
    'model.neck.in_channels=[16,16,16]',
    'model.neck.out_channels=16',
    'model.bbox_head.in_channels=16',
    'model.bbox_head.feat_channels=16',
    'model.bbox_head.stacked_convs=1',
    'default_hooks.logger.interval=1',
    'train_cfg.max_epochs=1',
    *LOADERS,
]


@pytest.fixture(scope='module')
def done(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp('pretrain')
    command = ['tools/pretrain_demo.py', '--data', folder / 'data', '--work-dir']
    command += [folder / 'run', '--train', 12, '--val', 6]
    command += ['--cfg-options', *CLASSIFIER, '--detector-options', *DETECTOR]
    first, again = run_many([command] * 2, folder)
    assert (first['code'], again['code']) == (0, 0), first['err'] + again['err']
    return SimpleNamespace(run=folder / 'run', first=first['out'], again=again['out'])


def read(path: Path) -> dict | list:
    return json.loads(path.read_text())


def test_it_ends_with_all_figures(done: SimpleNamespace) -> None:
    metrics = read(done.run / 'results.json')
    top1 = metrics['classifier']['accuracy/top1']
    *_, picture, classifier, scratch, pretrained = done.first.splitlines()
    assert picture == f'Picture: {done.run / "comparison.png"}'
    assert classifier == f'Classifier: top-1 {top1:.1f} %'
    for line, name in ((scratch, 'from scratch'), (pretrained, 'pretrained')):
        assert line.startswith(f'Detector {name}: box AP ')
    with Image.open(done.run / 'comparison.png') as image:
        assert image.width > image.height > 300


def test_each_training_has_a_log_of_its_own(done: SimpleNamespace) -> None:
    losses = [
        read_curves(find_logs(done.run / name))['loss']
        for name in ('scratch', 'pretrained')
    ]
    assert [curve.steps for curve in losses] == [tuple(range(1, 7))] * 2
    # Same data, other weights.
    assert losses[0].values != losses[1].values


def test_only_one_detector_starts_from_the_classifier(done: SimpleNamespace) -> None:
    logs = {
        name: next((done.run / name).glob('*/*.log')).read_text()
        for name in ('scratch', 'pretrained')
    }
    report = f'tensors from {done.run / "classifier" / "epoch_1.pth"}'
    assert report in logs['pretrained']
    assert report not in logs['scratch']


def test_a_second_run_trains_nothing(done: SimpleNamespace) -> None:
    assert done.again.count('is done already') == 3
    assert done.again.splitlines()[-4:] == done.first.splitlines()[-4:]
    assert 'training' not in done.again.replace('trainings', '')
