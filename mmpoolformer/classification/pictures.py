"""Reading pictures as models want them, or saying what is wrong with the file."""

import os
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

# What Pillow raises for files that are no picture, truncated, damaged or too large.
PICTURE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    UnidentifiedImageError,
    Image.DecompressionBombError,
)
DEEP_MODES = ('I;16', 'I;16B', 'I;16L', 'I;16N', 'I')
DEEPEST = 65535


class PictureError(ValueError):
    """A picture that can't be read; the message names the file.

    Where it comes from a worker process, torch puts the process's traceback before the
    message; that is dropped, because it tells nothing about the picture.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition('PictureError: ')[2].strip())


def open_picture(
    source: str | os.PathLike | IO[bytes], mode: str = 'RGB', name: str = ''
) -> Image.Image:
    """Read a picture whole, in a colour mode.

    Grey, palette, CMYK and transparent pictures are converted as Pillow does (the
    transparency is dropped); 16-bit grey is scaled to 8 bits, where Pillow would clip.

    Args:
        source: A path or an open file.
        mode: Pillow's name of the colours, `'RGB'` or `'L'`.
        name: How messages call it; the path by default.

    Raises:
        PictureError: If it is no picture, truncated, damaged, or too large.
    """
    name = name or str(getattr(source, 'name', source))
    try:
        with Image.open(source) as picture:
            return _to_8_bits(picture, name).convert(mode)
    except FileNotFoundError as error:
        raise PictureError(f'{name}: no such picture') from error
    except PictureError:
        raise
    except PICTURE_ERRORS as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise PictureError(
            f'{name}: can not be read as a picture ({reason})'
        ) from error


def _to_8_bits(picture: Image.Image, name: str) -> Image.Image:
    if picture.mode not in DEEP_MODES:
        return picture
    values = np.asarray(picture)
    if values.min() < 0 or values.max() > DEEPEST:
        raise PictureError(
            f'{name}: values from {values.min()} to {values.max()}; at most 16 bits '
            'without a sign can be scaled to 8'
        )
    return Image.fromarray(np.round(values / (DEEPEST / 255)).astype(np.uint8))
