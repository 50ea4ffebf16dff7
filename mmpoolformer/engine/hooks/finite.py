"""A loss or gradient that is no number ends a run, or its step, but not its weights."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.optim import Optimizer

from mmpoolformer.engine.distributed import all_true
from mmpoolformer.engine.fsdp import is_sharded, own_shard
from mmpoolformer.engine.hooks.logs import learning_rates
from mmpoolformer.engine.optimizers import by_name
from mmpoolformer.registry import HOOKS
from mmpoolformer.utils.errors import UserError
from mmpoolformer.utils.files import write_json

POLICIES = ('stop', 'skip')
# What is told of a picture, where the pipeline knows it.
FACTS = (
    'img_path',
    'img_id',
    'ori_shape',
    'img_shape',
    'scale_factor',
    'flip',
    'flip_direction',
)
NAMES = 20  # parameters that are named
ELSEWHERE = 'a number of another process is not finite'


@HOOKS.register_module()
class FiniteGuard(Hook):
    """Keep infinite and undefined numbers out of the weights.

    The optimizer makes no step with a gradient that is not finite, whatever the
    policy, and `WORK_DIR/nonfinite/` gets a JSON file with pictures, scales and losses
    of the batch, one for each process; all processes decide alike.

    With loss scaling (float16) a gradient that overflows is no fault: the scaler
    skips the step and lowers its scale. It counts as one where the loss itself is not
    finite, or where `most_overflows` steps in a row were skipped so.

    Args:
        policy: `'stop'` ends the run; `'skip'` goes on with the next batch, and resets
            running statistics to what they were before.
        most_in_a_row: Batches in a row that `'skip'` passes over; with one more the
            run ends.
        most_overflows: Overflows in a row that are left to the loss scaler. From its
            usual start at 2**16, 16 bring the scale to 1.

    Raises:
        ValueError: If an option is out of its range.
    """

    priority = 'VERY_HIGH'

    def __init__(
        self, policy: str = 'stop', most_in_a_row: int = 10, most_overflows: int = 40
    ) -> None:
        if policy not in POLICIES:
            raise ValueError(f'policy={policy!r}: choose from {", ".join(POLICIES)}')
        for name, value in (
            ('most_in_a_row', most_in_a_row),
            ('most_overflows', most_overflows),
        ):
            if value < 1:
                raise ValueError(f'{name}={value}: must be from 1')
        self.policy = policy
        self.most_in_a_row, self.most_overflows = most_in_a_row, most_overflows
        self.in_a_row = self.overflows = 0
        self.bad: list[Tensor] = []  # parameters
        self.scale: float | None = None
        self.statistics: list[Tensor] = []

    def before_train(self, runner: Runner) -> None:
        """Look at gradients right before each step of the optimizer."""
        for one in by_name(runner.optim_wrapper).values():
            one.optimizer.register_step_pre_hook(self._check_gradients)
        self.scale = loss_scale(runner)

    def before_train_iter(self, runner: Runner, *_: object, **__: object) -> None:
        """Keep the running statistics of norms, if steps may be skipped."""
        if self.policy == 'skip':
            self.statistics = [buffer.clone() for buffer in statistics(runner.model)]

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Stop, or forget the batch, if a number is not finite.

        Raises:
            UserError: By the policy.
        """
        fault = self._fault(runner, outputs or {})
        if all_true(fault is None):
            self.in_a_row = 0
            return
        path = self._dump(runner, fault or ELSEWHERE, data_batch, outputs or {})
        self.bad = []
        story = f'iteration {runner.iter + 1}: {fault or ELSEWHERE}'
        self.in_a_row += 1
        if self.policy == 'stop' or self.in_a_row > self.most_in_a_row:
            raise UserError(
                f'{story}; stopped before updating the weights. The batch is recorded '
                f'in {path}. Check the data, lower the learning rate, clip gradients '
                '(optim_wrapper.clip_grad), or skip such batches '
                "(policy='skip' of FiniteGuard)"
            )
        for buffer, old in zip(statistics(runner.model), self.statistics, strict=True):
            buffer.copy_(old)
        runner.logger.warning(f'{story}; skipped, see {path}')

    def _check_gradients(self, optimizer: Optimizer, *_: object) -> None:
        """Take away gradients that are not finite, so that the step does nothing."""
        parameters = [p for group in optimizer.param_groups for p in group['params']]
        gradients = [own_shard(p.grad) for p in parameters if p.grad is not None]
        # Each process holds shards of its own: they must all do the same.
        agree = all_true if any(map(is_sharded, parameters)) else bool
        if agree(not gradients or bool(torch.isfinite(total(gradients)))):
            return
        self.bad = [
            p
            for p in parameters
            if p.grad is not None and not own_shard(p.grad).isfinite().all()
        ]
        if not agree(not self.bad):
            optimizer.zero_grad(set_to_none=True)

    def _fault(self, runner: Runner, outputs: dict) -> str | None:
        """Say what is wrong in this process."""
        self._count_overflows(runner)
        loss = number(outputs.get('loss', 0.0))
        if not math.isfinite(loss):
            return f'the loss is {loss}'
        if self.bad or getattr(runner.optim_wrapper, 'was_skipped', False):
            return 'a gradient is not finite'
        if self.overflows >= self.most_overflows:
            return f'gradients overflow even at a loss scale of {self.scale:g}'
        return None

    def _count_overflows(self, runner: Runner) -> None:
        """Count the steps in a row that a loss scaler has skipped."""
        before, self.scale = self.scale, loss_scale(runner)
        if self.scale is None or before is None:
            return
        if self.scale < before:
            self.overflows += 1
        elif runner.optim_wrapper.should_update():
            self.overflows = 0

    def _dump(
        self, runner: Runner, fault: str, data_batch: object, outputs: dict
    ) -> Path:
        """Write what the batch was; return the file."""
        name = f'iter_{runner.iter + 1}_rank{get_rank()}.json'
        path = Path(runner.work_dir) / 'nonfinite' / name
        bad = {id(parameter) for parameter in self.bad}
        names = [n for n, p in runner.model.named_parameters() if id(p) in bad]
        content = {
            'iter': runner.iter + 1,
            'epoch': runner.epoch + 1,
            'rank': get_rank(),
            'policy': self.policy,
            'fault': fault,
            # As text: JSON has no word for them.
            'losses': {key: str(number(value)) for key, value in outputs.items()},
            'gradients': names[:NAMES],
            'bad_gradients': len(names),
            **learning_rates(runner.optim_wrapper),
            'loss_scale': self.scale,
            'pictures': pictures(data_batch),
        }
        write_json(path, content)
        return path


def pictures(batch: object) -> list[dict]:
    """Return what is known of the pictures of a batch.

    Args:
        batch: As a data loader gives it: with `data_samples` (mmdet, mmseg), or with
            `img_path` and `targets` (classification).
    """
    batch = batch if isinstance(batch, Mapping) else {}
    samples = batch.get('data_samples')
    if samples is not None:
        facts = [getattr(sample, 'metainfo', {}) for sample in samples]
        return [{key: one[key] for key in FACTS if key in one} for one in facts]
    found = [{'img_path': path} for path in batch.get('img_path', ())]
    for one, target, inputs in zip(
        found, batch.get('targets', ()), batch.get('inputs', ()), strict=False
    ):
        one |= {'target': target, 'input_shape': list(inputs.shape)}
    return found


def number(value: object) -> object:
    """Return a number or, of a tensor, its elements."""
    return value.tolist() if hasattr(value, 'tolist') else value


def statistics(model: nn.Module) -> list[Tensor]:
    """Return the running statistics of a model's norms."""
    norms = [m for m in model.modules() if hasattr(m, 'running_mean')]
    return [buffer for norm in norms for buffer in norm.buffers(recurse=False)]


def total(gradients: list[Tensor]) -> Tensor:
    """Return a number that is not finite if one of the gradients is not."""
    return torch.stack(torch._foreach_norm(gradients)).sum()


def loss_scale(runner: Runner) -> float | None:
    """Return the loss scale of mixed precision, if there is one."""
    scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
    return None if scaler is None else scaler.get_scale()
