"""Norm, scale, MLP and downsampling layers of the MetaFormer family.

Parameter names and shapes are timm's (`timm/models/metaformer.py`,
Apache-2.0), the functions those of github.com/sail-sg/poolformer (Apache-2.0).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class GroupNorm1(nn.GroupNorm):
    """GroupNorm with one group: statistics over C, H and W of one image.

    They are taken in float32 whatever the input's type, so that half precision
    neither overflows nor loses the variance.

    Args:
        channels: Channels of the map (B, C, H, W).
        eps: Added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(1, channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, C, H, W); the result has x's shape and type."""
        if x.dtype not in (torch.float16, torch.bfloat16):
            return super().forward(x)
        weight, bias = self.weight.float(), self.bias.float()
        return F.group_norm(x.float(), 1, weight, bias, self.eps).to(x.dtype)


class LayerScale(nn.Module):
    """A learned factor for each channel (arXiv 2103.17239).

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
    """Two 1x1 convolutions with an exact GELU between them.

    Args:
        channels: Channels in and out.
        ratio: Hidden channels over `channels`.
    """

    def __init__(self, channels: int, ratio: float = 4.0) -> None:
        super().__init__()
        hidden = int(channels * ratio)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(hidden, channels, 1)
        for layer in (self.fc1, self.fc2):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, H, W)."""
        return self.fc2(self.act(self.fc1(x)))


class Downsample(nn.Module):
    """A strided convolution: the stem, and the step between two stages.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        kernel_size: Side of the window, in cells.
        stride: Step, in cells.
        padding: Zeros added on each side, in cells.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        padding: int,
    ) -> None:
        super().__init__()
        # Strided convolutions keep PyTorch's own initialisation, as the paper's.
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C', ~H/stride, ~W/stride)."""
        return self.conv(x)
