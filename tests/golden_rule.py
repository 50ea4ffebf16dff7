"""Parameters and inputs behind the golden numbers, rebuilt from names alone.

The files in tests/golden/ hold outputs of the original implementation for these
parameters, and the original's parameter names and shapes (keys.json).
"""

import json
import re
import zlib
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parent / 'golden'


def golden_keys(name: str) -> dict[str, list[int]]:
    """Return the original's parameter names and shapes."""
    return json.loads((GOLDEN / 'keys.json').read_text())[name]


def golden_parameter(name: str, shape: list[int]) -> torch.Tensor:
    """Return the parameter that belongs to one of the original's names."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    a = rng.standard_normal(shape)
    if 'layer_scale' in name or 'res_scale' in name:
        a = 0.5 + 0.1 * a
    elif re.search(r'norm.*weight$', name):
        a = 1 + 0.1 * a
    elif re.search(r'act.*scale$', name):
        a = 0.9 + 0.05 * a
    elif 'random_matrix' in name:
        a = np.exp(a) / np.exp(a).sum(-1, keepdims=True)
    elif len(shape) > 1:
        a = a / np.sqrt(np.prod(shape[1:]))
    else:
        a = 0.1 * a
    return torch.from_numpy(a.astype(np.float32))


def golden_state_dict(name: str) -> dict[str, torch.Tensor]:
    """Return the original's whole state dict under its own names."""
    return {k: golden_parameter(k, s) for k, s in golden_keys(name).items()}


def golden_image(*shape: int) -> torch.Tensor:
    """Return the image that the golden outputs were computed for."""
    a = np.random.default_rng(0).standard_normal(shape)
    return torch.from_numpy(a.astype(np.float32))


def golden_output(file: str) -> dict[str, torch.Tensor]:
    """Return the original's outputs."""
    with np.load(GOLDEN / f'{file}.npz') as arrays:
        return {k: torch.from_numpy(arrays[k]) for k in arrays}
