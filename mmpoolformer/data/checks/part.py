"""One data set of a config, and what the checks of every kind of data share."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mmengine.config import Config
from torch.utils.data import Dataset

from mmpoolformer.data.checks.built import wrong_class_count
from mmpoolformer.data.checks.images import (
    OPENCV,
    ImageInfo,
    inspect_all,
    inspect_image,
    report_images,
)
from mmpoolformer.data.checks.report import DataReport, Findings
from mmpoolformer.data.checks.resizing import smallest_scales, vanishes
from mmpoolformer.utils.nested import dicts_in
from mmpoolformer.utils.text import type_name

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
HEADS = ('bbox_head', 'mask_head', 'decode_head', 'auxiliary_head')
# Settings of a panoptic or masked-attention head, whose sum is its classes.
PANOPTIC = ('num_things_classes', 'num_stuff_classes')
ENTRIES = re.compile(r'(\.\d+)+$')  # the numbers of a place in lists
LABEL_TRANSFORMS = ('LoadAnnotations', 'MapLabels')
FLIPPED = (2, 3, 4)  # orientations of EXIF that keep width and height


@dataclass(frozen=True)
class Options:
    """How thoroughly to check.

    Attributes:
        decode: Whether to decode every picture.
        workers: Threads that read pictures; None for the default of `inspect_all`.
    """

    decode: bool = False
    workers: int | None = None


@dataclass(frozen=True)
class Part:
    """A data set with what the config says around it.

    Attributes:
        config: The config.
        loader: The setting that has the data set.
        leaf: The data set's own setting, without wrappers.
        dataset: The data set, built but not read.
        options: How thoroughly to check it.
    """

    config: Config
    loader: str
    leaf: Mapping
    dataset: Dataset
    options: Options

    @property
    def evaluated(self) -> bool:
        """Whether it is the truth of an evaluation."""
        return self.loader != LOADERS[0]

    @property
    def steps(self) -> list[Mapping]:
        """The pipeline, as far as it is written in the config."""
        return [s for s in self.leaf.get('pipeline') or () if isinstance(s, Mapping)]


def step_name(step: Mapping) -> str:
    """Return the name of a step's or data set's type, be it a text or a class."""
    return type_name(step.get('type'))


def inspect_pictures(
    paths: Sequence[str],
    part: Part,
    limit: int,
    report: DataReport,
    reader: str | None = None,
    add: Callable[[str, str], None] | None = None,
) -> list[ImageInfo]:
    """Look at the pictures of a data set.

    Args:
        paths: The files.
        part: The data set.
        limit: Most pixels that their reader takes.
        report: Gets what is wrong with them, and their names.
        reader: What decodes them, by mmcv's names; by default what the pipeline says.
        add: Takes what is wrong, and an example; by default the report's errors.

    Returns:
        What is known of each.
    """
    options = part.options
    decode = [options.decode] * len(paths)
    reader = _picture_reader(part) if reader is None else reader
    how = partial(inspect_image, reader=reader)
    looks = inspect_all(paths, how, decode, options.workers, 'pictures')
    report_images(paths, looks, limit, add or report.findings.error)
    report.files += paths
    scales = smallest_scales(part.steps)
    for path, one in zip(paths, looks, strict=True):
        if one.width and any(vanishes(one.seen, scale) for scale in scales):
            report.findings.error(
                'pictures so narrow that resizing leaves no pixel of one side',
                f'{path}, {one.width}x{one.height}',
            )
    return looks


def _picture_reader(part: Part) -> str:
    """Return what decodes the pictures, by mmcv's names; empty if it is not known."""
    for step in part.steps:
        name = step_name(step)
        if name == 'LoadImageFromFile':
            return step.get('imdecode_backend') or OPENCV
        if name.startswith('Load') and name not in LABEL_TRANSFORMS:
            return ''
    return OPENCV


def check_size(
    path: str, size: tuple[int, int], one: ImageInfo, findings: Findings
) -> None:
    """Compare a picture with the width and height that its annotations are for."""
    if one.problem or not one.width:
        return
    if one.seen == size:
        square = one.width == one.height
        if one.turn in FLIPPED or (one.turn != 1 and square):
            findings.warning(
                'pictures that EXIF turns or mirrors without a change of size, as '
                'training will see them: be sure that the boxes are for that',
                f'{path}, orientation {one.turn}',
            )
        return
    found = f'{one.seen[0]}x{one.seen[1]}'
    if one.stored == size:
        findings.error(
            'pictures that EXIF turns, with annotations for the unturned ones: turn '
            'the pixels and drop the tag',
            f'{path}, orientation {one.turn}',
        )
        return
    findings.error(
        'pictures of another size than their annotations say',
        f'{path} is {found}, not {size[0]}x{size[1]}',
    )


def check_heads(config: Config, classes: Sequence[str], findings: Findings) -> None:
    """Compare the heads' numbers of classes with the data's."""
    if not classes:
        return
    for place, count in class_counts(config.model):
        if count != len(classes):
            findings.error(wrong_class_count(count, classes, place))


def class_counts(model: Mapping) -> Iterator[tuple[str, int]]:
    """Find the settings of a classifier or of heads for their numbers of classes."""
    for place, part in dicts_in(model, 'model'):
        name = ENTRIES.sub('', place).rpartition('.')[2]
        has_classes = place == 'model' or name in HEADS
        if has_classes and isinstance(part.get('num_classes'), int):
            yield f'{place}.num_classes', part['num_classes']
        counts = [part.get(kind) for kind in PANOPTIC]
        if name == 'panoptic_head' and all(isinstance(n, int) for n in counts):
            yield f'{place}.{" + ".join(PANOPTIC)}', sum(counts)


def folders_of(root: str, files: Sequence[str]) -> list[str]:
    """Return the folders from a root down to files."""
    folders = {root, *(os.path.dirname(file) for file in files)}
    above = {str(up) for folder in folders for up in Path(folder).parents}
    inside = {folder for folder in above if Path(folder).is_relative_to(root)}
    return sorted(folders | inside)
