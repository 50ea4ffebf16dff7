"""timm's optimizers and its rules for weight decay and layer-wise learning rates."""

from types import SimpleNamespace

from mmengine.optim import BaseOptimWrapper, OptimWrapper
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from mmengine.registry import OPTIM_WRAPPERS
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import nn

from mmpoolformer.checkpoints.filling import unwrapped
from mmpoolformer.registry import OPTIM_WRAPPER_CONSTRUCTORS, PARAM_SCHEDULERS
from mmpoolformer.utils.text import first_few


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class TimmOptimizer:
    """Build optimizer and wrapper by `timm.optim.create_optimizer_v2`.

    In a config: `optim_wrapper=dict(constructor='mmpoolformer.TimmOptimizer',
    optimizer=dict(type='lamb', lr=8e-3, weight_decay=0.05))`. Weight decay leaves out
    biases, norms and scales (all parameters of one dimension) and what the model's
    `no_weight_decay()` names.

    Args:
        optim_wrapper_cfg: Settings of the wrapper; `optimizer` has timm's name as
            `type`, in any case of letters, and timm's options.
        paramwise_cfg: `layer_decay` (0 to 1): the learning rate of a layer is that of
            the next one times this.

    Raises:
        ValueError: If an option is unknown.
    """

    def __init__(
        self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None
    ) -> None:
        self.wrapper = {'type': 'OptimWrapper', **optim_wrapper_cfg}
        self.optimizer = dict(self.wrapper.pop('optimizer'))
        self.name = str(self.optimizer.pop('type')).lower()
        self.rules = dict(paramwise_cfg or {})
        unknown = sorted(set(self.rules) - {'layer_decay'})
        if unknown:
            raise ValueError(
                f'paramwise_cfg has {", ".join(unknown)}: TimmOptimizer knows '
                'layer_decay only'
            )

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the wrapper for a model's parameters."""
        model = unwrapped(model)
        # timm's rules ask the network itself, not the model around it.
        network = getattr(model, 'backbone', model)
        outside = [
            name
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and not name.startswith('backbone.')
        ]
        if network is not model and outside:
            raise ValueError(
                f'parameters outside of the backbone: {first_few(outside)}'
            )
        optimizer = create_optimizer_v2(
            network, opt=self.name, **self.rules, **self.optimizer
        )
        # timm leaves it to its schedules; mmengine's, or none, wouldn't do it.
        for group in optimizer.param_groups:
            group['lr'] *= _scale(group)
        return OPTIM_WRAPPERS.build(self.wrapper, default_args={'optimizer': optimizer})


@PARAM_SCHEDULERS.register_module()
class CosineLR(_ParamScheduler):
    """Warm-up, half a cosine, then the minimum: timm's `CosineLRScheduler`.

    The warm-up lies within the cosine, as timm's default: the cosine's first part is
    covered by it. Where gradients are accumulated the rate changes with every update,
    not within one. With `convert_to_iter_based=True` in the config, lengths in epochs
    become iterations; epochs after `t_initial` are the cool-down.

    Args:
        optimizer: The optimizer wrapper; groups may have an `lr_scale`, by which
            their rates are multiplied already.
        t_initial: Length of the cosine, warm-up included, in iterations (or epochs).
        lr_min: Rate at its end, and in the cool-down.
        warmup_t: Length of the linear warm-up, in iterations (or epochs).
        warmup_lr_init: Rate at the start of the warm-up.
        begin: First step, as in mmengine's schedulers.
        end: Step after the last one.
        last_step: Step to resume from; -1 for none.
        by_epoch: Whether it is stepped by epoch.
        verbose: Whether to print each value.
    """

    def __init__(
        self,
        optimizer: OptimWrapper,
        t_initial: int,
        lr_min: float = 0.0,
        warmup_t: int = 0,
        warmup_lr_init: float = 0.0,
        begin: int = 0,
        end: int = int(1e9),
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        accumulates = isinstance(optimizer, BaseOptimWrapper) and not by_epoch
        self.steps = getattr(optimizer, '_accumulative_counts', 1) if accumulates else 1
        # What a checkpoint holds of the schedule.
        self.t_initial, self.lr_min = t_initial, lr_min
        self.warmup_t, self.warmup_lr_init = warmup_t, warmup_lr_init
        self.timm = self._as_timms(optimizer)
        super().__init__(optimizer, 'lr', begin, end, last_step, by_epoch, verbose)

    @classmethod
    def build_iter_from_epoch(
        cls,
        *args: object,
        t_initial: int,
        warmup_t: int = 0,
        begin: int = 0,
        end: int = int(1e9),
        by_epoch: bool = True,
        epoch_length: int | None = None,
        **options: object,
    ) -> 'CosineLR':
        """Build a schedule stepped by iteration from lengths in epochs."""
        if not by_epoch or not epoch_length:
            raise ValueError('convert_to_iter_based needs by_epoch=True and an epoch')
        return cls(
            *args,
            t_initial=t_initial * epoch_length,
            warmup_t=warmup_t * epoch_length,
            begin=begin * epoch_length,
            end=end if end >= int(1e9) else end * epoch_length,
            by_epoch=False,
            **options,
        )

    def state_dict(self) -> dict:
        """Return the state as plain numbers; timm's scheduler has none of its own."""
        state = super().state_dict()
        state.pop('timm')
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        """Go on as saved: lengths and rates are the checkpoint's, too."""
        super().load_state_dict(state_dict)
        self.timm = self._as_timms(self.optimizer)

    def _as_timms(self, optimizer: OptimWrapper) -> CosineLRScheduler:
        # timm multiplies by lr_scale last, lr_min and the warm-up's start too: its
        # schedule gets the rates before that.
        groups = [
            {'lr': group.get('initial_lr', group['lr']) / (_scale(group) or 1.0)}
            for group in optimizer.param_groups
        ]
        return CosineLRScheduler(
            SimpleNamespace(param_groups=groups),
            t_initial=_in_updates(self.t_initial, self.steps),
            lr_min=self.lr_min,
            warmup_t=_in_updates(self.warmup_t, self.steps),
            warmup_lr_init=self.warmup_lr_init,
        )

    def _get_value(self) -> list[float]:
        """Return each group's rate for the coming iteration."""
        rates = self.timm._get_lr(self.last_step // self.steps)
        groups = self.optimizer.param_groups
        return [rate * _scale(group) for rate, group in zip(rates, groups, strict=True)]


def _scale(group: dict) -> float:
    return group.get('lr_scale', 1.0)


def _in_updates(iterations: int, steps: int) -> int:
    return -(-iterations // steps)  # rounded up
