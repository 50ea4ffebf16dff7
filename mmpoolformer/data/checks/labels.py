"""Checking pictures of labels (label maps in files) for segmentation.

The label that a value in a file becomes is measured: the data set's own transforms read
a tiny picture of each value.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mmpoolformer.data.checks.images import BITS_8, ImageInfo
from mmpoolformer.data.checks.report import Findings
from mmpoolformer.utils.errors import one_line
from mmpoolformer.utils.text import first_few

# How a pipeline turns any values into labels; `ids` are the values, by class.
MAP = "dict(type='mmpoolformer.MapLabels', ids=[...]) after LoadAnnotations"
BACKGROUND = frozenset(('background', 'bg', 'backgrounds'))
IGNORED_VALUE = 255  # marks pixels without a label
MOST_IGNORED = 0.5  # of the pixels that are not marked with 255
# Modes of Pillow with more than one number a pixel; `F` is reported elsewhere.
COLOURED = ('RGB', 'RGBA', 'LA', 'PA', 'CMYK', 'YCbCr', 'LAB', 'HSV', 'RGBX')
# Labels after reading, and what else a value can be.
Mapped = int | str


@dataclass(frozen=True)
class LabelUse:
    """What a config does with labels.

    Attributes:
        num_classes: Labels from 0 to this less one are learned.
        ignored: The label that is not.
        zero_is_ignored: Whether `reduce_zero_label` is set.
        every: Whether all pictures of labels were read, not some.
        trained: Whether they are learned from, not measured with.
        classes: Class names, in the order of the labels.
    """

    num_classes: int
    ignored: int = 255
    zero_is_ignored: bool = False
    every: bool = False
    trained: bool = True
    classes: tuple[str, ...] = ()


def measure_mapping(
    transforms: Sequence[Callable[[dict], dict]], info: Mapping
) -> dict[int, Mapped]:
    """Find out what label each value of a file becomes.

    Args:
        transforms: Those of the data set's pipeline that make labels, in their order.
        info: The data set's entry of a picture, with its path and options.

    Returns:
        For each value from 0 to 255 the label, or the message with which a transform
        refuses it.
    """
    mapping = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'labels.png'
        for value in range(BITS_8):
            Image.fromarray(np.full((2, 2), value, np.uint8)).save(path)
            results = {**info, 'seg_map_path': str(path), 'seg_fields': []}
            try:
                for transform in transforms:
                    results = transform(results)
            except (AssertionError, ValueError) as error:
                mapping[value] = one_line(error).replace(str(path), 'the file')
            else:
                mapping[value] = int(results['gt_seg_map'].flat[0])
    return mapping


def check_labels(
    paths: Sequence[str],
    looks: Sequence[ImageInfo],
    mapping: Mapping[int, Mapped],
    use: LabelUse,
    findings: Findings,
) -> list[str]:
    """Check what labels pictures hold.

    Args:
        paths: The pictures of labels.
        looks: What they are; those without counts were not read.
        mapping: See `measure_mapping`.
        use: What the config does with them.
        findings: Where faults are reported.

    Returns:
        What they hold, in words.
    """
    labels, values = Counter(), Counter()
    for path, one in zip(paths, looks, strict=True):
        if one.problem:
            continue
        if one.mode in COLOURED:
            findings.error(
                'pictures of labels that are coloured (one value a pixel is wanted)',
                f'{path}, {one.mode}',
            )
            continue
        own = _labels_of(path, one, mapping, use, findings)
        values.update(dict(one.counts))
        labels.update(own)
        if own and set(own) == {use.ignored}:
            findings.warning('pictures of labels in which every pixel is ignored', path)
    if not values:
        return []
    highest = max((value for value in values if value != use.ignored), default=0)
    as_they_are = mapping.get(use.num_classes) == use.num_classes
    if use.every and as_they_are and highest == use.num_classes:
        findings.error(
            f'values go up to num_classes={use.num_classes}: if 0 is no class, set '
            'reduce_zero_label=True'
        )
    _check_values(values, labels, mapping, use, findings)
    missing = [k for k in range(use.num_classes) if not labels[k]]
    for label in missing if use.every else ():
        findings.warning('labels without a pixel', str(label))
    share = labels[use.ignored] / max(1, labels.total())
    return [
        f'labels of {use.num_classes - len(missing)} of {use.num_classes} classes',
        f'{100 * share:.0f} % of the pixels ignored',
    ]


def _labels_of(
    path: str,
    one: ImageInfo,
    mapping: Mapping[int, Mapped],
    use: LabelUse,
    findings: Findings,
) -> dict[int, int]:
    """Return how many pixels of a picture have each label."""
    labels = Counter()
    for value, count in one.counts:
        if not 0 <= value < BITS_8:
            findings.error(
                'pictures of labels with values beyond 8 bits, of which mmseg would '
                'keep the lowest 8',
                f'{path}: {value} would become {value % BITS_8}',
            )
            return {}
        label = mapping[value]
        if isinstance(label, str):
            findings.error('labels refused', f'{path}: {label}')
        elif label != use.ignored and not 0 <= label < use.num_classes:
            findings.error(
                f'labels outside of 0 to {use.num_classes - 1}, other than the ignored '
                f'{use.ignored} (num_classes={use.num_classes}, '
                f'reduce_zero_label={use.zero_is_ignored}): correct these two, or '
                f'map the values by {MAP}',
                f'{path}: value {value}, label {label}',
            )
        else:
            labels[label] += count
    return labels


def _check_values(
    values: Counter,
    labels: Counter,
    mapping: Mapping[int, Mapped],
    use: LabelUse,
    findings: Findings,
) -> None:
    """Report values that are sound one by one, but not for these classes."""
    found = {value for value in values if value != IGNORED_VALUE}
    learned = labels.keys() - {use.ignored}
    if found == {0} and mapping[IGNORED_VALUE] == use.ignored and values[IGNORED_VALUE]:
        findings.error(
            'binary pictures of labels (values 0 and 255), of which '
            f'{"both are" if mapping[0] == use.ignored else "255 is"} ignored: write '
            'classes.json with "id" 0 and 255 (own folders), or set '
            f'reduce_zero_label=False and {MAP.replace("...", "0, 255")}'
        )
    elif _are_shifted(mapping, use) and _check_shift(
        found, values, labels, use, findings
    ):
        return
    elif not findings.errors and len(learned) <= use.trained:
        which = f'label {min(learned)} is the only one' if learned else 'no label is'
        findings.error(
            f'nothing to learn: {which} left of the values '
            f'{first_few(sorted(values), 8)}, the others are ignored: correct '
            'reduce_zero_label or the classes '
            f'(classes.txt, classes.json), or map the values by {MAP}'
        )
    else:
        _check_ignored(values, mapping, use, findings)


def _are_shifted(mapping: Mapping[int, Mapped], use: LabelUse) -> bool:
    """Tell whether value 0 is ignored, and all others count from 1."""
    values = range(1, min(use.num_classes + 1, IGNORED_VALUE))
    return mapping[0] == use.ignored and all(mapping.get(v) == v - 1 for v in values)


def _check_shift(
    found: set[int],
    values: Counter,
    labels: Counter,
    use: LabelUse,
    findings: Findings,
) -> bool:
    """Report values counted from 0 where that one is ignored; tell whether they are."""
    if not values[0] or labels[use.num_classes - 1]:
        return False
    background = use.classes[:1] and use.classes[0].strip(' _').lower() in BACKGROUND
    as_many = use.trained and use.every and found == set(range(use.num_classes))
    cure = (
        'set reduce_zero_label=False'
        if use.zero_is_ignored
        else 'write classes.json with "id" from 0 in place of classes.txt'
    )
    if background or as_many:
        findings.error(
            f'value 0 is ignored, but the values ({first_few(sorted(found), 8)}) '
            f'seem to be counted from 0, as the last of {use.num_classes} classes has '
            f'no pixel: every class would be shifted by one; {cure}'
        )
    elif use.every:
        findings.warning(
            'value 0 is ignored and the last class has no pixel: if values are '
            f'counted from 0, {cure}'
        )
    return bool(background or as_many)


def _check_ignored(
    values: Counter,
    mapping: Mapping[int, Mapped],
    use: LabelUse,
    findings: Findings,
) -> None:
    """Say that most pixels are ignored, without 255 that says so."""
    ignored = [
        value
        for value in values
        if value != IGNORED_VALUE and mapping.get(value) == use.ignored
    ]
    counted = max(1, values.total() - values[IGNORED_VALUE])
    share = sum(values[value] for value in ignored) / counted
    if share > MOST_IGNORED:
        findings.warning(
            f'most pixels ({100 * share:.0f} %) are ignored, as the values '
            f'{first_few(sorted(ignored), 8)} are no class: if they are one, such as '
            'the background, name it in classes.json with its "id" (own folders) or '
            'set reduce_zero_label=False'
        )
