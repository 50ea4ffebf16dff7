"""Matrix products of cells with weights, by the fastest library on the device."""

import torch
from torch import Tensor
from torch.nn import functional as F

# oneDNN's product, by which torch.compile calls it, too: on CPUs without AVX-512 it is
# up to twice as fast as MKL's where the matrices are narrow, and it can add a bias and
# an activation while the result is in the cache.
_ONEDNN = getattr(torch.ops.mkldnn, '_linear_pointwise', None)



def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `x @ weight.T + bias`, without a gradient.

    Args:
        x: (cells, inputs).
        weight: (outputs, inputs).
        bias: (outputs) or `None`.
    """
    if uses_onednn(x):
        return _ONEDNN(x, weight.contiguous(), bias, 'none', [], '')
    return F.linear(x, weight, bias)


def uses_onednn(x: Tensor) -> bool:
    """Tell whether products with x are oneDNN's."""
    return (
        x.device.type == 'cpu'
        and x.dtype == torch.float32
        and _ONEDNN is not None
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
    )
