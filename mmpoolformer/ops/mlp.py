"""The MLP half of a block as one operator.

It keeps the hidden cells before the activation and computes those after it once more,
instead of keeping both and the branch, too: half the memory for one cheap pass.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mmpoolformer.ops.activations import ACTIVATIONS
from mmpoolformer.ops.products import linear


def mlp_residual(
    x: Tensor,
    normed: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    activation: str = 'gelu',
    *,
    factors: Tensor | None = None,
    kept: Tensor | None = None,
    res_scale: Tensor | None = None,
) -> Tensor:
    """Add an MLP's output to its input, cell by cell.

    The result is `res_scale * x + kept * (factors * hidden @ weight2.T + bias2)` with
    `hidden = activation(normed @ weight1.T + bias1)`. Under autocast the products take
    its type, as those of the modules do. It can be differentiated once.

    Args:
        x: (B, C, H, W), the shortcut. The result has its type.
        normed: (B, C, H, W), the branch's input. Both are fastest where laid out as
            channels_last.
        weight1: (hidden, C).
        bias1: (hidden) or `None`.
        weight2: (C, hidden).
        bias2: (C) or `None`, not multiplied by the factors.
        activation: A name in `activations.ACTIVATIONS`.
        factors: (C), such as the layer scale; `None` is 1.
        kept: (B, 1, 1, 1), factors of drop path; `None` is 1.
        res_scale: (C), factors of the shortcut; `None` is 1.

    Raises:
        ValueError: If there is no such activation.
    """
    if activation not in ACTIVATIONS:
        known = ', '.join(sorted(ACTIVATIONS))
        raise ValueError(f'activation={activation!r}: choose from {known}')
    dtype = autocast_type(x.device.type) or normed.dtype
    normed, weight1, bias1, weight2 = (
        None if tensor is None else tensor.to(dtype)
        for tensor in (normed, weight1, bias1, weight2)
    )
    first = normed, weight1, bias1
    second = weight2, bias2, factors, kept, res_scale
    with torch.autocast(x.device.type, enabled=False):
        if torch.is_grad_enabled() and any(
            t is not None and t.requires_grad for t in (x, *first, *second)
        ):
            return _MlpResidual.apply(x, *first, *second, activation)
        active = linear(_rows(normed), weight1, bias1, activation)
        return _added(x, active, *second)


def autocast_type(device: str) -> torch.dtype | None:
    """Return the type that autocast gives products on a device, `None` if it is off."""
    if hasattr(torch, 'get_autocast_dtype'):
        on = torch.is_autocast_enabled(device)
        return torch.get_autocast_dtype(device) if on else None
    if device == 'cuda':  # torch before 2.4
        return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None
    return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None


def _rows(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B * H * W, C), without a copy from channels_last."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def _maps(rows: Tensor, like: Tensor) -> Tensor:
    """(B * H * W, C) -> (B, C, H, W), laid out as channels_last."""
    size = like.shape[0], *like.shape[2:]
    return rows.unflatten(0, size).permute(0, 3, 1, 2)


def _branch_factors(factors: Tensor | None, kept: Tensor | None) -> Tensor | None:
    """Return what the branch is multiplied by: (B or 1, C or 1, 1, 1), or `None`."""
    if factors is None:
        return kept
    factors = factors.view(1, -1, 1, 1)
    return factors if kept is None else factors * kept


def _added(
    x: Tensor,
    active: Tensor,
    weight2: Tensor,
    bias2: Tensor | None,
    factors: Tensor | None,
    kept: Tensor | None,
    res_scale: Tensor | None,
) -> Tensor:
    """Add the branch from its hidden cells (B * H * W, hidden) to the shortcut."""
    branch = _maps(linear(active, weight2), x).to(x.dtype)
    if res_scale is not None:
        x = x * res_scale.view(-1, 1, 1)
    multiplied = _branch_factors(factors, kept)
    if multiplied is None:
        result = x + branch
    else:
        result = torch.addcmul(x, branch, multiplied.to(x.dtype))
    if bias2 is not None:
        added = bias2.view(1, -1, 1, 1)
        result += added if kept is None else added * kept
    return result


class _MlpResidual(Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        x, normed, weight1, bias1, *second, ctx.activation = inputs
        hidden = linear(_rows(normed), weight1, bias1)
        active = ACTIVATIONS[ctx.activation].forward(hidden)
        result = _added(x, active, *second)
        tensors = [*inputs[:-1]]
        if tensors[-1] is None:  # without factors the shortcut's input is not needed
            tensors[0] = None
        ctx.save_for_backward(hidden, *tensors)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, x, normed, weight1, _, weight2, _, *scales = ctx.saved_tensors
        factors, kept, res_scale = scales
        needs, activation = ctx.needs_input_grad, ACTIVATIONS[ctx.activation]
        grad = grad.contiguous(memory_format=torch.channels_last)
        branch_rows = _rows(grad if kept is None else grad * kept)
        rows = branch_rows.to(hidden.dtype)
        # (C, hidden): times the factors it is weight2's gradient, times weight2 and
        # summed it is the factors'.
        product = linear(rows.mT, activation.forward(hidden).mT)
        grad_factors = None
        if factors is not None:
            grad_factors = (product * weight2).sum(1, dtype=factors.dtype)
            product = (product * factors[:, None]).to(weight2.dtype)
            weight2 = (weight2 * factors[:, None]).to(weight2.dtype)
        grad_hidden = activation.backward_(linear(rows, weight2.mT), hidden)
        grad_normed = _maps(linear(grad_hidden, weight1.mT), grad) if needs[1] else None
        # Not by `linear`: with many more rows than columns oneDNN is slower.
        grad_weight1 = grad_hidden.mT @ _rows(normed) if needs[2] else None
        grad_bias1 = grad_hidden.sum(0) if needs[3] else None
        grad_bias2 = branch_rows.sum(0) if needs[5] else None
        grad_res = None
        if res_scale is not None:
            grad_res = (grad * x).sum((0, 2, 3)).to(res_scale.dtype)
            grad = grad * res_scale.view(-1, 1, 1)
        first = grad_normed, grad_weight1, grad_bias1
        second = product, grad_bias2, grad_factors
        return grad, *first, *second, None, grad_res, None
