"""Mixed precision on CPUs: bfloat16 where it is safe."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from mmpoolformer.models.metaformer import MetaFormerTrunk
from mmpoolformer.models.neck_and_heads import (
    cast,
    optimize_neck_and_heads,
    read_plain_maps,
)


class CpuAmpOptimWrapper(OptimWrapper):
    """Mixed precision on a CPU: bfloat16 autocast, which needs no loss scaling."""

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run the forward pass of a training step in bfloat16 where that is safe."""
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield


def wants_amp(optim_wrapper: object) -> bool:
    """Tell whether an optimizer wrapper's config asks for mixed precision."""
    is_config = isinstance(optim_wrapper, dict)
    return is_config and optim_wrapper.get('type') == 'AmpOptimWrapper'


def prepare_for_bfloat16(model: nn.Module) -> None:
    """Make a model ready to be trained in mixed precision on a CPU.

    mmcv's NMS and RoIAlign take float32 alone there, so what the RPN finds becomes
    float32, and so do the maps from which the features of its regions are taken. Neck
    and heads are laid out for speed, as in `optimize_for_inference`.
    """
    read_plain_maps(model)
    for name, part in list(model.named_modules()):
        if name.split('.')[-1] == 'rpn_head':
            part.register_forward_hook(_found_in_float32)
        backbone = getattr(part, 'backbone', None)
        if isinstance(backbone, MetaFormerTrunk):
            optimize_neck_and_heads(part, backbone, torch.float32)


def _found_in_float32(_: nn.Module, __: tuple, found: Any) -> Any:
    return cast(found, torch.float32)
