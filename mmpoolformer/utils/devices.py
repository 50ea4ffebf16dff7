"""Devices by name."""

import torch

from mmpoolformer.utils.errors import UsageError
from mmpoolformer.utils.memory import keep_freed_memory


def choose_device(name: str | None) -> torch.device:
    """Return the device of a name; the default is a GPU where there is one.

    Raises:
        UsageError: If there is no such device.
    """
    name = name or ('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        # An empty tensor shows whether the device is there.
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f'--device {name}: not here ({reason})') from error


def inference_device(name: str | None) -> torch.device:
    """Return a device, see `choose_device`; on CPUs freed memory is kept from here."""
    device = choose_device(name)
    if device.type == 'cpu':
        keep_freed_memory()
    return device
