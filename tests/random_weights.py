"""Weights away from their start, so that every part of a model matters."""

import torch
from torch import nn


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw every trained parameter anew, factors near 1, and return the model."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        noise = torch.randn(parameter.shape, generator=generator)
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 0
        is_factor = 'scale' in name or ('norm' in name and 'weight' in name)
        start = 1.0 if is_factor else 0.0
        parameter.data.copy_(noise / fan_in**0.5 if fan_in else start + 0.1 * noise)
    return model
