"""The pooling half of a block as one operator.

With a norm of one group, `r = 1 / sqrt(var(x) + eps)` of an image, the half

    x + layer_scale * (pool(norm(x)) - norm(x))

is `x + layer_scale * weight * r * (pool(x) - x)`: pooling keeps constants, so the mean
and the norm's bias cancel, and the bias never gets a gradient. Nothing but `x` and two
numbers an image have to be kept for the backward pass.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mmpoolformer.ops.products import is_compiling

POOLINGS = ('torch', 'triton')
HALF = (torch.float16, torch.bfloat16)
# Where the mean is this many times the standard deviation (squared), the mean of the
# squares minus the mean's square has lost too many digits.
CANCELS = 100


def pool_residual(
    x: Tensor,
    factors: Tensor,
    eps: float,
    pool_size: int = 3,
    *,
    kept: Tensor | None = None,
    res_scale: Tensor | None = None,
    implementation: str = 'torch',
) -> Tensor:
    """Return `res_scale * x + kept * factors * r * (pool(x) - x)`.

    It can be differentiated once. Follows equation 4 of arXiv 2111.11418 with the norm
    and factors around it.

    Args:
        x: (B, C, H, W), fastest where laid out as channels_last. The result has its
            type.
        factors: (C), the norm's weight times the layer scale.
        eps: Added to the variance.
        pool_size: Side of the window, an odd number of cells. Cells outside the map are
            not counted.
        kept: (B, 1, 1, 1), factors of drop path; `None` is 1.
        res_scale: (C), factors of the shortcut; `None` is 1.
        implementation: One of `POOLINGS`: `torch` runs anywhere, `triton` on CUDA, for
            windows of 3x3 without `res_scale`.

    Raises:
        ValueError: If the window is even, or there is no such implementation for it.
    """
    if pool_size % 2 == 0:
        raise ValueError(f'pool_size={pool_size}: the fused half takes odd windows')
    if implementation not in POOLINGS:
        raise ValueError(f'implementation={implementation!r}: choose from {POOLINGS}')
    if implementation == 'triton':
        if pool_size != 3 or res_scale is not None:
            raise ValueError(
                f"implementation='triton' with pool_size={pool_size}, res_scale="
                f'{"a tensor" if res_scale is not None else None}: it takes '
                "pool_size=3 and no res_scale; 'torch' takes all"
            )
        # Not everyone has Triton, and loading it takes a second.
        from mmpoolformer.ops.triton_pooling import triton_pool_residual

        return triton_pool_residual(x, factors, eps, kept)
    inputs = x, factors, kept, res_scale
    if torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in inputs
    ):
        return _PoolResidual.apply(*inputs, eps, pool_size)
    return _forward(*inputs, eps, pool_size)[0]


def moments(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the mean, and 1 over the standard deviation, of each image.

    Args:
        x: (B, C, H, W).
        eps: Added to the variance.

    Returns:
        Two tensors (B, 1, 1, 1), in float32 where x is of half precision.
    """
    if is_compiling():  # Inductor joins plain sums with what is around them
        wide = x.to(torch.float32) if x.dtype in HALF else x
        mean = wide.mean((1, 2, 3), keepdim=True)
        variance = (wide - mean).square().mean((1, 2, 3), keepdim=True)
        return mean, (variance + eps).rsqrt()
    last = x.is_contiguous(memory_format=torch.channels_last)
    rows = (x.permute(0, 2, 3, 1) if last else x).flatten(2)  # (B, H or C, the rest)
    wide = torch.float32 if x.dtype in HALF else x.dtype
    if x.device.type != 'cpu':  # some, such as Apple's MPS, have no float64
        variance, mean = torch.var_mean(rows.to(wide), (1, 2), correction=0)
    else:
        # Three to ten times as fast on a CPU as var_mean. One row is short enough for
        # its type's digits, all rows together are not.
        rows = rows.to(wide)
        count = rows.shape[1] * rows.shape[2]
        mean = rows.sum(2).double().sum(1) / count
        norms = torch.linalg.vector_norm(rows, dim=2)
        variance = norms.double().square().sum(1) / count - mean.square()
        if (mean.square() > CANCELS * variance).any():
            variance = rows.var((1, 2), correction=0)
    rstd = (variance + eps).rsqrt()
    return mean.to(wide).view(-1, 1, 1, 1), rstd.to(wide).view(-1, 1, 1, 1)


def _forward(
    x: Tensor,
    factors: Tensor,
    kept: Tensor | None,
    res_scale: Tensor | None,
    eps: float,
    pool_size: int,
) -> tuple[Tensor, Tensor, Tensor]:
    mean, rstd = moments(x, eps)
    weights = _weights(factors, rstd, kept).to(x.dtype)
    pooled = F.avg_pool2d(x, pool_size, 1, pool_size // 2, count_include_pad=False)
    if res_scale is None:
        return torch.lerp(x, pooled, weights), mean, rstd
    shortcut = res_scale.view(-1, 1, 1).to(x.dtype) - weights
    return (x * shortcut).addcmul_(pooled, weights), mean, rstd


def _weights(factors: Tensor, rstd: Tensor, kept: Tensor | None) -> Tensor:
    """Return what `pool(x) - x` is multiplied by: (B, C, 1, 1)."""
    weights = rstd * factors.to(rstd.dtype).view(-1, 1, 1)
    return weights if kept is None else weights * kept


class _PoolResidual(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        factors: Tensor,
        kept: Tensor | None,
        res_scale: Tensor | None,
        eps: float,
        pool_size: int,
    ) -> Tensor:
        result, mean, rstd = _forward(x, factors, kept, res_scale, eps, pool_size)
        ctx.save_for_backward(x, factors, kept, res_scale, mean, rstd)
        ctx.pool_size = pool_size
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, factors, kept, res_scale, mean, rstd = ctx.saved_tensors
        size, wide = ctx.pool_size, rstd.dtype
        layout = torch.channels_last
        if x.is_contiguous(memory_format=layout):
            grad = grad.contiguous(memory_format=layout)
        # Of pool(x) - x. The weights, one a channel, can be applied behind pooling.
        grad_moved = torch.ops.aten.avg_pool2d_backward(
            grad, x, [size] * 2, [1, 1], [size // 2] * 2, False, False, None
        ).sub_(grad)
        # (B, C): how much the result grows with the weight of each channel
        along = (grad_moved * x).sum((2, 3), dtype=wide)
        if kept is not None:
            along = along * kept.flatten(1)
        grad_factors = (along * rstd.flatten(1)).sum(0).to(factors.dtype)
        grad_res = None
        if res_scale is not None:
            grad_res = (grad * x).sum((0, 2, 3), dtype=wide).to(res_scale.dtype)
        if not ctx.needs_input_grad[0]:
            return None, grad_factors, None, grad_res, None, None
        if res_scale is not None:
            grad = grad * res_scale.view(-1, 1, 1).to(x.dtype)
        weights = _weights(factors, rstd, kept).to(x.dtype)
        grad_x = torch.addcmul(grad, grad_moved, weights)
        # Through rstd: d rstd / d x = -rstd ** 3 * (x - mean) / count
        along_rstd = (along * factors.to(wide)).sum(1).view(-1, 1, 1, 1)
        slope = -along_rstd * rstd.pow(3) / x[0].numel()
        grad_x.add_((-slope * mean).to(x.dtype)).addcmul_(x, slope.to(x.dtype))
        return grad_x, grad_factors, None, grad_res, None, None
