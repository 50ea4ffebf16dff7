"""The pooling half of a block for CUDA, in Triton: one pass forward, two backward.

Not imported before it is asked for, as Triton need not be installed. With
`TRITON_INTERPRET=1` in the environment the same code runs on a CPU, slowly, which is
how it is tested where there is no GPU.
"""

from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from triton import language as tl

BLOCK = 1024  # numbers that a program computes
CHUNK = 64  # cells over which a program of the reduction sums
CHANNELS = 64  # channels of a program of the reduction


def triton_pool_residual(
    x: Tensor, factors: Tensor, eps: float, kept: Tensor | None
) -> Tensor:
    """Return what `pooling.pool_residual` does, for windows of 3x3.

    Args:
        x: (B, C, H, W); laid out as channels_last, or copied so.
        factors: (C), the norm's weight times the layer scale.
        eps: Added to the variance.
        kept: (B, 1, 1, 1), factors of drop path; `None` is 1.
    """
    return _PoolResidual.apply(x, factors, eps, kept)


@triton.jit
def _counted(h, w, height, width):
    """How many cells of the window around a cell exist."""
    rows = 1 + (h > 0).to(tl.float32) + (h < height - 1).to(tl.float32)
    columns = 1 + (w > 0).to(tl.float32) + (w < width - 1).to(tl.float32)
    return rows * columns


@triton.jit
def _pooled(x, at, h, w, inside, height, width, channels: tl.constexpr):
    """Average the cells that exist in the windows around the numbers at `at`."""
    window = tl.zeros(at.shape, tl.float32)
    for down in tl.static_range(-1, 2):
        for right in tl.static_range(-1, 2):
            there = (h + down >= 0) & (h + down < height)
            there = there & (w + right >= 0) & (w + right < width) & inside
            step = (down * width + right) * channels
            value = tl.load(x + at + step, mask=there, other=0.0)
            window += value.to(tl.float32)
    return window / _counted(h, w, height, width)


@triton.jit
def _forward(
    x, weights, y, total, height, width, channels: tl.constexpr, block: tl.constexpr
):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = at < total
    c, cell = at % channels, at // channels
    w, h, image = cell % width, cell // width % height, cell // width // height
    own = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(weights + image * channels + c, mask=inside, other=0.0)
    pooled = _pooled(x, at, h, w, inside, height, width, channels)
    result = own + weight * (pooled - own)
    tl.store(y + at, result.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _along_weights(
    x,
    grad,
    sums,
    height,
    width,
    channels: tl.constexpr,
    chunk: tl.constexpr,
    block: tl.constexpr,
):
    """Sum grad * (pool(x) - x) over a chunk of cells: (B, chunks, C)."""
    image, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    c = tl.program_id(2) * block + tl.arange(0, block)
    exists = c < channels
    total = tl.zeros((block,), tl.float32)
    for i in range(chunk):
        cell = part * chunk + i
        h, w = cell // width, cell % width
        valid = exists & (cell < height * width)
        at = (image * height * width + cell) * channels + c
        own = tl.load(x + at, mask=valid, other=0.0).to(tl.float32)
        slope = tl.load(grad + at, mask=valid, other=0.0).to(tl.float32)
        pooled = _pooled(x, at, h, w, valid, height, width, channels)
        total += slope * (pooled - own)
    parts = tl.num_programs(1)
    tl.store(sums + (image * parts + part) * channels + c, total, mask=exists)


@triton.jit
def _backward(
    x,
    grad,
    weights,
    slopes,
    means,
    grad_x,
    total,
    height,
    width,
    channels: tl.constexpr,
    block: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = at < total
    c, cell = at % channels, at // channels
    w, h, image = cell % width, cell // width % height, cell // width // height
    gathered = tl.zeros((block,), tl.float32)
    for down in tl.static_range(-1, 2):
        for right in tl.static_range(-1, 2):
            there = (h + down >= 0) & (h + down < height)
            there = there & (w + right >= 0) & (w + right < width) & inside
            step = (down * width + right) * channels
            value = tl.load(grad + at + step, mask=there, other=0.0)
            count = _counted(h + down, w + right, height, width)
            gathered += value.to(tl.float32) / count
    own = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(weights + image * channels + c, mask=inside, other=0.0)
    slope = tl.load(slopes + image, mask=inside, other=0.0)
    mean = tl.load(means + image, mask=inside, other=0.0)
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    result = own + weight * (gathered - own) + slope * (value - mean)
    tl.store(grad_x + at, result.to(grad_x.dtype.element_ty), mask=inside)


class _PoolResidual(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, factors: Tensor, eps: float, kept: Tensor | None
    ) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        variance, mean = torch.var_mean(x.float(), (1, 2, 3), correction=0)
        rstd = (variance + eps).rsqrt()
        scales = rstd if kept is None else rstd * kept.flatten()
        weights = scales[:, None] * factors.float()  # (B, C)
        y = torch.empty_like(x)
        _, channels, height, width = x.shape
        size = (x.numel(), height, width, channels)
        _forward[_programs(x)](x, weights, y, *size, block=BLOCK)
        ctx.save_for_backward(x, factors, kept, weights, mean, rstd)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, factors, kept, weights, mean, rstd = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        images, channels, height, width = x.shape
        chunk = min(CHUNK, height * width)
        parts = -(-height * width // chunk)
        sums = x.new_empty(images, parts, channels, dtype=torch.float32)
        _along_weights[images, parts, -(-channels // CHANNELS)](
            x, grad, sums, height, width, channels, chunk=chunk, block=CHANNELS
        )
        along = sums.sum(1)  # (B, C)
        if kept is not None:
            along = along * kept.flatten(1)
        grad_factors = (along * rstd[:, None]).sum(0).to(factors.dtype)
        slopes = -(along * factors.float()).sum(1) * rstd.pow(3) / x[0].numel()
        grad_x = torch.empty_like(x)
        size = (x.numel(), height, width, channels)
        _backward[_programs(x)](
            x, grad, weights, slopes, mean, grad_x, *size, block=BLOCK
        )
        return grad_x, grad_factors, None, None


def _programs(x: Tensor) -> tuple[int]:
    return (-(-x.numel() // BLOCK),)
