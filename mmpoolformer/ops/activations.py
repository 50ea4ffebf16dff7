"""Activations that keep nothing but their input for the backward pass."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

aten = torch.ops.aten


def relu_squared(x: Tensor) -> Tensor:
    """Return `relu(x) ** 2`."""
    return F.relu(x).square_()


def relu_squared_backward_(grad: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of `relu_squared` at x, written over `grad`."""
    return grad.mul_(F.relu(x)).mul_(2)


class Activation(NamedTuple):
    """A function of single numbers and its gradient.

    Attributes:
        forward: Maps x.
        backward_: Maps the output's gradient and x to x's gradient, and writes it over
            the output's: new memory costs a CPU more than the arithmetic.
    """

    forward: Callable[[Tensor], Tensor]
    backward_: Callable[[Tensor, Tensor], Tensor]


ACTIVATIONS = {
    'gelu': Activation(
        F.gelu, lambda grad, x: aten.gelu_backward(grad, x, grad_input=grad)
    ),
    'relu': Activation(F.relu, lambda grad, x: grad.mul_(x > 0)),
    'silu': Activation(
        F.silu, lambda grad, x: aten.silu_backward(grad, x, grad_input=grad)
    ),
    'relu_squared': Activation(relu_squared, relu_squared_backward_),
}


class _StarReLU(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale)
        return relu_squared(x).mul_(scale).add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale = ctx.saved_tensors
        relu = F.relu(x)
        grad_scale = (relu.square().mul_(grad)).sum().to(scale.dtype).view_as(scale)
        grad_x = relu.mul_(grad).mul_(2 * scale) if ctx.needs_input_grad[0] else None
        return grad_x, grad_scale, grad.sum().to(scale.dtype).view_as(scale)


def star_relu(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Return `scale * relu(x) ** 2 + bias` (arXiv 2210.13452).

    Args:
        x: Any shape.
        scale: One number, (1).
        bias: One number, (1), of scale's type.
    """
    return _StarReLU.apply(x, scale, bias)
