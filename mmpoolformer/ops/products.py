"""Matrix products of cells with weights, by the fastest library on the device."""

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.utils._python_dispatch import _get_current_dispatch_mode

from mmpoolformer.ops.activations import ACTIVATIONS

# oneDNN's product, which torch.compile takes by itself, too: without AVX-512 it is
# up to twice as fast as MKL's where the matrices are narrow, and it can apply an
# activation while the result is in the cache.
_ONEDNN = getattr(torch.ops.mkldnn, '_linear_pointwise', None)
_PACK = getattr(torch.ops.mkldnn, '_reorder_linear_weight', None)
_IN_ONEDNN = {None: ('none', ''), 'gelu': ('gelu', 'none'), 'relu': ('relu', '')}


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:
    """Return `activation(x @ weight.T + bias)`, without a gradient.

    Args:
        x: (..., inputs).
        weight: (outputs, inputs), or what `pack` made of it.
        bias: (outputs) or `None`.
        activation: A name in `activations.ACTIVATIONS`; `None` for none.
    """
    if not (weight.is_mkldnn or _uses_onednn(x, weight)):
        result = F.linear(x, weight, bias)
        return result if activation is None else activated(result, activation)
    if activation in _IN_ONEDNN:
        name, kind = _IN_ONEDNN[activation]
        return _ONEDNN(x, weight, bias, name, [], kind)
    return activated(_ONEDNN(x, weight, bias, 'none', [], ''), activation)


def can_pack(x: Tensor, weight: Tensor) -> bool:
    """Tell whether `linear` multiplies x faster with what `pack` makes of a weight."""
    return _PACK is not None and _uses_onednn(x, weight)


def pack(x: Tensor, weight: Tensor) -> Tensor:
    """Lay a weight out as oneDNN's products want it, which else each of them does.

    Args:
        x: (..., inputs), an example of what is multiplied.
        weight: (outputs, inputs). The result, for `linear`, does not follow its
            changes.
    """
    return _PACK(weight.contiguous(), x.shape[:-1].numel())


def activated(x: Tensor, activation: str) -> Tensor:
    """Return an activation of x, by a name in `activations.ACTIVATIONS`."""
    return ACTIVATIONS[activation].forward(x)


def _uses_onednn(x: Tensor, weight: Tensor) -> bool:
    if is_traced():
        return False
    return (
        x.device.type == 'cpu'
        and _ONEDNN is not None
        and (x.dtype == torch.float32 or _is_low(x, weight))
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
    )


def _is_low(x: Tensor, weight: Tensor) -> bool:
    """Tell whether both are bfloat16, on a CPU whose oneDNN takes that.

    A transposed weight is slower there than in PyTorch's own product.
    """
    both = x.dtype == weight.dtype == torch.bfloat16 and weight.is_contiguous()
    return both and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def is_traced() -> bool:
    """Tell whether something looks at or transforms the single operations.

    Tracing, export, compiling, the transforms of `torch.func`, forward derivatives,
    and dispatch modes such as PyTorch's counter of flops: all want plain operations.
    """
    return (
        torch.jit.is_tracing()
        or is_compiling()
        or is_transformed()
        or forward_ad._current_level >= 0
        or _get_current_dispatch_mode() is not None
    )


def is_compiling() -> bool:
    """Tell whether `torch.compile` or `torch.export` looks at the operations."""
    compiler = torch.compiler if hasattr(torch.compiler, 'is_compiling') else None
    return (compiler or torch._dynamo).is_compiling()


def is_transformed() -> bool:
    """Tell whether a transform of `torch.func` runs; not inside of compiled code."""
    return torch._C._functorch.peek_interpreter_stack() is not None
