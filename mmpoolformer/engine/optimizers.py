"""Optimizers of a training: which steps are fused, and what they need to resume."""

import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from mmengine.utils import digit_version
from torch import Tensor
from torch.optim import Optimizer

from mmpoolformer.utils.errors import UserError

FUSED_ADAM_SINCE = '2.4'  # torch's first with fused steps on CPUs


def by_name(wrapper: OptimWrapper | OptimWrapperDict) -> dict[str, OptimWrapper]:
    """Return the wrapper of each optimizer; a single one is called ''."""
    several = isinstance(wrapper, OptimWrapperDict)
    return dict(wrapper.items()) if several else {'': wrapper}


def batch_factors(runner: Runner) -> dict[str, int]:
    """Return the numbers whose product is the images in a step of the optimizer."""
    return {
        'processes': runner.world_size,
        'images': runner.train_dataloader.batch_sampler.batch_size,
        'accumulated': getattr(runner.optim_wrapper, '_accumulative_counts', 1),
    }


def check_accumulation(wrapper: OptimWrapper | OptimWrapperDict) -> None:
    """Refuse several optimizers of which one accumulates gradients.

    mmengine does not count their iterations when a training is resumed.

    Raises:
        UserError: Naming the optimizer.
    """
    for name, one in by_name(wrapper).items():
        if name and one._accumulative_counts > 1:
            raise UserError(
                f'optim_wrapper {name}: accumulative_counts='
                f'{one._accumulative_counts} is only for one optimizer; with several '
                'leave it out and take a larger batch size'
            )


def keep_layouts(wrapper: OptimWrapper | OptimWrapperDict) -> None:
    """Have optimizers lay out what they load of a weight as the weight is laid out.

    Fused steps walk through the memory of both, whatever the strides: with others than
    the weight's they would silently take the numbers of other places.
    """
    for one in by_name(wrapper).values():
        one.optimizer.register_load_state_dict_post_hook(_lay_out)


def _lay_out(optimizer: Optimizer) -> None:
    for weight, known in optimizer.state.items():
        for name, value in known.items():
            same_shape = isinstance(value, Tensor) and value.shape == weight.shape
            if same_shape and value.stride() != weight.stride():
                known[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def with_fused_adam(optim_wrapper: dict) -> dict:
    """Return an optimizer wrapper's config with `fused=True` for Adam and AdamW.

    PyTorch chooses that by itself on no device. On two CPU cores a step of a model with
    22 million parameters took 15 ms so, against 50 ms by its default.

    Args:
        optim_wrapper: The config, which stays as it is. One that chooses between
            `fused`, `foreach` and neither by itself is returned unchanged.
    """
    optimizer = optim_wrapper.get('optimizer', {})
    if (
        digit_version(torch.__version__) < digit_version(FUSED_ADAM_SINCE)
        or optimizer.get('type') not in ('Adam', 'AdamW')
        or {'fused', 'foreach', 'capturable', 'differentiable'} & set(optimizer)
    ):
        return optim_wrapper
    return {**optim_wrapper, 'optimizer': {**optimizer, 'fused': True}}
