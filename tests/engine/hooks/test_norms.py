"""Running statistics in two processes that see different images."""

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from tiny_training import settings, train
from torch import nn
from torch.testing import assert_close
from two_processes import in_two_processes

from mmpoolformer.checkpoints import read_checkpoint

# The running mean in each process.
MEANS = {0: 1.0, 1: 3.0}


class KnownMeans(Hook):
    """Writes statistics over those of the training."""

    priority = 'HIGH'  # before EMAHook copies them

    def after_train_iter(self, runner: Runner, *_: object, **__: object) -> None:
        norm = runner.model.module.net[1]
        norm.running_mean.fill_(MEANS[runner.rank])
        norm.running_var.fill_(0.1)  # which float32 does not have


class Validated(Hook):
    """Keeps what is validated."""

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self.norms: list[nn.Module] = []

    def before_val_epoch(self, runner: Runner) -> None:
        self.norms.append(copy.deepcopy(runner.model.module.net[1]))


def _trains(folder: Path, with_averages: bool, rank: int) -> int:
    config = settings(folder, 4)
    config.launcher = 'pytorch'
    config.train_cfg.val_interval = 2
    config.default_hooks.checkpoint.update(interval=3, max_keep_ckpts=-1)
    if not with_averages:
        config.custom_hooks = []
    found = Validated()
    runner = train(config, KnownMeans(), found, resume=None)
    mean = torch.full((150,), 2.0)
    assert_close(found.norms[0].running_mean, mean)
    assert torch.equal(found.norms[0].running_var, torch.full((150,), 0.1))
    # After validation the hook of averaged weights puts the model's own back.
    own = runner.model.module.net[1].running_mean
    assert_close(own, mean)
    # Saved where there is no validation.
    torch.distributed.barrier()
    saved = read_checkpoint(folder / 'iter_3.pth')
    for part in ('state_dict', 'ema_state_dict')[: 1 + with_averages]:
        (key,) = (k for k in saved[part] if k.endswith('net.1.running_mean'))
        assert_close(saved[part][key], mean)
    return 0


@pytest.mark.parametrize('with_averages', [True, False])
def test_processes_validate_and_save_the_mean_of_their_statistics(
    with_averages: bool, tmp_path: Path
) -> None:
    work = partial(_trains, tmp_path / 'run', with_averages)
    assert in_two_processes(work, tmp_path / 'meet') == [0, 0]
