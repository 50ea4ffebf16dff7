"""The MetaFormer block and the stage that is a row of them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from mmpoolformer.models.base import RecomputedSequential, resampled_position
from mmpoolformer.models.layers import (
    ChannelNorm,
    Downsample,
    GroupNorm1,
    Mlp,
    Scale,
    StarReLU,
    build_norm,
)
from mmpoolformer.models.token_mixers import (
    Attention,
    DepthwiseConv,
    Pooling,
    RandomMixing,
    SepConv,
    SpatialFc,
)
from mmpoolformer.models.variants import Variant
from mmpoolformer.ops import mlp_residual, pool_residual
from mmpoolformer.ops.mlp import autocast_type
from mmpoolformer.ops.products import is_traced, is_transformed

ACTIVATIONS = {
    nn.GELU: 'gelu',
    nn.ReLU: 'relu',
    nn.SiLU: 'silu',
    StarReLU: 'relu_squared',
}
CONVOLUTIONS = {'depthwise_conv': DepthwiseConv, 'sep_conv': SepConv}
GRID_MIXERS = {'random': RandomMixing, 'spatial_fc': SpatialFc}
HOOKS = (
    '_forward_hooks',
    '_forward_pre_hooks',
    '_backward_hooks',
    '_backward_pre_hooks',
)
# Those of all modules; torch changes these four dicts, it never replaces them.
GLOBAL_HOOKS = (
    torch_module._global_forward_hooks,
    torch_module._global_forward_pre_hooks,
    torch_module._global_backward_hooks,
    torch_module._global_backward_pre_hooks,
)


def family_norm(variant: Variant, channels: int) -> nn.Module:
    """Build the norm that an architecture has in its blocks."""
    return build_norm(variant.norm, channels, variant.norm_eps, variant.norm_bias)


def downsample_norm(variant: Variant, channels: int) -> nn.Module:
    """Build the norm of an architecture's stem or downsampling, if it has one."""
    if not variant.downsample_norm:
        return nn.Identity()
    return ChannelNorm(channels, variant.norm_eps, variant.norm_bias)


def build_token_mixer(variant: Variant, stage: int, index: int) -> nn.Module:
    """Build the token mixer of one block.

    Args:
        variant: The architecture's row of the table.
        stage: The stage, counted from 0.
        index: The block's place in the stage, counted from 0.
    """
    channels, name = variant.dims[stage], variant.token_mixers[stage]
    if name == 'pooling':
        return Pooling(variant.pool_size)
    if name == 'identity':
        return nn.Identity()
    if name == 'attention':
        every = variant.global_every
        sees_all = every > 0 and (index + 1) % every == 0
        window = None if sees_all else variant.attention_window
        return Attention(channels, variant.head_dim, variant.bias, window)
    if name in CONVOLUTIONS:
        return CONVOLUTIONS[name](channels)
    return GRID_MIXERS[name](variant.grid(stage), variant.strict_size)


class MetaFormerBlock(nn.Module):
    """Token mixer and MLP, each with norm, factors and shortcut.

    Args:
        variant: The architecture's row of the table.
        stage: The stage, counted from 0.
        index: The block's place in the stage, counted from 0.
        drop_path: Chance, 0 to 1, that a branch is skipped for an image. Without
            shortcuts nothing is skipped.
        fused: See `MetaFormer`.
    """

    def __init__(
        self,
        variant: Variant,
        stage: int,
        index: int = 0,
        drop_path: float = 0.0,
        fused: bool | str = True,
    ) -> None:
        super().__init__()
        self.fused = fused
        channels = variant.dims[stage]
        self.residual = variant.residual
        self.norm1 = family_norm(variant, channels)
        self.token_mixer = build_token_mixer(variant, stage, index)
        self.layer_scale1 = _scale(channels, variant.layer_scale_init)
        res_scale_init = variant.res_scale_init[stage] if variant.residual else None
        self.res_scale1 = _scale(channels, res_scale_init)
        self.mlp = None
        if variant.mlp:
            self.norm2 = family_norm(variant, channels)
            self.mlp = Mlp(
                channels,
                variant.mlp_ratio,
                variant.activation,
                variant.bias,
                linear=variant.token_mixers[stage] == 'attention',
            )
            self.layer_scale2 = _scale(channels, variant.layer_scale_init)
            self.res_scale2 = _scale(channels, res_scale_init)
        skips = drop_path > 0 and variant.residual
        self.drop_path = DropPath(drop_path) if skips else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, H, W)."""
        x = self.mix_tokens(x)
        return x if self.mlp is None else self.mix_channels(x)

    def mix_tokens(self, x: Tensor) -> Tensor:
        """Apply the first half, which moves information in space."""
        if self.fused and fuses_mixing(self, x):
            return mix_tokens_fused(self, x)
        branch = self.layer_scale1(self.token_mixer(self.norm1(x)))
        return self._added(self.res_scale1, x, branch)

    def mix_channels(self, x: Tensor) -> Tensor:
        """Apply the second half, which sees each cell alone."""
        if self.fused and fuses_mlp(self, x):
            return mix_channels_fused(self, x)
        branch = self.layer_scale2(self.mlp(self.norm2(x)))
        return self._added(self.res_scale2, x, branch)

    def _added(self, res_scale: nn.Module, x: Tensor, branch: Tensor) -> Tensor:
        return res_scale(x) + self.drop_path(branch) if self.residual else branch


def _scale(channels: int, init_value: float | None) -> nn.Module:
    return nn.Identity() if init_value is None else Scale(channels, init_value)


class MetaFormerStage(nn.Module):
    """Downsampling (not in the first stage) and a row of blocks.

    Args:
        variant: The architecture's row of the table.
        stage: The stage, counted from 0.
        drop_paths: Drop-path rate of each block.
        with_cp: Whether blocks recompute their activations in the backward pass.
        fused: See `MetaFormer`.
    """

    def __init__(
        self,
        variant: Variant,
        stage: int,
        drop_paths: Sequence[float],
        with_cp: bool = False,
        fused: bool | str = True,
    ) -> None:
        super().__init__()
        channels = variant.dims[stage]
        self.downsample = nn.Identity()
        if stage > 0:
            before = variant.dims[stage - 1]
            norm = downsample_norm(variant, before)
            self.downsample = Downsample(before, channels, norm)
        self.pos_embed = None
        if stage == variant.position_stage:
            self.pos_embed = nn.Parameter(
                torch.zeros(1, channels, *variant.grid(stage))
            )
        row = RecomputedSequential if with_cp else nn.Sequential
        self.blocks = row(
            *(
                MetaFormerBlock(variant, stage, index, rate, fused)
                for index, rate in enumerate(drop_paths)
            )
        )
        # These look at (B, H, W, C); laid out so once, nothing is copied in between.
        self.channels_last = (
            bool(fused)
            or variant.norm == 'layer_norm'
            or variant.token_mixers[stage] == 'attention'
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C', H', W')."""
        x = self.downsample(x)
        # torch.func.vmap knows no other layout than the plain one.
        if self.channels_last and not is_transformed():
            x = x.contiguous(memory_format=torch.channels_last)
        if self.pos_embed is not None:
            x = x + resampled_position(self.pos_embed, x.shape[2:])
        return self.blocks(x)


def fuses_mixing(block: MetaFormerBlock, x: Tensor) -> bool:
    """Tell whether the first half is one that `pool_residual` computes for x."""
    return (
        block.residual
        and type(block.norm1) is GroupNorm1
        and type(block.token_mixer) is Pooling
        and block.token_mixer.pool.kernel_size % 2 == 1
        and _is_plain(x)
        and not _seen(block.norm1, block.token_mixer, block.layer_scale1)
    )


def fuses_mlp(block: MetaFormerBlock, x: Tensor) -> bool:
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


def mix_tokens_fused(block: MetaFormerBlock, x: Tensor) -> Tensor:
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


def mix_channels_fused(block: MetaFormerBlock, x: Tensor) -> Tensor:
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


def branch_weights(block: MetaFormerBlock) -> BranchWeights:
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


def _kept(block: MetaFormerBlock, x: Tensor) -> Tensor | None:
    """Return each image's factor of drop path (B, 1, 1, 1), `None` where it is 1."""
    if not block.training or type(block.drop_path) is nn.Identity:
        return None
    return block.drop_path(x.new_ones(len(x), 1, 1, 1))


def _is_plain(x: Tensor) -> bool:
    """Tell whether x holds numbers that are to be computed with now."""
    return type(x) is Tensor and not x.is_meta and not is_traced()


def _seen(*modules: nn.Module) -> bool:
    """Tell whether a hook wants to see what goes through one of these modules."""
    return any(GLOBAL_HOOKS) or any(
        getattr(part, hooks)
        for module in modules
        for part in module.modules()
        for hooks in HOOKS
    )
