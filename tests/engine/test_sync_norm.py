"""SyncBN of two processes on CPUs, against BatchNorm in one."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.registry import MODELS
from tiny_training import Layers, settings, train
from torch import nn
from torch.testing import assert_close
from two_processes import in_two_processes

from mmpoolformer.checkpoints.reading import read_checkpoint
from mmpoolformer.engine.runner import ToolRunner
from mmpoolformer.engine.sync_norm import CpuSyncBatchNorm, use_cpu_norms

NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}
STEPS = 12


@MODELS.register_module()
class JoinedLayers(Layers):
    """With SyncBN, and without what is random."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        norm = nn.SyncBatchNorm(150)
        self.net = nn.Sequential(nn.Linear(50, 150), norm, nn.Linear(150, 1))


class Losses(Hook):
    """Writes what this process's loss was in each step."""

    def __init__(self, path: Path) -> None:
        self.path, self.found = path, []

    def after_train_iter(self, runner: ToolRunner, outputs: dict, **_: object) -> None:
        self.found.append(outputs['loss'].item())
        self.path.write_text(json.dumps(self.found))


def filled(norm: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for tensor in norm.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5, generator=generator)
    return norm


def _as_one(shape: tuple, dtype: torch.dtype, options: dict, rank: int) -> int:
    """Compare with BatchNorm of all images; the first process has two of them."""
    rounding = {torch.float32: 5e-5, torch.float64: 1e-12}[dtype]
    close = partial(assert_close, rtol=rounding, atol=rounding)
    share = slice(2) if rank == 0 else slice(2, None)
    one = filled(NORMS[len(shape)](shape[1], **options)).to(dtype)
    model = nn.Sequential(filled(nn.SyncBatchNorm(shape[1], **options)).to(dtype))
    use_cpu_norms(model)
    (joined,) = model
    assert type(joined) is CpuSyncBatchNorm
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        x, slope = (3 + torch.randn(2, *shape, generator=generator, dtype=dtype)) / 2
        ours = x[share].clone().requires_grad_()
        x.requires_grad_()
        y, our_y = one(x), joined(ours)
        (slope * y).square().sum().backward()
        (slope[share] * our_y).square().sum().backward()
        close(our_y, y[share])
        close(ours.grad, x.grad[share])
    for own, parameter in zip(joined.parameters(), one.parameters(), strict=True):
        dist.all_reduce(own.grad)
        close(own.grad, parameter.grad)
    close(joined.state_dict(), one.state_dict())
    close(joined.eval()(ours), one.eval()(x[share]))
    return 0


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ('shape', 'options'),
    [
        ((5, 3), {}),
        ((5, 3, 7), {'momentum': None}),
        ((5, 3, 4, 6), {'momentum': 0.3, 'eps': 0.1}),
        ((2, 3, 4, 6), {}),  # none in the second process
        ((5, 3, 4, 6), {'affine': False}),
        ((5, 3, 4, 6), {'track_running_stats': False}),
    ],
)
def test_two_processes_normalise_as_one(
    shape: tuple, options: dict, dtype: torch.dtype, tmp_path: Path
) -> None:
    work = partial(_as_one, shape, dtype, options)
    assert in_two_processes(work, tmp_path / 'meet') == [0, 0]


def _in_bfloat16(rank: int) -> int:
    norm = CpuSyncBatchNorm(3)
    found = norm(torch.full((2, 3, 2, 2), 1000.0 + 8 * rank, dtype=torch.bfloat16))
    assert found.dtype == torch.bfloat16
    assert_close(norm.running_mean, torch.full((3,), 100.4))
    assert_close(found.float(), torch.full((2, 3, 2, 2), 2.0 * rank - 1))
    return 0


def test_statistics_of_bfloat16_are_taken_in_float32(tmp_path: Path) -> None:
    assert in_two_processes(_in_bfloat16, tmp_path / 'meet') == [0, 0]


def test_refuses_what_batch_norm_refuses() -> None:
    with pytest.raises(ValueError, match='at least 2 dimensions'):
        CpuSyncBatchNorm(3)(torch.zeros(3))


def _train(folder: Path, share: int, rank: int) -> int:
    config = settings(folder / 'run', STEPS)
    config.model.type = 'JoinedLayers'
    config.train_dataloader.batch_size = 8 // share
    config.train_dataloader.dataset.noise = 0.0
    config.optim_wrapper.optimizer = dict(type='SGD', lr=0.01, momentum=0.9)
    config.launcher = 'pytorch' if share > 1 else 'none'
    train(config, Losses(folder / f'losses_{rank}.json'))
    return 0


def test_two_processes_have_the_losses_of_one(tmp_path: Path) -> None:
    """The same images in each step, shared; every process has its half of the loss."""
    one, two = tmp_path / 'one', tmp_path / 'two'
    one.mkdir()
    two.mkdir()
    assert _train(one, 1, 0) == 0
    assert in_two_processes(partial(_train, two, 2), tmp_path / 'meet') == [0, 0]
    losses = torch.tensor(json.loads((one / 'losses_0.json').read_text()))
    halves = [json.loads((two / f'losses_{r}.json').read_text()) for r in range(2)]
    assert len(losses) == STEPS
    assert losses[-3:].mean() < 0.8 * losses[:3].mean()
    assert_close(torch.tensor(halves).mean(0), losses, rtol=1e-4, atol=1e-6)
    weights = [
        read_checkpoint(folder / 'run' / f'iter_{STEPS}.pth')['state_dict']
        for folder in (one, two)
    ]
    assert_close(weights[1], weights[0], rtol=1e-2, atol=1e-3)
    validations = [
        json.loads((folder / 'run' / 'val_results.json').read_text())[-1]['metrics']
        for folder in (one, two)
    ]
    assert validations[1] == pytest.approx(validations[0], rel=1e-4)
