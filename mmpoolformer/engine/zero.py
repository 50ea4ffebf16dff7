"""Training whose optimizer is shared out over the processes: DeepSpeed's ZeRO 1 and 2.

Each process holds the whole model, and a slice of what the optimizer knows of it (stage
1), and of the gradients too (stage 2). Checkpoints are those of any other training:
whole, in one file without code, and read by any number of processes. DeepSpeed's own, a
folder of pickles with a slice in each, are neither written nor read.
"""

import logging
from collections.abc import Mapping
from importlib.util import find_spec
from itertools import count

import torch
from mmengine.dist import all_reduce, is_main_process
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn import Parameter

from mmpoolformer.engine.errors import UserError
from mmpoolformer.engine.sharding import ShardedState

# Those that treat each number alone: the slices cut through parameters.
OPTIMIZERS = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
# What may be set of `zero_optimization`; buckets count numbers of 4 bytes.
ZERO = dict(stage=2, reduce_bucket_size=50_000_000, allgather_bucket_size=50_000_000)
STAGES = (1, 2)
NEVER = 10**12


def zero_settings(options: Mapping) -> dict:
    """Return `zero_optimization` for DeepSpeed.

    Args:
        options: A config's `strategy` without its `type`: `zero_optimization`, or
            nothing, with keys of `ZERO`.

    Raises:
        UserError: If there are other options.
    """
    asked = dict(options.get('zero_optimization') or {})
    if set(options) - {'zero_optimization'} or set(asked) - set(ZERO):
        raise UserError(
            f'strategy, {dict(options)}: of DeepSpeed there is zero_optimization with '
            f'{", ".join(ZERO)}; clip_grad is set in optim_wrapper'
        )
    if asked.get('stage', 2) not in STAGES:
        raise UserError(
            f'strategy, stage={asked["stage"]}: there are 1 and 2; what shares out the '
            'parameters too is --strategy fsdp'
        )
    return {**ZERO, **asked}


def check_zero(runner: Runner) -> None:
    """Refuse what does not go with DeepSpeed, before the optimizer is built.

    Raises:
        UserError: Naming the setting and the cure.
    """
    wrapper = runner.optim_wrapper
    clipping = {'type': 'norm', 'norm_type': 2, **(wrapper.get('clip_grad') or {})}
    if find_spec('deepspeed') is None:
        problem = 'it is not installed; pip install deepspeed ninja'
    elif not runner.distributed:
        problem = 'start several processes by tools/dist_train.sh'
    elif wrapper.get('type', 'OptimWrapper') != 'OptimWrapper':
        problem = 'not with --amp or an optim_wrapper of its own; leave one of them out'
    elif wrapper.get('accumulative_counts', 1) != 1:
        problem = 'not with accumulative_counts; take larger batches or fsdp'
    elif (clipping['type'], clipping['norm_type']) != ('norm', 2):
        problem = 'clip_grad is by max_norm alone'
    else:
        return
    raise UserError(f'--strategy deepspeed: {problem}')


class ZeroOptimWrapper(OptimWrapper):
    """mmengine's wrapper of an optimizer that is handed to DeepSpeed by `start`.

    Until then it is whole, and loads states that are.

    Attributes:
        engine: DeepSpeed's engine, once it has started.
        members: The parameters of each group; DeepSpeed puts one slice in their place.
    """

    engine = None
    members: list[list[Parameter]]

    def start(self, model: nn.Module, zero: Mapping) -> None:
        """Share out the optimizer and what it knows; every process must.

        Args:
            model: The model, with the same weights in all processes.
            zero: What `zero_settings` returns.

        Raises:
            UserError: If the optimizer is none of `OPTIMIZERS`.
        """
        if type(self.optimizer) not in OPTIMIZERS:
            names = ', '.join(one.__name__ for one in OPTIMIZERS)
            raise UserError(
                f'--strategy deepspeed: not with {type(self.optimizer).__name__}, '
                f'which needs whole parameters; choose from {names}'
            )
        self.members = [list(group['params']) for group in self.optimizer.param_groups]
        known = dict(self.optimizer.state)
        self.optimizer.state.clear()
        import deepspeed

        logging.getLogger('DeepSpeed').setLevel(logging.WARNING)
        settings = dict(
            train_micro_batch_size_per_gpu=1,  # only counted
            zero_optimization=dict(zero),
            zero_allow_untested_optimizer=True,
            gradient_clipping=(self.clip_grad_kwargs or {}).get('max_norm', 0.0),
            steps_per_print=NEVER,
        )
        self.engine, *_ = deepspeed.initialize(
            model=model, optimizer=self.optimizer, config=settings
        )
        self._share_out(known)

    @property
    def was_skipped(self) -> bool:
        """Whether the last step was left out for a gradient that is not finite."""
        return self.engine is not None and self.engine.optimizer.overflow

    def backward(self, loss: Tensor, **kwargs: object) -> None:
        """Compute gradients, averaged over the processes."""
        self.engine.backward(loss, **kwargs)
        self._inner_count += 1

    def step(self, **kwargs: object) -> None:
        """Clip, step and forget the gradients."""
        self.engine.step(**kwargs)
        if self.clip_grad_kwargs:
            norm = float(self.engine.get_global_grad_norm())
            self.message_hub.update_scalar('train/grad_norm', norm)

    def zero_grad(self, **kwargs: object) -> None:
        """Do nothing: the step has done it."""

    def whole_state(self) -> dict:
        """Return the state as one process alone would have it; all must ask."""
        state, numbers = self.state_dict(), count()
        state['state'] = {}
        groups = zip(
            self.optimizer.param_groups,
            state['param_groups'],
            self.members,
            strict=True,
        )
        for group, described, members in groups:
            known = self.optimizer.state.get(group['params'][0], {})
            described['params'] = [next(numbers) for _ in members]
            for number, member in zip(described['params'], members, strict=True):
                if member.requires_grad and known:
                    state['state'][number] = {
                        key: _gathered(key, value, member)
                        for key, value in known.items()
                    }
        return state

    def _share_out(self, known: Mapping[Parameter, dict]) -> None:
        """Keep this process's slices of what is known of whole parameters."""
        groups = zip(self.optimizer.param_groups, self.members, strict=True)
        for group, members in groups:
            slice_, seen = group['params'][0], [m for m in members if m in known]
            if not seen:
                continue
            state = {
                key: torch.zeros_like(slice_) if is_cut(key, value) else value
                for key, value in known[seen[0]].items()
            }
            self.optimizer.state[slice_] = state
            for member in seen:
                for key, value in known[member].items():
                    if is_cut(key, value):
                        whole_part, part = _parts(member, value.flatten(), state[key])
                        part.copy_(whole_part)


class ZeroState(ShardedState):
    """Starts DeepSpeed once all is loaded, and puts whole tensors into checkpoints.

    Args:
        zero: What `zero_settings` returns.
    """

    def __init__(self, zero: Mapping) -> None:
        super().__init__()
        self.zero = zero

    def before_train(self, runner: Runner) -> None:
        """Hand the model and its optimizer to DeepSpeed."""
        runner.optim_wrapper.start(runner.model, self.zero)

    def gather(self, runner: Runner) -> None:
        """Collect the optimizer's state in the first process; all must call it."""
        state = runner.optim_wrapper.whole_state()
        self.gathered = {'optimizer': state} if is_main_process() else {}


def is_cut(key: str, value: object) -> bool:
    """Tell whether something that an optimizer knows has a number for each weight."""
    return torch.is_tensor(value) and key != 'step'


def _gathered(key: str, value: object, member: Parameter) -> object:
    """Return one thing that is known of a parameter, whole and its own."""
    if not is_cut(key, value):
        return value.clone() if torch.is_tensor(value) else value
    whole = value.new_zeros(member.numel())
    whole_part, part = _parts(member, whole, value)
    whole_part.copy_(part)
    all_reduce(whole)
    return whole.view_as(member).cpu()


def _parts(member: Parameter, whole: Tensor, slice_: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a parameter and this process's slice have in common, as views."""
    mapping = member._hp_mapping
    if mapping is None:
        return whole[:0], slice_[:0]
    of_whole, of_slice = mapping.lp_fragment_address, mapping.hp_fragment_address
    return (
        whole.narrow(0, of_whole.start, of_whole.numel),
        slice_.narrow(0, of_slice.start, of_slice.numel),
    )
