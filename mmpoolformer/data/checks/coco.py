"""Checking annotations in COCO's format.

What mmdet does with them decides what is an error: its CocoDataset leaves out boxes
that are small, outside or of an unknown category without a word, and its labels follow
the order of the file, not of the config.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from mmpoolformer.data.checks.report import ERROR, WARNING, Findings
from mmpoolformer.data.class_names import TWICE_CURE
from mmpoolformer.utils.text import first_few

LARGEST = 2**31  # numbers beyond are taken for damage
SLACK = 1.0  # pixels that rounding may put a box or a point outside
SECTIONS = ('images', 'annotations', 'categories')
LEAST_POINTS = 3
NUMBERS = frozenset((int, float))


@dataclass(frozen=True)
class CocoUse:
    """What a config does with an annotation file.

    Attributes:
        classes: Its class names; empty for those of the file.
        masks: Whether masks are learned or measured.
        evaluated: Whether the file is the truth of an evaluation.
        measured: Whether that measures, and does not write results alone.
        flagged: Whether that is by pycocotools, which needs "iscrowd".
        own_reading: Whether the data set class has a reading of its own, so that names
            of files and the order of classes are for it to say.
        drops_empty: Whether pictures without boxes are left out.
        min_size: Pictures with a shorter side, in pixels, are left out.
    """

    classes: tuple[str, ...] = ()
    masks: bool = False
    evaluated: bool = False
    measured: bool = True
    flagged: bool = False
    own_reading: bool = False
    drops_empty: bool = False
    min_size: int = 0


@dataclass(frozen=True)
class CocoPicture:
    """A picture that an annotation file names.

    Attributes:
        file_name: As the file has it.
        width: In pixels.
        height: In pixels.
    """

    file_name: str
    width: int
    height: int


@dataclass(frozen=True)
class CocoContent:
    """What is left to use of an annotation file.

    Attributes:
        pictures: The pictures, by their ids.
        classes: Class names, in the order of the labels.
        facts: What it holds, in words.
        categories: Names of all classes of the file, by id.
    """

    pictures: dict[int | str, CocoPicture]
    classes: tuple[str, ...]
    facts: list[str]
    categories: dict[int, str] = field(default_factory=dict)


def check_coco(content: object, use: CocoUse, findings: Findings) -> CocoContent:
    """Check a COCO annotation file.

    Args:
        content: What the JSON file holds.
        use: What the config does with it.
        findings: Where faults are reported.

    Returns:
        What is sound; all of it if there are no errors.
    """
    if not isinstance(content, dict):
        findings.error('not a COCO file: the top level is not a JSON object')
        return CocoContent({}, (), [])
    sections = {}
    for key in SECTIONS:
        section = content.get(key)
        if section is None and key == 'annotations' and not use.measured:
            section = []  # as in COCO's test set
        if not isinstance(section, list):
            findings.error(f'has no list "{key}", so it is not in the format of COCO')
            section = []
        sections[key] = section
    categories = _check_categories(sections['categories'], findings)
    classes = _check_classes(categories, use, findings)
    pictures = _check_pictures(sections['images'], use, findings)
    boxes = _Boxes(pictures, categories, classes, use, findings)
    for annotation in sections['annotations']:
        boxes.check(annotation)
    boxes.conclude()
    facts = [
        f'{len(pictures)} pictures',
        f'{boxes.used.total()} boxes of {len(classes)} classes',
        *boxes.facts(),
    ]
    return CocoContent(pictures, classes, facts, categories)


def _check_categories(section: list, findings: Findings) -> dict[int, str]:
    """Return class names by category id, in the file's order."""
    categories = {}
    for i, entry in enumerate(section):
        name = entry.get('name') if isinstance(entry, dict) else None
        number = entry.get('id') if isinstance(entry, dict) else None
        if not isinstance(name, str) or not _is_integer(number):
            findings.error('categories without a whole "id" and a "name"', f'[{i}]')
        elif number in categories:
            findings.error('duplicate category ids', str(number))
        else:
            categories[number] = name
    twice = [name for name, n in Counter(categories.values()).items() if n > 1]
    for name in twice:
        findings.error(f'duplicate class names ({TWICE_CURE})', name)
    if not section:
        findings.error('has no category')
    return categories


def _check_classes(
    categories: dict[int, str], use: CocoUse, findings: Findings
) -> tuple[str, ...]:
    """Compare the config's class names with the file's."""
    wanted, found = use.classes, tuple(categories.values())
    if not wanted or not found or use.own_reading:
        return wanted or found
    for name in wanted:
        if name not in found:
            findings.error(
                'classes of the config that the file (with '
                f'{first_few(map(repr, found), 8)}) does not name',
                name,
            )
    for name in found:
        if name not in wanted:
            findings.warning('categories that the config leaves out', name)
    ordered = [name for name in found if name in wanted]
    if set(wanted) <= set(found) and ordered != list(wanted):
        findings.error(_other_order(ordered, 'the file'))
    return wanted


def _other_order(ordered: list[str], leading: str) -> str:
    return (
        'names the classes in another order than the config, and labels follow '
        f'{leading}: write metainfo=dict(classes=('
        f'{first_few(map(repr, ordered), 8)}))'
    )


def check_order(
    classes: tuple[str, ...],
    categories: dict[int, str],
    labels: dict[int, int],
    findings: Findings,
) -> None:
    """Compare class names with the labels that a data set class gives to categories.

    Names that differ in nothing but their order are an error; where a data set class
    has names of its own, what they stand for is not known.

    Args:
        classes: Class names of the config, in the order of the labels.
        categories: Class names of the file, by id.
        labels: The data set's label of each category id.
        findings: Where faults are reported.
    """
    named = {
        labels[number]: name for number, name in categories.items() if number in labels
    }
    ordered = [named[label] for label in sorted(named)]
    if sorted(ordered) == sorted(classes) and ordered != list(classes):
        findings.error(_other_order(ordered, 'the data set'))


def _check_pictures(
    section: list, use: CocoUse, findings: Findings
) -> dict[int, CocoPicture]:
    pictures, names = {}, Counter()
    for i, entry in enumerate(section):
        entry = entry if isinstance(entry, dict) else {}
        number, name = entry.get('id'), entry.get('file_name')
        if use.own_reading and name is None:  # as in LVIS v1
            name = entry.get('coco_url') or str(number)
        size = entry.get('width'), entry.get('height')
        place = name if isinstance(name, str) and name else f'[{i}]'
        if not _is_id(number):
            findings.error('pictures without an "id", a whole number or a text', place)
        elif not isinstance(name, str) or not name or '\0' in name:
            findings.error('pictures without a "file_name"', place)
        elif not all(_is_integer(side) and side > 0 for side in size):
            findings.error('pictures without "width" and "height"', place)
        elif number in pictures:
            findings.error('duplicate image ids', f'{number}, {place}')
        else:
            pictures[number] = CocoPicture(name, *size)
            names[name] += 1
    if len({isinstance(number, str) for number in pictures}) > 1:
        findings.error(
            'picture ids that are texts in part and numbers in part, which can not be '
            'sorted: write them as numbers'
        )
    for name, count in names.items():
        if count > 1:
            findings.warning('duplicate images', name)
    if not section:
        findings.error('names no picture')
    return pictures


@dataclass
class _Boxes:
    """Checks annotations one by one and keeps count."""

    pictures: dict[int, CocoPicture]
    categories: dict[int, str]
    classes: tuple[str, ...]
    use: CocoUse
    findings: Findings
    ids: set[int] = field(default_factory=set)
    used: Counter = field(default_factory=Counter)  # by picture, without crowds
    crowds: Counter = field(default_factory=Counter)  # by picture
    of_class: Counter = field(default_factory=Counter)  # without crowds
    crowds_of_class: Counter = field(default_factory=Counter)
    over_the_edge: int = 0
    total: int = 0

    def check(self, annotation: object) -> None:
        """Check one annotation."""
        self.total += 1
        if not isinstance(annotation, dict):
            self.findings.error('annotations that are no object', f'[{self.total - 1}]')
            return
        picture = self._picture(annotation)
        place = f'annotation {annotation.get("id")!r}'[:40]
        if picture is None:
            return
        place += f' of {picture.file_name}'
        category = annotation.get('category_id')
        if not _is_integer(category) or category not in self.categories:
            self.findings.error(
                'annotations of a category_id that no category has',
                f'{place}: {category!r}'[:150],
            )
            return
        chosen = self.use.own_reading or self.categories[category] in self.classes
        if not self._check_box(annotation, picture, place) or not chosen:
            return
        if self.use.masks:
            for level, what in mask_problems(annotation.get('segmentation'), picture):
                self.findings.add(level, what, place)
        number = annotation['image_id']
        if annotation.get('iscrowd'):
            self.crowds[number] += 1
            self.crowds_of_class[category] += 1
        else:
            self.used[number] += 1
            self.of_class[category] += 1

    def conclude(self) -> None:
        """Report what only all annotations together tell."""
        if self.total and self.over_the_edge > self.total / 2:
            self.findings.error(
                'more than half of the boxes reach over the edge of their picture: '
                'boxes of COCO are [left, top, width, height]'
            )
        for number, name in self.categories.items():
            if name in self.classes and not self.of_class[number] and self.of_class:
                only = self.crowds_of_class[number] > 0
                what = 'classes of crowds only' if only else 'classes without a box'
                self.findings.warning(what, name)
        if self.crowds and not self.used:
            self.findings.error(
                f'all {self.crowds.total()} boxes are crowds (iscrowd=1), of which '
                'nothing is learned or measured: if they are single objects, as in '
                'exports of CVAT, write "iscrowd": 0'
            )
        elif self.use.evaluated and self.use.measured and not self.used:
            self.findings.warning(
                'has no box to measure with: AP can not be measured, and no best '
                'checkpoint can be chosen by it'
            )
        usable = 0  # pictures that filter_cfg leaves
        for number, picture in self.pictures.items():
            if min(picture.width, picture.height) < self.use.min_size:
                self.findings.warning(
                    f'pictures with a side below {self.use.min_size} pixels, which '
                    'filter_cfg leaves out',
                    picture.file_name,
                )
            elif not self.use.drops_empty or self._has_boxes(number):
                usable += 1
        if self.pictures and not usable:
            self.findings.error(
                'no image to use: none has a box of the classes '
                f'{first_few(map(repr, self.classes), 8)}'
            )

    def _has_boxes(self, number: int) -> bool:
        return bool(self.used[number] or self.crowds[number])

    def facts(self) -> list[str]:
        """Return counts, in words."""
        total = self.crowds.total()
        only = sum(not self.used[number] for number in self.crowds)
        empty = sum(not self._has_boxes(number) for number in self.pictures)
        dropped = ' (left out)' if self.use.drops_empty else ''
        facts = [f'{empty} pictures without boxes{dropped}'] if empty else []
        facts += [f'{total} crowds'] if total else []
        return facts + ([f'{only} pictures of crowds only'] if only else [])

    def _picture(self, annotation: dict) -> CocoPicture | None:
        number, of = annotation.get('id'), annotation.get('image_id')
        if not _is_integer(number):
            self.findings.error(
                'annotations without a whole "id"', f'[{self.total - 1}]'
            )
        elif number in self.ids:
            self.findings.error('duplicate annotation ids', str(number))
        else:
            self.ids.add(number)
        if 'image_id' not in annotation or isinstance(of, (list, dict)):
            self.findings.error(  # pycocotools can't list them
                'annotations without an "image_id"', repr(number)[:40]
            )
            return None
        if not _is_id(of) or of not in self.pictures:
            other = isinstance(of, (int, float, str)) and _other_kind(of)
            if _is_id(other) and other in self.pictures:
                self.findings.error(
                    'annotations whose "image_id" is a text and the picture\'s "id" a '
                    'number, or the contrary: write both alike',
                    f'{of!r}'[:40],
                )
                return None
            self.findings.warning(
                'annotations of an image_id that no picture has', repr(number)[:40]
            )
            return None
        return self.pictures[of]

    def _check_box(self, annotation: dict, picture: CocoPicture, place: str) -> bool:
        """Tell whether mmdet takes the box for training."""
        if annotation.get('ignore'):
            return False
        box, area = annotation.get('bbox'), annotation.get('area')
        if not _are_numbers(box) or len(box) != 4:
            self.findings.error('boxes that are not four finite numbers', place)
            return False
        if area is None:
            self.findings.error(
                'annotations without "area", which mmdet and pycocotools need: write '
                'the pixels of the mask, or width * height of the box',
                place,
            )
            return False
        if not _are_numbers([area]):
            self.findings.error('annotations whose "area" is no finite number', place)
            return False
        if self.use.flagged and annotation.get('iscrowd') not in (0, 1):
            self.findings.error(
                'annotations whose "iscrowd" is neither 0 nor 1, as the evaluation '
                'needs: write "iscrowd": 0 where it is missing',
                place,
            )
        left, top, width, height = box
        right, bottom = left + width, top + height
        if width < 1 or height < 1 or area <= 0:
            self.findings.warning(
                'boxes or areas of less than a pixel, which are left out', place
            )
            return False
        if min(left, top) < -SLACK or (
            right > picture.width + SLACK or bottom > picture.height + SLACK
        ):
            self.over_the_edge += 1
            self.findings.warning('boxes over the edge of their picture', place)
        if left >= picture.width or top >= picture.height or min(right, bottom) <= 0:
            self.findings.warning(
                'boxes outside of their picture, which are left out', place
            )
            return False
        return True


def mask_problems(
    segmentation: object, picture: CocoPicture
) -> Iterator[tuple[str, str]]:
    """Find what is wrong with the mask of an object.

    Args:
        segmentation: Polygons, or a dict with run lengths.
        picture: The picture that it lies in.

    Yields:
        The level, `'error'` or `'warning'`, and what is wrong.
    """
    if not segmentation:
        yield ERROR, 'annotations without a mask ("segmentation"), which is needed'
    elif isinstance(segmentation, dict):
        problem = rle_problem(segmentation, picture.height, picture.width)
        if problem:
            yield ERROR, problem
    elif not isinstance(segmentation, list) or not all(
        isinstance(polygon, list) for polygon in segmentation
    ):
        yield ERROR, 'masks that are neither a list of polygons nor run lengths'
    else:
        yield from _polygon_problems(segmentation, picture)


def _polygon_problems(
    polygons: list[list], picture: CocoPicture
) -> Iterator[tuple[str, str]]:
    if not all(_are_numbers(polygon) for polygon in polygons):
        yield ERROR, 'polygons of what are not finite numbers'
        return
    sound = [p for p in polygons if len(p) % 2 == 0 and len(p) >= 2 * LEAST_POINTS]
    if len(sound) < len(polygons):
        yield (
            WARNING,
            'polygons of an odd count of numbers, or less than 3 points, which are '
            'left out',
        )
    outside = any(
        min(p) < -SLACK
        or max(p[::2]) > picture.width + SLACK
        or max(p[1::2]) > picture.height + SLACK
        for p in sound
    )
    if outside:
        yield WARNING, 'polygons over the edge of their picture'


def rle_problem(rle: dict, height: int, width: int) -> str:
    """Say what is wrong with a mask of run lengths, in COCO's form.

    The C code that decodes them believes what they say: wrong ones can crash it.

    Args:
        rle: `size` (height, width) and `counts`, a list or COCO's compressed text.
        height: Of the picture.
        width: Of the picture.

    Returns:
        What is wrong, empty if nothing is.
    """
    size, counts = rle.get('size'), rle.get('counts')
    if not _are_numbers(size) or list(size) != [height, width]:
        return 'run lengths whose "size" is not height and width of their picture'
    if isinstance(counts, str):
        if not re.fullmatch('[0-o]+', counts):
            return 'run lengths whose text holds other letters than COCO writes'
        counts = decode_counts(counts)
    elif not _are_numbers(counts) or not all(type(n) is int for n in counts):
        return 'run lengths that are no whole numbers'
    if not counts or min(counts) < 0 or sum(counts) != height * width:
        return 'run lengths that do not add up to the pixels of their picture'
    return ''


def decode_counts(text: str) -> list[int]:
    """Read COCO's compressed run lengths.

    Each number is written in groups of five bits, the low ones first, a sixth bit says
    that there are more; from the fourth number on it is the difference to the number
    before the last.

    Returns:
        The numbers, or none if the text ends within one or one has over 60 bits.
    """
    groups = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(groups & 32 == 0)
    if not len(ends) or ends[-1] != len(groups) - 1:
        return []
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 12:
        return []
    place = np.arange(len(groups)) - np.repeat(starts, lengths)
    values = np.add.reduceat((groups & 31) << (5 * place), starts)
    negative = groups[ends] & 16 != 0
    values -= np.where(negative, 1 << (5 * lengths), 0)
    numbers = [int(n) for n in values]
    for i in range(3, len(numbers)):
        numbers[i] += numbers[i - 2]
    return numbers


def _is_integer(value: object) -> bool:
    """Tell whether this is a whole number, also one written as 1.0."""
    whole = type(value) is int or (type(value) is float and value.is_integer())
    return whole and abs(value) < LARGEST**2


def _is_id(value: object) -> bool:
    """Tell whether a picture can have this id, in mmdet and in pycocotools."""
    return _is_integer(value) or (isinstance(value, str) and value != '')


def _other_kind(value: float | str) -> float | str | None:
    """Return an id as a number if it is a text, and the contrary."""
    if not isinstance(value, str):
        return str(value)
    return int(value) if value.isdecimal() and len(value) < 19 else None


def _are_numbers(values: object) -> bool:
    """Tell whether this is a list of finite numbers of a sound size."""
    if not isinstance(values, list) or not NUMBERS.issuperset(map(type, values)):
        return False
    if not values:
        return True
    # Whatever is compared with NaN, and whatever it is added to, gives it away.
    in_bounds = min(values) > -LARGEST and max(values) < LARGEST
    return in_bounds and not math.isnan(sum(values))
