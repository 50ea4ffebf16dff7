"""Parameters sharded over two processes, against an unsharded model in each."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from tiny_training import Layers, settings, train
from torch import nn
from torch.testing import assert_close
from two_processes import in_two_processes

from mmpoolformer.checkpoints.reading import read_checkpoint
from mmpoolformer.engine.fsdp import is_sharded, shards
from mmpoolformer.engine.runner import ToolRunner
from mmpoolformer.models import MetaFormer
from mmpoolformer.utils.errors import UserError

pytestmark = pytest.mark.slow

STEPS = 6


@MODELS.register_module()
class Blocks(Layers):
    """A backbone for numbers, spread over a picture, with SyncBN on its last map."""

    def __init__(self, frozen_stages: int = -1) -> None:
        BaseModel.__init__(self)
        arch = dict(depths=(1, 1, 1, 1), dims=(8, 11, 24, 32), layer_scale_init=0.5)
        self.spread = nn.Linear(50, 3 * 32 * 32)
        self.backbone = MetaFormer(arch, frozen_stages=frozen_stages)
        self.norm = nn.SyncBatchNorm(32)
        self.head = nn.Linear(32, 1)

    def net(self, inputs: torch.Tensor) -> torch.Tensor:
        maps = self.backbone(self.spread(inputs).unflatten(1, (3, 32, 32)))
        more = sum((i + 1) * m[:, 0].mean((1, 2)) for i, m in enumerate(maps))
        return self.head(self.norm(maps[-1]).mean((2, 3))) + more[:, None]

    def init_weights(self) -> None:
        torch.manual_seed(7)
        for layer in (self.spread, self.head):
            nn.init.normal_(layer.weight, std=0.1)


def config_of(
    folder: Path,
    strategy: object,
    frozen: int = -1,
    accumulated: int = 1,
    **numbers: object,
) -> Config:
    config = settings(folder, STEPS, **numbers)
    config.launcher, config.strategy = 'pytorch', strategy
    guard = dict(type='mmpoolformer.FiniteGuard', policy='skip', most_in_a_row=2)
    config.custom_hooks = [guard]
    config.model = dict(type='Blocks', frozen_stages=frozen)
    # With 1e-8, gradients that are zero but for rounding would move parameters.
    config.optim_wrapper.optimizer.update(lr=2e-3, eps=1e-5)
    config.optim_wrapper.clip_grad = dict(max_norm=0.5)
    config.optim_wrapper.accumulative_counts = accumulated
    return config


class StopAt(Hook):
    """Ends a run when its checkpoint is written."""

    priority = 'LOWEST'

    def __init__(self, step: int | None) -> None:
        self.step = step

    def after_train_iter(self, runner: ToolRunner, **_: object) -> None:
        if runner.iter + 1 == self.step:
            raise SystemExit


def log(folder: Path) -> list[dict]:
    lines = (folder / 'train_log.jsonl').read_text().splitlines()
    return [json.loads(line.replace('null', 'NaN')) for line in lines]


def last(folder: Path) -> dict:
    return read_checkpoint(folder / f'iter_{STEPS}.pth')


def _train(
    folder: Path, strategy: str, options: dict, stop: int | None, rank: int
) -> int:
    try:
        runner = train(config_of(folder, strategy, **options), StopAt(stop))
    except SystemExit:
        return 0
    parameters = list(runner.model.parameters())
    if strategy == 'fsdp':
        assert all(map(is_sharded, parameters))
        held = sum(p.to_local().numel() for p in parameters)
        assert held < 0.6 * sum(p.numel() for p in parameters)
    if rank == 0:
        norm = runner.message_hub.get_scalar('train/grad_norm').current()
        (folder / 'norm.json').write_text(json.dumps(norm))
    return 0


def train_both(
    folder: Path, strategy: str, stop: int | None = None, **options: object
) -> None:
    meet = folder.with_name(f'{folder.name}_{stop}_meet')
    work = partial(_train, folder, strategy, options, stop)
    assert in_two_processes(work, meet) == [0, 0]


@pytest.mark.parametrize(
    'options',
    [
        dict(frozen=2, accumulated=3),
        dict(bad=(3,), steep=(10,)),
        pytest.param(dict(), marks=pytest.mark.long),
    ],
)
def test_losses_and_checkpoints_are_those_of_whole_models(
    tmp_path: Path, options: dict
) -> None:
    whole, shared = tmp_path / 'whole', tmp_path / 'shared'
    train_both(whole, 'ddp', **options)
    train_both(shared, 'fsdp', **options)
    assert len(log(whole)) == STEPS
    for one, other in zip(log(shared), log(whole), strict=True):
        assert one == pytest.approx(other, rel=1e-3, nan_ok=True)
    norms = [json.loads((f / 'norm.json').read_text()) for f in (shared, whole)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3, nan_ok=True)
    ours, theirs = last(shared), last(whole)
    assert_close(ours['state_dict'], theirs['state_dict'], rtol=1e-2, atol=1e-3)
    assert ours['optimizer']['param_groups'] == theirs['optimizer']['param_groups']
    for number, known in theirs['optimizer']['state'].items():
        assert_close(ours['optimizer']['state'][number], known, rtol=1e-2, atol=1e-3)


def test_a_resumed_run_equals_one_that_never_stopped(tmp_path: Path) -> None:
    """Stopped while gradients wait for their step; equal to the bit."""
    whole, stopped = tmp_path / 'whole', tmp_path / 'stopped'
    train_both(whole, 'fsdp', accumulated=3)
    for stop in (4, None):
        train_both(stopped, 'fsdp', stop, accumulated=3)
    assert log(stopped) == log(whole)
    for part in ('state_dict', 'optimizer'):
        assert_close(last(stopped)[part], last(whole)[part], rtol=0, atol=0)


@pytest.mark.parametrize('order', [('ddp', 'fsdp'), ('fsdp', 'ddp')])
def test_each_way_goes_on_from_the_other(tmp_path: Path, order: tuple) -> None:
    whole, changed = tmp_path / 'whole', tmp_path / 'changed'
    train_both(whole, 'ddp')
    for stop, strategy in zip((4, None), order, strict=True):
        train_both(changed, strategy, stop)
    for one, other in zip(log(changed), log(whole), strict=True):
        assert one == pytest.approx(other, rel=1e-3)


@pytest.mark.parametrize('strategy', [None, 'ddp', dict(type='DDPStrategy')])
def test_models_are_whole_unless_told_otherwise(strategy: object) -> None:
    assert not shards(Config(dict(strategy=strategy)))


@pytest.mark.parametrize(
    'strategy',
    ['zero', 'deepspeed', 3, ['fsdp'], {}, dict(type='DDPStrategy', x=1)],
)
def test_strategies_that_are_not_there_are_refused(
    tmp_path: Path, strategy: object
) -> None:
    with pytest.raises(UserError, match=r"strategy=.*: choose 'ddp' or 'fsdp'"):
        train(config_of(tmp_path, strategy))


def _is_refused(folder: Path, change: dict, words: str, rank: int) -> int:
    config = config_of(folder, 'fsdp')
    config.merge_from_dict(change)
    with pytest.raises(UserError, match=words):
        ToolRunner.from_cfg(config).prepare_training()
    return 0


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'custom_hooks': [dict(type='EMAHook')]}, 'fsdp: not with EMAHook'),
        ({'optim_wrapper.type': 'AmpOptimWrapper'}, 'fsdp: not with --amp'),
    ],
)
def test_what_does_not_go_with_it_is_refused(
    tmp_path: Path, change: dict, words: str
) -> None:
    work = partial(_is_refused, tmp_path / 'run', change, words)
    assert in_two_processes(work, tmp_path / 'meet') == [0, 0]


def test_one_process_alone_is_refused(tmp_path: Path) -> None:
    config = config_of(tmp_path, 'fsdp')
    config.launcher = 'none'
    with pytest.raises(UserError, match=r'start them by tools/dist_train\.sh'):
        train(config)


def test_a_torch_without_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, 'fsdp')
    config.launcher = 'none'
    monkeypatch.delattr('torch.distributed.fsdp.FSDPModule')
    with pytest.raises(UserError, match=r'fsdp: needs a newer torch than'):
        train(config)
