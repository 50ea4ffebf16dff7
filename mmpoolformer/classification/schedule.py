"""timm's cosine schedule, stepped once per update of the optimizer."""

from mmengine.optim import BaseOptimWrapper, OptimWrapper
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from timm.scheduler import CosineLRScheduler

from mmpoolformer.registry import PARAM_SCHEDULERS


@PARAM_SCHEDULERS.register_module()
class CosineLR(_ParamScheduler):
    """Warm-up, half a cosine, then the minimum: timm's `CosineLRScheduler`.

    The warm-up lies within the cosine, as timm's default: the cosine's first part is
    covered by it. Where gradients are accumulated the rate changes with every update,
    not within one. With `convert_to_iter_based=True` in the config, lengths in epochs
    become iterations; epochs after `t_initial` are the cool-down.

    Args:
        optimizer: The optimizer wrapper; groups may have an `lr_scale`.
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
        self.timm = CosineLRScheduler(
            optimizer,
            t_initial=_in_updates(t_initial, self.steps),
            lr_min=lr_min,
            warmup_t=_in_updates(warmup_t, self.steps),
            warmup_lr_init=warmup_lr_init,
            t_in_epochs=by_epoch,
        )
        # timm's has set the groups to the first rate of the warm-up already.
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

    def _get_value(self) -> list[float]:
        """Return each group's rate for the coming iteration."""
        rates = self.timm._get_lr(self.last_step // self.steps)
        groups = self.optimizer.param_groups
        return [
            rate * group.get('lr_scale', 1.0)
            for rate, group in zip(rates, groups, strict=True)
        ]


def _in_updates(iterations: int, steps: int) -> int:
    return -(-iterations // steps)  # rounded up
