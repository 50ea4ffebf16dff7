"""Resumed after any iteration, a training is the one that never stopped."""

import builtins
import json
import os
import random
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from tiny_data import (
    write_classification_config,
    write_data,
    write_detection_config,
    write_segmentation_config,
)
from tool_process import run_here

from mmpoolformer.engine.signals import STOPPED_CODE

pytestmark = pytest.mark.slow

# On top of the tiny configs: random pictures, averaged weights, a schedule.
COMMON = """
custom_hooks = [
    dict(type='EMAHook', ema_type='ExponentialMovingAverage', momentum=0.1)]
"""
DETECTION = """
train_dataloader['dataset']['pipeline'] = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomResize', scale=(64, 64), ratio_range=(0.7, 1.3)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDetInputs')]
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=7),
    dict(type='MultiStepLR', by_epoch=True, milestones=[1, 2], gamma=0.5)]
train_cfg = dict(max_epochs=3, val_interval=3)
"""
SEGMENTATION = """
train_dataloader['dataset']['pipeline'] = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='RandomResize', scale=(64, 64), ratio_range=(1.0, 1.5)),
    dict(type='RandomCrop', crop_size=(64, 64), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs')]
model['decode_head']['dropout_ratio'] = 0.3
param_scheduler = [dict(type='PolyLR', power=0.9, begin=0, end=12, by_epoch=False)]
train_cfg = dict(max_iters=12, val_interval=6)
"""
STOPPING = """
_base_ = '{base}'
custom_hooks = [{hook}, *_base_.custom_hooks]
"""
# Iterations in all, pictures in a batch, options.
TASKS = {
    'detection': (12, 4, ()),
    'segmentation': (12, 4, ('--amp',)),
    'classification': (12, 4, ('--amp',)),
}
SIGNALS = ('SIGTERM', 'SIGUSR1')


@HOOKS.register_module()
class SignalInIteration(Hook):
    """Sends this process a signal in an iteration."""

    def __init__(self, name: str, at: int) -> None:
        self.name, self.at = name, at

    def before_train_iter(self, runner: Runner, **_: object) -> None:
        if runner.iter + 1 == self.at:
            os.kill(os.getpid(), getattr(signal, self.name))


@pytest.fixture(scope='module')
def configs(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp('resuming')
    write_data(folder / 'data')
    paths = {name: folder / f'{name}.py' for name in TASKS}
    write_detection_config(paths['detection'], folder / 'data')
    write_segmentation_config(paths['segmentation'], folder / 'data')
    for name, text in (('detection', DETECTION), ('segmentation', SEGMENTATION)):
        paths[name].write_text(paths[name].read_text() + text + COMMON)
    write_classification_config(paths['classification'], folder / 'images', COMMON)
    return SimpleNamespace(folder=folder, **paths)


@pytest.fixture(scope='module')
def runs(configs: SimpleNamespace, long_mode: bool) -> dict[str, list[dict]]:
    """For each task a run that never stops, and others stopped and resumed."""
    generator = random.Random(5)
    found = {}
    for name, (steps, _, options) in TASKS.items():
        folder, config = configs.folder / name, getattr(configs, name)
        found[name] = [train(config, folder / 'whole', *options)]
        stops = generator.sample(range(1, steps), steps - 1 if long_mode else 1)
        for number, at in enumerate(stops):
            work, stopping = folder / f'stopped_at_{at}', folder / f'stop_at_{at}.py'
            stop = dict(type='SignalInIteration', name=SIGNALS[number % 2], at=at)
            stopping.write_text(STOPPING.format(base=config, hook=stop))
            found[name] += [
                train(stopping, work, *options) | dict(at=at),
                train(config, work, *options, '--resume', 'auto') | dict(at=at),
            ]
    return found


def train(config: Path, work: Path, *options: str) -> dict:
    """Train; return what `run_here` does, and how many pictures were `opened`."""
    opened = []

    def watched(file: object, *arguments: object, **more: object) -> object:
        if 'images/train' in str(file):
            opened.append(file)
        return plain_open(file, *arguments, **more)

    plain_open = builtins.open
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtins, 'open', watched)
        command = ['tools/train.py', config, '--no-check', '--work-dir', work]
        done = run_here([*command, *options], config.parent)
    return {**done, 'opened': len(opened)}


def lines(work: Path) -> list[dict]:
    text = (work / 'train_log.jsonl').read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize('name', TASKS)
def test_a_signal_ends_a_run_after_its_iteration(
    runs: dict, configs: SimpleNamespace, name: str
) -> None:
    whole, *others = runs[name]
    assert whole['code'] == 0, whole['err'][-4000:]
    for stopped in others[::2]:
        assert stopped['code'] == STOPPED_CODE, stopped['err'][-4000:]
        assert f'after iteration {stopped["at"]}, and saved' in stopped['out']
        assert 'Traceback' not in stopped['err']


@pytest.mark.parametrize('name', TASKS)
def test_resumed_is_as_if_never_stopped(
    runs: dict, configs: SimpleNamespace, name: str
) -> None:
    folder = configs.folder / name
    steps = TASKS[name][0]
    expected = lines(folder / 'whole')
    assert [line['iter'] for line in expected] == list(range(1, steps + 1))
    assert len({line['loss'] for line in expected}) == steps
    last = sorted((folder / 'whole').glob('*_*.pth'), key=_age)[-1].name
    one = torch.load(folder / 'whole' / last, weights_only=False)
    for resumed in runs[name][2::2]:
        assert resumed['code'] == 0, resumed['err'][-4000:]
        work = folder / f'stopped_at_{resumed["at"]}'
        assert lines(work) == expected  # to the last bit
        other = torch.load(work / last, weights_only=False)
        for part in ('state_dict', 'ema_state_dict'):
            for key, tensor in one[part].items():
                assert torch.equal(tensor, other[part][key]), key
        assert str(one['param_schedulers']) == str(other['param_schedulers'])
        # What the signal had saved has gone.
        assert {p.name for p in work.glob('*.pth')} == {
            p.name for p in (folder / 'whole').glob('*.pth')
        }


def _age(path: Path) -> int:
    return path.stat().st_mtime_ns


@pytest.mark.parametrize('name', TASKS)
def test_what_was_seen_is_not_read_again(
    runs: dict, configs: SimpleNamespace, name: str
) -> None:
    steps, batch, _ = TASKS[name]
    for resumed in runs[name][2::2]:
        assert resumed['opened'] == (steps - resumed['at']) * batch
