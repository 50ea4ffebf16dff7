"""Looking at many picture files: their headers, or all of them."""

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image

from mmpoolformer.classification.pictures import (
    FORMATS,
    PICTURE_ERRORS,
    orientation,
)
from mmpoolformer.engine.errors import one_line
from mmpoolformer.progress import progress_bar

# Kinds of files in which OpenCV heeds EXIF's orientation.
TURNED_KINDS = ('JPEG', 'MPO', 'PNG')
SIDEWAYS = (5, 6, 7, 8)  # orientations that swap width and height
# What whole files have near their ends, and in how many bytes it is looked for.
ENDS = {'JPEG': (b'\xff\xd9', 65536), 'MPO': (b'\xff\xd9', 65536), 'PNG': (b'IEND', 64)}
# What the libraries that read pictures for training take, in pixels.
OPENCV_LIMIT = 2**30
PILLOW_LIMIT = 2 * int(Image.MAX_IMAGE_PIXELS or 89_478_485)
MOST_WORKERS = 16
LONG_WORK = 5000  # files for which the bar is drawn in a log, too
BITS_8 = 256


@dataclass(frozen=True)
class Look:
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


def look(path: str, decode: bool = False) -> Look:
    """Read a picture's header, and all of it if its end is missing.

    Args:
        path: The file.
        decode: Whether to decode it whole in any case.
    """
    return _looked(path, decode, counted=False)


def look_at_labels(path: str, decode: bool = True) -> Look:
    """Read a picture of labels and count its values, see `look`.

    Without `decode` they are counted only where the values have more than 8 bits.
    """
    return _looked(path, decode, counted=True)


def look_at_all(
    paths: Sequence[str],
    how: Callable[[str, bool], Look],
    decode: Sequence[bool],
    workers: int | None,
    text: str,
) -> list[Look]:
    """Look at many files at the same time.

    Args:
        paths: The files.
        how: `look` or `look_at_labels`.
        decode: For each file whether to decode it.
        workers: Threads; None for a few more than there are cores, because reading
            waits for the disk (Pillow decodes in threads side by side).
        text: What the progress bar calls it.
    """
    workers = workers or min(MOST_WORKERS, 2 * (os.cpu_count() or 1) + 2)
    looks = []
    with (
        _any_size(),
        progress_bar(len(paths), text, shown=_is_shown(len(paths))) as bar,
        ThreadPoolExecutor(workers) as pool,
    ):
        try:
            for one in pool.map(how, paths, decode):
                looks.append(one)
                bar.update()
        finally:  # after Ctrl-C what is not begun is dropped
            pool.shutdown(wait=False, cancel_futures=True)
    return looks


def report_looks(
    paths: Sequence[str],
    looks: Sequence[Look],
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


def _looked(path: str, decode: bool, counted: bool) -> Look:
    if not os.path.isfile(path):  # a pipe would be waited for
        return Look(problem='pictures that are not there')
    try:
        with Image.open(path, formats=FORMATS) as picture:
            width, height = picture.size
            turn = _turn(picture)
            mode = picture.mode
            small = width * height <= PILLOW_LIMIT
            deep = counted and mode[:1] == 'I'
            whole = _has_end(path, picture.format)
            counts = ()
            if small and (decode or deep or not whole):
                picture.load()
                counts = _counts(picture) if counted and (decode or deep) else ()
    except PICTURE_ERRORS as error:
        return Look(problem=f'unreadable pictures: {one_line(error)[:60]}')
    return Look(width, height, mode, turn, counts=counts)


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


@contextmanager
def _any_size() -> Iterator[None]:
    """Let Pillow open pictures of any size; their headers say how large they are."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of odd EXIF and the like
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _is_shown(count: int) -> bool:
    return sys.stderr.isatty() or count >= LONG_WORK
