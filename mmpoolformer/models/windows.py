"""Cutting a map into windows and putting it together again; sizes of maps."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor
from torch.nn import functional as F

_ANY_SIZE = ContextVar('any_size', default=False)


@contextmanager
def for_any_size() -> Iterator[None]:
    """Take no shortcuts, inside the block, that are right for maps of one size only.

    For what records a forward pass once, to repeat it with images of other sizes: it
    sees but one way through the code. Outputs are the same but for rounding.
    """
    token = _ANY_SIZE.set(True)
    try:
        yield
    finally:
        _ANY_SIZE.reset(token)


def any_size() -> bool:
    """Tell whether shortcuts for maps of one size are forbidden, see `for_any_size`."""
    return _ANY_SIZE.get()


def split_windows(x: Tensor, window: tuple[int, int]) -> Tensor:
    """Cut a map into windows, after zeros at its bottom and right where they must be.

    Args:
        x: The map (B, C, H, W).
        window: Height h and width w of a window.

    Returns:
        (B * n, C, h, w) with n = ceil(H / h) * ceil(W / w), those of one image together
        and row by row.
    """
    h, w = window
    x = F.pad(x, (0, -x.shape[3] % w, 0, -x.shape[2] % h))
    b, c, height, width = x.shape
    x = x.reshape(b, c, height // h, h, width // w, w)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(-1, c, h, w)


def ceil_divided(number: int, divisor: int) -> int:
    """Return number / divisor, rounded up, for numbers from 0.

    Not `-(-number // divisor)`: ONNX rounds quotients of integers towards zero.
    """
    return (number + divisor - 1) // divisor


def join_windows(windows: Tensor, size: tuple[int, int]) -> Tensor:
    """Undo `split_windows`.

    Args:
        windows: (B * n, C, h, w).
        size: Height H and width W of the map; what was added is cut off.

    Returns:
        The map (B, C, H, W).
    """
    c, h, w = windows.shape[1:]
    rows, columns = ceil_divided(size[0], h), ceil_divided(size[1], w)
    x = windows.reshape(-1, rows, columns, c, h, w)
    x = x.permute(0, 3, 1, 4, 2, 5).reshape(-1, c, rows * h, columns * w)
    return x[..., : size[0], : size[1]]
