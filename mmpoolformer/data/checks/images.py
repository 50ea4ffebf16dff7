"""Looking at many picture files: their headers, or all of them."""

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from mmpoolformer.utils.errors import one_line
from mmpoolformer.utils.images import FORMATS, PICTURE_ERRORS, orientation
from mmpoolformer.utils.progress import progress_bar
from mmpoolformer.utils.temporary import replaced

# Kinds of files in which OpenCV heeds EXIF's orientation.
TURNED_KINDS = ('JPEG', 'MPO', 'PNG')
SIDEWAYS = (5, 6, 7, 8)  # orientations that swap width and height
# What whole files have near their ends, and in how many bytes it is looked for.
ENDS = {'JPEG': (b'\xff\xd9', 65536), 'MPO': (b'\xff\xd9', 65536), 'PNG': (b'IEND', 64)}
# mmcv's names of the libraries that decode pictures; Pillow's is classification's, too.
OPENCV, PILLOW, TIFFFILE = 'cv2', 'pillow', 'tifffile'
# Formats, by Pillow's names, that the others take; every OpenCV reads the first.
READ_BY = {
    OPENCV: ('JPEG', 'MPO', 'PNG', 'BMP'),
    'turbojpeg': ('JPEG', 'MPO'),
    TIFFFILE: ('TIFF',),
}
# What the libraries that read pictures for training take, in pixels.
OPENCV_LIMIT = 2**30
PILLOW_LIMIT = 2 * int(Image.MAX_IMAGE_PIXELS or 89_478_485)
MOST_WORKERS = 16
LONG_WORK = 5000  # files for which the bar is drawn in a log, too
BITS_8 = 256
MISSING = 'pictures that are not there'
BANDS = 'S'  # tifffile's letter for an axis
IN_PLANES = (
    'pictures of bands in planes, which mmcv takes for rows (write them with '
    'INTERLEAVE=PIXEL, or planarconfig="contig")'
)


@dataclass(frozen=True)
class ImageInfo:
    """What a picture file is.

    Attributes:
        width: In pixels, as stored.
        height: In pixels, as stored.
        mode: Pillow's name of its colours.
        turn: EXIF's orientation, 1 to 8, for the kinds of files where it matters.
        problem: Why it can't be read; empty if it can.
        counts: How many pixels have each value, as (value, count), if asked for.
    """

    width: int = 0
    height: int = 0
    mode: str = ''
    turn: int = 1
    problem: str = ''
    counts: tuple[tuple[int, int], ...] = ()

    @property
    def stored(self) -> tuple[int, int]:
        """Width and height in the file."""
        return self.width, self.height

    @property
    def seen(self) -> tuple[int, int]:
        """Width and height once it is turned as EXIF says."""
        return self.stored[::-1] if self.turn in SIDEWAYS else self.stored


def inspect_image(
    path: str, decode: bool = False, reader: str = PILLOW, counted: bool = False
) -> ImageInfo:
    """Read a picture's header, and all of it if its end is missing.

    Args:
        path: The file.
        decode: Whether to decode it whole in any case.
        reader: What will decode it in the training: one of mmcv's backends; empty if
            that is not known, so that no format is refused.
        counted: Whether to count its values, as of labels; without `decode` only where
            they have more than 8 bits.
    """
    if not os.path.isfile(path):  # a pipe would be waited for
        return ImageInfo(problem=MISSING)
    if reader == TIFFFILE and (one := _info_by_tifffile(path, decode)):
        return one
    try:
        with Image.open(path, formats=FORMATS) as picture:
            width, height = picture.size
            turn = _turn(picture)
            mode = picture.mode
            if problem := _format_problem(path, picture, reader, decode):
                return ImageInfo(problem=problem)
            small = width * height <= PILLOW_LIMIT
            deep = counted and mode[:1] == 'I'
            whole = _has_end(path, picture.format)
            counts = ()
            if small and (decode or deep or not whole):
                picture.load()
                counts = _counts(picture) if counted and (decode or deep) else ()
    except UnidentifiedImageError:
        return _info_without_pillow(path, reader)
    except PICTURE_ERRORS as error:
        return ImageInfo(problem=f'unreadable pictures: {one_line(error)[:60]}')
    return ImageInfo(width, height, mode, turn, counts=counts)


def inspect_all(
    paths: Sequence[str],
    how: Callable[[str, bool], ImageInfo],
    decode: Sequence[bool],
    workers: int | None,
    text: str,
) -> list[ImageInfo]:
    """Look at many files at the same time.

    Args:
        paths: The files.
        how: `inspect_image`, perhaps with some of its options.
        decode: For each file whether to decode it.
        workers: Threads; None for a few more than there are cores, because reading
            waits for the disk (Pillow decodes in threads side by side).
        text: What the progress bar calls it.
    """
    workers = workers or min(MOST_WORKERS, 2 * (os.cpu_count() or 1) + 2)
    looks = []
    shown = sys.stderr.isatty() or len(paths) >= LONG_WORK
    with (
        replaced(Image, 'MAX_IMAGE_PIXELS', None),  # headers say how large they are
        warnings.catch_warnings(),
        progress_bar(len(paths), text, shown=shown) as bar,
        ThreadPoolExecutor(workers) as pool,
    ):
        warnings.simplefilter('ignore')  # of odd EXIF and the like
        try:
            for one in pool.map(how, paths, decode):
                looks.append(one)
                bar.update()
        finally:  # after Ctrl-C what is not begun is dropped
            pool.shutdown(wait=False, cancel_futures=True)
    return looks


def report_images(
    paths: Sequence[str],
    looks: Sequence[ImageInfo],
    limit: int,
    add: Callable[[str, str], None],
) -> None:
    """Report pictures that can't be read, are too large or of odd colours.

    Args:
        paths: The files.
        looks: What they are.
        limit: Pixels that the library takes which reads them for training.
        add: Takes what is wrong, and where, such as `Findings.error`.
    """
    for path, one in zip(paths, looks, strict=True):
        if one.problem:
            what, _, detail = one.problem.partition(': ')
            add(what, f'{path}: {detail}' if detail else path)
        elif one.width * one.height > limit:
            add(
                f'pictures of more than {limit:,} pixels, which can not be read',
                f'{path}, {one.width}x{one.height}',
            )
        elif one.mode == 'F':
            add('pictures of floating-point numbers', path)


def _format_problem(path: str, picture: Image.Image, reader: str, decode: bool) -> str:
    """Say if the library that decodes a picture in the training can't."""
    kind = picture.format
    if reader not in READ_BY or kind in READ_BY[reader]:
        return ''
    known = reader == OPENCV and cv2.haveImageReader(path)
    # Of TIFF it takes most, but no whole numbers of 32 bits.
    if known and (decode or (kind, picture.mode) == ('TIFF', 'I')):
        known = _opencv_size(path) is not None
    return '' if known else f'pictures that {reader} can not read: {kind}'


def _info_without_pillow(path: str, reader: str) -> ImageInfo:
    """Look at a file that Pillow does not open, with what will read it if known."""
    if not reader:
        return ImageInfo()
    size = _opencv_size(path) if reader == OPENCV else None
    if size is None:
        return ImageInfo(problem='unreadable pictures: of no known format')
    return ImageInfo(*size, 'RGB')


def _info_by_tifffile(path: str, decode: bool) -> ImageInfo | None:
    """Look at a TIFF of any number of bands and bits; None if it is no TIFF."""
    try:
        import tifffile  # an option of mmcv that need not be installed
    except ImportError:
        return None
    try:
        with tifffile.TiffFile(path) as file:
            whole = file.series[0]  # perhaps over several pages
            if decode:
                whole.asarray()
            if whole.axes[0] == BANDS:
                return ImageInfo(problem=f'{IN_PLANES}: {path} is {whole.shape}')
            height, width = whole.shape[:2]  # as mmcv takes it
            return ImageInfo(width, height)
    except tifffile.TiffFileError:
        return None
    except PICTURE_ERRORS as error:
        return ImageInfo(problem=f'unreadable pictures: {one_line(error)[:60]}')


def _opencv_size(path: str) -> tuple[int, int] | None:
    """Return width and height of a picture as OpenCV decodes it; None if it can't."""
    with open(path, 'rb') as file:
        content = np.frombuffer(file.read(), np.uint8)
    try:
        pixels = cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None
    except cv2.error:
        return None
    return None if pixels is None else pixels.shape[1::-1]


def _turn(picture: Image.Image) -> int:
    """Return EXIF's orientation where the header has it."""
    if picture.format not in TURNED_KINDS or 'exif' not in picture.info:
        return 1
    return orientation(picture)


def _has_end(path: str, kind: str) -> bool:
    """Tell whether a file ends like a whole one of its kind."""
    if kind not in ENDS:
        return True
    mark, size = ENDS[kind]
    with open(path, 'rb') as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - size))
        return mark in file.read()


def _counts(picture: Image.Image) -> tuple[tuple[int, int], ...]:
    values = np.asarray(picture)
    if values.ndim != 2 or values.dtype.kind not in 'biu':
        return ()
    if values.dtype.itemsize == 1:
        counts = np.bincount(values.ravel(), minlength=BITS_8)
        found = np.flatnonzero(counts)
        return tuple(zip(found.tolist(), counts[found].tolist(), strict=True))
    found, counts = np.unique(values, return_counts=True)
    return tuple(zip(found.tolist(), counts.tolist(), strict=True))
