"""Norm, activation, scale, MLP and downsampling layers of the MetaFormer family.

Parameter names and shapes are timm's (`timm/models/metaformer.py`,
Apache-2.0), the functions those of github.com/sail-sg/poolformer and
github.com/sail-sg/metaformer (Apache-2.0).

Every layer maps (B, C, H, W) to (B, C, H, W). Linear layers and norms over channels
look at it as (B, H, W, C), which costs nothing where it lies in memory that way
(`torch.channels_last`); stages with such layers see to that.
"""

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from mmpoolformer.ops import star_relu
from mmpoolformer.ops.pooling import HALF
from mmpoolformer.ops.products import is_traced, is_transformed


class GroupNorm1(nn.GroupNorm):
    """GroupNorm with one group: statistics over C, H and W of one image.

    They are taken in float32 whatever the input's type, so that half precision
    neither overflows nor loses the variance.

    Args:
        channels: Channels of the map (B, C, H, W).
        eps: Added to the variance.
        bias: Whether a learned bias is added.
    """

    def __init__(self, channels: int, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__(1, channels, eps=eps)
        if not bias:
            self.register_parameter('bias', None)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, C, H, W); the result has x's shape and type."""
        return group_norm(x, self.weight, self.bias, self.eps)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each cell, in float32 as `GroupNorm1`.

    Args:
        channels: Channels of the map (B, C, H, W).
        eps: Added to the variance.
        bias: Whether a learned bias is added.
    """

    def __init__(self, channels: int, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__(channels, eps=eps, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, C, H, W); the result has x's shape and type."""
        shape = self.normalized_shape
        return channel_norm(x, shape, self.weight, self.bias, self.eps)


@fx.wrap
def group_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """Normalise x (B, C, H, W) over C, H and W, half precision in float32."""
    # The output norm of a frozen stage: torch (2.1 to 2.11, on the CPU) dies in the
    # backward pass if this input is laid out as channels_last; vmap before that.
    is_frozen = torch.is_grad_enabled() and not x.requires_grad
    if is_frozen or is_transformed():
        x = x.contiguous()
    # Predicting in bfloat16 on a CPU, torch sums in float32 by itself, uncopied.
    sums_wide = x.dtype == torch.bfloat16 and x.device.type == 'cpu'
    if x.dtype not in HALF or (sums_wide and not torch.is_grad_enabled()):
        return F.group_norm(x, 1, weight, bias, eps)
    wide = F.group_norm(x.float(), 1, _widened(weight), _widened(bias), eps)
    return wide.to(x.dtype)


@fx.wrap
def channel_norm(
    x: Tensor,
    shape: tuple[int],
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    """Normalise x (B, C, H, W) over C, half precision in float32; `shape` is (C,)."""
    rows = x.permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)
    if x.dtype in HALF:
        rows, weight, bias = rows.float(), _widened(weight), _widened(bias)
    rows = F.layer_norm(rows, shape, weight, bias, eps)
    return rows.to(x.dtype).permute(0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W)


def _widened(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.float()


class BatchNorm(nn.BatchNorm2d):
    """BatchNorm with an optional bias.

    Args:
        channels: Channels of the map (B, C, H, W).
        eps: Added to the variance.
        bias: Whether a learned bias is added.
    """

    def __init__(self, channels: int, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__(channels, eps=eps)
        if not bias:
            self.register_parameter('bias', None)


def build_norm(name: str, channels: int, eps: float, bias: bool) -> nn.Module:
    """Build a norm by its name in `variants.NORMS`.

    Args:
        name: The name.
        channels: Channels of the map.
        eps: Added to the variance.
        bias: Whether a learned bias is added.
    """
    norms = {
        'group_norm1': GroupNorm1,
        'layer_norm': ChannelNorm,
        'batch_norm': BatchNorm,
    }
    return nn.Identity() if name == 'none' else norms[name](channels, eps, bias)


class StarReLU(nn.Module):
    """`scale * relu(x) ** 2 + bias` with two learned numbers (arXiv 2210.13452)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Map each number of x."""
        if is_traced():
            return self.scale * F.relu(x).square() + self.bias
        return star_relu(x, self.scale, self.bias)


def build_activation(name: str) -> nn.Module:
    """Build an activation by its name in `variants.ACTIVATIONS`."""
    activations = {
        'gelu': nn.GELU,
        'relu': nn.ReLU,
        'silu': nn.SiLU,
        'star_relu': StarReLU,
    }
    return activations[name]()


class Scale(nn.Module):
    """A learned factor for each channel.

    On a branch it is layer scale (arXiv 2103.17239), on a shortcut residual scale
    (arXiv 2110.09456).

    Args:
        channels: Channels of the map (B, C, H, W).
        init_value: First value of every factor.
    """

    def __init__(self, channels: int, init_value: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), float(init_value)))

    def forward(self, x: Tensor) -> Tensor:
        """Scale x (B, C, H, W)."""
        return x * self.scale.view(-1, 1, 1)  # (C) -> (C, 1, 1)


class Mlp(nn.Module):
    """Two layers that see each cell alone, with an activation between them.

    Args:
        channels: Channels in and out.
        ratio: Hidden channels over `channels`.
        activation: One of `variants.ACTIVATIONS`.
        bias: Whether the layers add a bias.
        linear: Whether the layers are linear ones and their weights (out, in), as in
            the stages with attention, or 1x1 convolutions (out, in, 1, 1).
    """

    def __init__(
        self,
        channels: int,
        ratio: float = 4.0,
        activation: str = 'gelu',
        bias: bool = True,
        linear: bool = False,
    ) -> None:
        super().__init__()
        hidden = int(channels * ratio)
        self.linear = linear
        self.fc1 = _pointwise(channels, hidden, bias, linear)
        self.act = build_activation(activation)
        self.fc2 = _pointwise(hidden, channels, bias, linear)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, H, W)."""
        if not self.linear:
            return self.fc2(self.act(self.fc1(x)))
        rows = x.permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)
        return self.fc2(self.act(self.fc1(rows))).permute(0, 3, 1, 2)


def _pointwise(inputs: int, outputs: int, bias: bool, linear: bool) -> nn.Module:
    if linear:
        return nn.Linear(inputs, outputs, bias)
    return nn.Conv2d(inputs, outputs, 1, bias=bias)


class Downsample(nn.Module):
    """A strided convolution after a norm: the step between two stages.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        norm: The norm before the convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C', ~H/2, ~W/2)."""
        return self.conv(self.norm(x))


class Stem(nn.Module):
    """A strided convolution of the image, then a norm.

    Args:
        in_channels: Channels of the image.
        out_channels: Channels out.
        norm: The norm after the convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 7, stride=4, padding=2)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C', ~H/4, ~W/4)."""
        return self.norm(self.conv(x))


def truncated_normal(module: nn.Module, strided: bool) -> None:
    """Start convolutions and linear layers as the papers do.

    Weights are truncated normal with standard deviation 0.02, biases 0.

    Args:
        module: Whatever holds them.
        strided: Whether strided convolutions are meant too.
    """
    for layer in module.modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear) or layer.weight.is_meta:
            continue  # on the meta device there are no numbers, only slow bookkeeping
        if isinstance(layer, nn.Conv2d) and layer.stride != (1, 1) and not strided:
            continue
        nn.init.trunc_normal_(layer.weight, std=0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
