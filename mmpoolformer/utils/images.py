"""Reading pictures as models want them, or saying what is wrong with the file."""

import glob
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

# The formats that are opened, by Pillow's names; JPEG's reader also opens MPO. Of the
# others EPS is drawn by another program (Ghostscript), and most are seldom tested.
LISTED = ('JPEG', 'PNG', 'BMP', 'GIF', 'PPM', 'TIFF', 'WEBP', 'AVIF')

Image.init()
FORMATS = tuple(name for name in LISTED if name in Image.OPEN)  # AVIF since Pillow 11.3
FRACTIONS = '.pfm'  # PPM's relative for numbers that are no colours

# What is taken for a picture in a folder: every ending that Pillow knows of the
# formats. Files named one by one may have any name.
SUFFIXES = tuple(
    sorted(
        suffix
        for suffix, kind in Image.registered_extensions().items()
        if kind in (*FORMATS, 'MPO') and suffix != FRACTIONS
    )
)

# What Pillow's readers raise for files that are no picture, truncated, damaged or too
# large. Most readers trust what headers say, and fail somewhere later.
PICTURE_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    SystemError,  # of C code
    TypeError,
    ValueError,
    Image.DecompressionBombError,
    Warning,  # where warnings are errors
    struct.error,
    zlib.error,
)
ORIENTATION = 0x0112  # EXIF's tag: how the camera was held
BYTE_ORDERS = {b'II*\0': 'little', b'MM\0*': 'big'}
NUMBER_SIZES = {3: 2, 4: 4}  # of EXIF's types of whole numbers, in bytes
# What turns the pixels upright, for the tag's values.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
DEEP_MODES = ('I;16', 'I;16B', 'I;16L', 'I;16N', 'I')
DEEPEST = 65535


class PictureError(ValueError):
    """A picture that can't be read; the message names the file.

    Where it comes from a worker process, torch puts the process's traceback before the
    message; that is dropped, because it tells nothing about the picture.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition('PictureError: ')[2].strip())


def limit_formats() -> None:
    """Let Pillow open `FORMATS` alone in this process and those forked from it.

    For readers of mmcv, timm and datasets that call `Image.open` themselves.
    """
    Image.init()
    Image.ID[:] = [name for name in Image.ID if name in FORMATS]


def open_picture(
    source: str | os.PathLike | IO[bytes],
    mode: str = 'RGB',
    name: str = '',
    max_pixels: int | None = None,
    upright: bool = True,
) -> Image.Image:
    """Read a picture whole, upright, in a colour mode.

    It is turned as its camera says (EXIF), as viewers show it. Grey, palette, CMYK and
    transparent pictures are converted as Pillow does (the transparency is dropped);
    16-bit grey is scaled to 8 bits, where Pillow would clip. Of several pictures in a
    file it is the first.

    Args:
        source: A path or an open file.
        mode: Pillow's name of the colours, `'RGB'` or `'L'`.
        name: How messages call it; the path by default.
        max_pixels: Larger pictures are refused before they are decoded; None leaves
            Pillow's limit, 179 million.
        upright: Whether to turn it; False leaves it as it is stored.

    Raises:
        PictureError: If it is in none of `FORMATS`, truncated, damaged, too large, or
            of fractions, of which nobody knows the range.
    """
    name = name or str(getattr(source, 'name', source))
    with as_picture_error(name), Image.open(source, formats=FORMATS) as picture:
        return _converted(picture, mode, name, max_pixels, upright)


def convert_picture(
    picture: Image.Image, mode: str = 'RGB', name: str = 'the picture'
) -> Image.Image:
    """Bring an opened picture upright and into a colour mode, see `open_picture`.

    Raises:
        PictureError: If it is truncated, damaged or of fractions.
    """
    with as_picture_error(name):
        return _converted(picture, mode, name, max_pixels=None)


def orientation(picture: Image.Image) -> int:
    """Return EXIF's orientation, from 1 to 8; 1 is upright, or not known.

    Nothing but this tag is looked at: Pillow gives up where another one is damaged, as
    many are, and that is no reason to refuse a picture or to show it on its side.
    """
    notes = picture.info.get('exif')
    if isinstance(notes, bytes):
        turn = _orientation_in(notes.removeprefix(b'Exif\0\0'))
    else:  # of TIFF after loading; and in an old form of PNG's
        try:
            turn = picture.getexif().get(ORIENTATION, 1)
        except PICTURE_ERRORS:
            return 1
    return turn if isinstance(turn, int) and 1 <= turn <= 8 else 1


def _orientation_in(notes: bytes) -> int:
    """Find the tag in the first directory of EXIF, which is laid out as TIFF."""
    order = BYTE_ORDERS.get(notes[:4])
    if order is None:
        return 1

    def number(start: int, size: int) -> int:
        return int.from_bytes(notes[start : start + size], order)

    start = number(4, 4)
    for place in range(start + 2, start + 2 + 12 * number(start, 2), 12):
        if place + 12 > len(notes):
            break
        size = NUMBER_SIZES.get(number(place + 2, 2))
        if number(place, 2) == ORIENTATION and size:
            return number(place + 8, size)
    return 1


@contextmanager
def as_picture_error(name: str, *more: type) -> Iterator[None]:
    """Turn what a reader raises into a `PictureError` that names the picture.

    Args:
        name: The picture's.
        more: Errors of the reader beside Pillow's.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise PictureError(f'{name}: no such picture') from error
    except PictureError:
        raise
    except UnidentifiedImageError as error:  # its text names the file once more
        raise PictureError(
            f'{name}: can not be read as a picture (none of {", ".join(FORMATS)})'
        ) from error
    except (*PICTURE_ERRORS, *more) as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise PictureError(
            f'{name}: can not be read as a picture ({reason})'
        ) from error


def _converted(
    picture: Image.Image,
    mode: str,
    name: str,
    max_pixels: int | None,
    upright: bool = True,
) -> Image.Image:
    _check_size(picture, name, max_pixels)
    if picture.mode == 'F':
        raise PictureError(f'{name}: its values are fractions, not colours')
    picture.load()  # TIFF's reader turns it itself, and drops the tag
    turn = orientation(picture)
    if upright and turn in UPRIGHT:
        picture = picture.transpose(UPRIGHT[turn])
    picture = _to_8_bits(picture, name).convert(mode)
    picture.info = {}  # or else it would be turned once more
    return picture


def _check_size(picture: Image.Image, name: str, most: int | None) -> None:
    width, height = picture.size
    if most is not None and width * height > most:
        raise PictureError(
            f'{name}: {width} x {height} pixels; at most {most / 1e6:g} million are '
            'taken'
        )


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


def find_pictures(
    places: Sequence[str], suffixes: Sequence[str] = SUFFIXES
) -> list[str]:
    """Find picture files.

    Args:
        places: Files; folders, of which all pictures at any depth are taken, sorted,
            but no hidden ones; and patterns such as `'photos/*.jpg'` or `'**/*.png'`.
        suffixes: What names of pictures in folders end on, in small letters.

    Returns:
        The files, each one once, in the order of the places.

    Raises:
        ValueError: If there is nothing at a place.
    """
    found = [path for place in places for path in _pictures_at(place, suffixes)]
    return list(dict.fromkeys(found))


def _pictures_at(place: str, suffixes: Sequence[str]) -> list[str]:
    if Path(place).exists():  # first: names may have the letters of patterns
        matches = [place]
    else:
        matches = sorted(glob.glob(place, recursive=True))
    if not matches:
        raise ValueError(f'{place}: no such picture or folder')
    found = []
    for match in matches:
        is_folder = Path(match).is_dir()
        found += _pictures_below(Path(match), suffixes) if is_folder else [match]
    if not found:
        raise ValueError(f'{place}: no picture there ({", ".join(suffixes)})')
    return found


def _pictures_below(folder: Path, suffixes: Sequence[str]) -> list[str]:
    files = sorted(p for p in folder.rglob('*') if p.suffix.lower() in suffixes)
    return [
        str(file)
        for file in files
        if file.is_file()
        and not any(part[0] == '.' for part in file.relative_to(folder).parts)
    ]
