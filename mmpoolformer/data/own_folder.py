"""What the own-folder configs derive from the data: length, batch size, picture size.

The head of each config says what it does with them.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

from mmpoolformer.data.checks.images import inspect_image
from mmpoolformer.data.class_folders import SPLITS
from mmpoolformer.data.class_names import read_json
from mmpoolformer.data.classification import TimmDataset

LEAST_STEPS = 1000  # iterations that a detector or segmentor needs to learn anything
MOST_EPOCHS = 300  # however few the pictures: more epochs teach nothing new
LOOKED_AT = 100  # pictures of which the headers are read
UNKNOWN = (1333, 800)  # COCO's long and short side
DIVISOR = 32  # the last stage's stride


@dataclass(frozen=True)
class Schedule:
    """The length of a training and its batch size, for a number of pictures.

    Attributes:
        batch_size: Pictures of an iteration.
        steps: Iterations of an epoch.
        epochs: Passes over the pictures.
    """

    batch_size: int
    steps: int
    epochs: int

    @property
    def warmup(self) -> int:
        """Iterations of the warm-up, at most an epoch."""
        return min(self.steps, LEAST_STEPS // 10)

    @property
    def interval(self) -> int:
        """Epochs between evaluations, of which there are about twelve."""
        return max(1, self.epochs // 12)


def fit_schedule(pictures: int, epochs: int, batch_sizes: Sequence[int]) -> Schedule:
    """Return the schedule for a number of pictures.

    Args:
        pictures: To train on.
        epochs: Passes over many pictures; there are more over few, for `LEAST_STEPS`,
            up to `MOST_EPOCHS`.
        batch_sizes: What to choose from, powers of two, the least first: the largest
            that leaves `LEAST_STEPS` in `epochs`, else the least.
    """
    fits = [size for size in batch_sizes if epochs * pictures >= LEAST_STEPS * size]
    batch_size = max(fits, default=batch_sizes[0])
    while batch_size > max(2, pictures):
        batch_size //= 2
    steps = max(1, pictures // batch_size)
    needed = min(math.ceil(LEAST_STEPS / steps), MOST_EPOCHS)
    return Schedule(batch_size, steps, max(epochs, needed))


def fit_workers(most: int) -> int:
    """Return how many processes read pictures: at most one per core, as torch wants."""
    if hasattr(os, 'sched_getaffinity'):  # else torch, too, counts all
        return min(most, len(os.sched_getaffinity(0)))
    return min(most, os.cpu_count() or 1)


def coco_pictures(ann_file: str | Path) -> tuple[int, tuple[int, int]]:
    """Return how many pictures of a COCO file have annotations, and their usual size.

    Args:
        ann_file: The file; what is wrong in it is left to the check of the data.

    Returns:
        The number, and the medians of their longer and shorter sides, at most COCO's
        own 1333 and 800.
    """
    facts = _facts(str(ann_file), Path(ann_file).stat().st_mtime_ns)
    return facts.annotated, facts.size


def coco_folder(root: str, ann_file: str, folder: str, split: str) -> str:
    """Return the folder that the names in a COCO file are relative to.

    Args:
        root: The data set's.
        ann_file: The file, in `root`.
        folder: Where the pictures are looked for first, in `root`.
        split: `train` or `val`, whose other names and places are looked at next.

    Returns:
        The folder in `root`, with a slash; `folder` if the first picture is nowhere.
    """
    splits = next(names for names in SPLITS if split in names)
    usual = (
        place
        for name in splits
        for place in (f'{folder}/{name}', f'{name}/{folder}', name, f'{name}2017')
    )
    file = Path(root, ann_file)
    first = _facts(str(file), file.stat().st_mtime_ns).first
    for place in (folder, *usual, 'JPEGImages', '.') if first else ():
        if Path(root, place, first).is_file():
            return f'{place}/'
    return f'{folder}/'


@dataclass(frozen=True)
class _Facts:
    """What a COCO file says: pictures with annotations, usual size, first name."""

    annotated: int
    size: tuple[int, int]
    first: str


@cache  # a file may be large, and a config asks twice
def _facts(file: str, changed: int) -> _Facts:
    content = read_json(file)
    images, annotations = (
        [one for one in content.get(section) or () if isinstance(one, dict)]
        for section in ('images', 'annotations')
    )
    annotated = {one.get('image_id') for one in annotations}
    sizes = [(one.get('width'), one.get('height')) for one in images]
    known = [size for size in sizes if all(isinstance(side, int) for side in size)]
    count = sum(one.get('id') in annotated for one in images)
    first = str(images[0].get('file_name') or '') if images else ''
    return _Facts(count, usual_size(known), first)


def seg_pictures(root: str | Path, suffix: str) -> list[Path]:
    """Return the training pictures of an ADE20K-layout folder."""
    return sorted(Path(root, 'images', 'training').rglob(f'*{suffix}'))


def class_pictures(
    root: str | Path, classes: str | Sequence[str] | None
) -> tuple[tuple[str, ...], list[str]]:
    """Return class names and training pictures of an image folder.

    Args:
        root: See `TimmDataset`, also for its errors.
        classes: See `TimmDataset`.
    """
    data = TimmDataset(str(root), 'train', classes=classes, quiet=True)
    return data.metainfo['classes'], data.data.filenames(absolute=True)


def usual_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the medians of longer and shorter sides, at most 1333 and 800."""
    known = [size for size in sizes if min(size) > 0] or [UNKNOWN]
    usual = median(map(max, known)), median(map(min, known))
    return tuple(
        min(int(side), most) for side, most in zip(usual, UNKNOWN, strict=True)
    )


def usual_side(paths: Sequence[str | Path], least: int, most: int) -> int:
    """Return the usual shorter side of pictures, as a multiple of 32 within bounds."""
    step = max(1, len(paths) // LOOKED_AT)
    looks = [inspect_image(str(path)).stored for path in paths[::step]]
    side = usual_size(looks)[1] // DIVISOR * DIVISOR
    return max(least, min(side, most))
