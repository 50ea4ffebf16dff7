"""When the halves of a block run as single operators (`mmpoolformer.ops`), and how.

The modules stay where the parameters are, so a checkpoint does not know which way it
was trained. A half runs module by module where something wants to see the modules:
hooks, tracing, export and compilation, and parts that were replaced.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from mmpoolformer.models.layers import GroupNorm1, Mlp, Scale, StarReLU
from mmpoolformer.models.token_mixers import Pooling
from mmpoolformer.ops import mlp_residual, pool_residual
from mmpoolformer.ops.mlp import autocast_type
from mmpoolformer.ops.tracing import is_traced

if TYPE_CHECKING:
    from mmpoolformer.models.block import MetaFormerBlock

ACTIVATIONS = {
    nn.GELU: 'gelu',
    nn.ReLU: 'relu',
    nn.SiLU: 'silu',
    StarReLU: 'relu_squared',
}
HOOKS = ('_forward_hooks', '_forward_pre_hooks', '_backward_hooks')


def fuses_mixing(block: 'MetaFormerBlock', x: Tensor) -> bool:
    """Tell whether the first half is one that `pool_residual` computes for x."""
    return (
        block.residual
        and type(block.norm1) is GroupNorm1
        and type(block.token_mixer) is Pooling
        and block.token_mixer.pool.kernel_size % 2 == 1
        and _is_plain(x)
        and not _seen(block.norm1, block.token_mixer, block.layer_scale1)
    )


def fuses_mlp(block: 'MetaFormerBlock', x: Tensor) -> bool:
    """Tell whether the second half is one that `mlp_residual` computes for x.

    Not in float16, whose range the gradients would leave.
    """
    mlp = block.mlp
    return (
        block.residual
        and type(mlp) is Mlp
        and type(mlp.act) in ACTIVATIONS
        and type(mlp.fc1) is type(mlp.fc2)
        and type(mlp.fc1) in (nn.Conv2d, nn.Linear)
        and _is_plain(x)
        and (autocast_type(x.device.type) or x.dtype) != torch.float16
        and not _seen(mlp, block.layer_scale2)
    )


def mix_tokens(block: 'MetaFormerBlock', x: Tensor) -> Tensor:
    """Compute the first half of a block; x and the result are (B, C, H, W)."""
    factors = block.norm1.weight
    if block.norm1.bias is not None:
        # It has no effect, but training in several processes waits for every gradient.
        factors = factors + 0 * block.norm1.bias
    if type(block.layer_scale1) is Scale:
        factors = factors * block.layer_scale1.scale
    return pool_residual(
        _widened(x, block.layer_scale1, block.res_scale1),
        factors,
        block.norm1.eps,
        block.token_mixer.pool.kernel_size,
        kept=_kept(block, x),
        res_scale=getattr(block.res_scale1, 'scale', None),
        implementation='torch' if block.fused is True else block.fused,
    )


def mix_channels(block: 'MetaFormerBlock', x: Tensor) -> Tensor:
    """Compute the second half of a block; x and the result are (B, C, H, W)."""
    weights = branch_weights(block)
    return mlp_residual(
        _widened(x, block.layer_scale2, block.res_scale2),
        block.norm2(x),
        weights.weight1,
        weights.bias1,
        weights.weight2,
        weights.bias2,
        ACTIVATIONS[type(block.mlp.act)],
        factors=weights.factors,
        kept=_kept(block, x),
        res_scale=getattr(block.res_scale2, 'scale', None),
    )


class BranchWeights(NamedTuple):
    """What `mlp_residual` multiplies and adds; each but the weights may be `None`."""

    weight1: Tensor
    bias1: Tensor | None
    weight2: Tensor
    bias2: Tensor | None
    factors: Tensor | None


def branch_weights(block: 'MetaFormerBlock') -> BranchWeights:
    """Return the numbers of the MLP's branch.

    The two of StarReLU and the layer scale are behind the second layer's sum, so they
    go into its factors and bias.
    """
    mlp = block.mlp
    weight2, bias2 = mlp.fc2.weight.flatten(1), mlp.fc2.bias
    factors = None
    if type(mlp.act) is StarReLU:
        factors = mlp.act.scale.expand(len(weight2))
        added = mlp.act.bias * weight2.sum(1)
        bias2 = added if bias2 is None else bias2 + added
    if type(block.layer_scale2) is Scale:
        scale = block.layer_scale2.scale
        factors = scale if factors is None else factors * scale
        bias2 = None if bias2 is None else bias2 * scale
    return BranchWeights(
        mlp.fc1.weight.flatten(1), mlp.fc1.bias, weight2, bias2, factors
    )


def _widened(x: Tensor, *scales: nn.Module) -> Tensor:
    """Give x the type that multiplying by the scales gives: under autocast another."""
    for scale in scales:
        if type(scale) is Scale:
            x = x.to(torch.promote_types(x.dtype, scale.scale.dtype))
    return x


def _kept(block: 'MetaFormerBlock', x: Tensor) -> Tensor | None:
    """Return each image's factor of drop path (B, 1, 1, 1), `None` where it is 1."""
    if not block.training or type(block.drop_path) is nn.Identity:
        return None
    return block.drop_path(x.new_ones(len(x), 1, 1, 1))


def _is_plain(x: Tensor) -> bool:
    """Tell whether x holds numbers that are to be computed with now."""
    return type(x) is Tensor and not x.is_meta and not is_traced()


def _seen(*modules: nn.Module) -> bool:
    """Tell whether a hook wants to see what goes through one of these modules."""
    return any(
        getattr(part, hooks)
        for module in modules
        for part in module.modules()
        for hooks in HOOKS
    )
