"""A training of blocks in two processes, for what is shared out over them."""

import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from tiny_training import Layers, settings
from torch import nn
from torch.distributed import fsdp
from torch.testing import assert_close

from mmpoolformer.checkpoints.reading import read_checkpoint
from mmpoolformer.engine.runner import ToolRunner
from mmpoolformer.models import MetaFormer

STEPS = 6
HAS_FSDP = hasattr(
    getattr(fsdp, 'FSDPModule', None), 'set_force_sum_reduction_for_comms'
)
HAS_DEEPSPEED = find_spec('deepspeed') is not None
with_fsdp = pytest.mark.skipif(not HAS_FSDP, reason='torch is too old for FSDP on CPUs')
with_deepspeed = pytest.mark.skipif(
    not HAS_DEEPSPEED, reason='DeepSpeed is not installed'
)


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
    strategy: str | dict | None,
    frozen: int = -1,
    accumulated: int = 1,
    **numbers: object,
) -> Config:
    config = settings(folder, STEPS, **numbers)
    config.launcher, config.strategy = 'pytorch', strategy
    guard = dict(type='mmpoolformer.FiniteGuard', policy='skip', most_in_a_row=2)
    config.custom_hooks = [guard]
    config.model = dict(type='Blocks', frozen_stages=frozen)
    config.optim_wrapper.optimizer.lr = 2e-3
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


def check_resuming(folder: Path, train: Callable, parts: Sequence[str]) -> None:
    """Ask that a training that was stopped ends as one that was not, to the bit.

    `train` takes a folder and the step to stop at, `None` for the end; `parts` of the
    last checkpoints are compared.
    """
    whole, stopped = folder / 'whole', folder / 'stopped'
    train(whole, None)
    for stop in (4, None):
        train(stopped, stop)
    assert log(stopped) == log(whole)
    for part in parts:
        assert_close(last(stopped)[part], last(whole)[part], rtol=0, atol=0)


def check_going_on(folder: Path, train: Callable, order: Sequence[str]) -> None:
    """Ask that one strategy goes on from what another has saved.

    `train` takes a folder, the strategy and the step to stop at.
    """
    whole, changed = folder / 'whole', folder / 'changed'
    train(whole, 'ddp', None)
    for stop, strategy in zip((4, None), order, strict=True):
        train(changed, strategy, stop)
    for one, other in zip(log(changed), log(whole), strict=True):
        assert one == pytest.approx(other, rel=1e-3)
