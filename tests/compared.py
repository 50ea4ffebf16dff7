"""Models of every mixer, and numbers to compare their outputs by."""

import torch
from torch import Tensor

# One of each token mixer, and a hybrid.
ARCHITECTURES = (
    'identityformer_s12',
    'randformer_s12',
    'poolformer_s12',
    'poolformerv2_s12',
    'convformer_s18',
    'caformer_s18',
    'metaformer_ppaa_s12_224',
)


def shallow(name: str) -> dict:
    """Return an architecture with five blocks, two of them in one stage."""
    return dict(base=name, depths=(1, 1, 2, 1))


def image(*size: int) -> Tensor:
    """Return the same normal noise for a size every time."""
    return torch.randn(*size, generator=torch.Generator().manual_seed(0))


def difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, as a share of the largest expected value."""
    scale = expected.abs().max().clamp(min=1e-12)
    return ((found - expected).abs().max() / scale).item()
