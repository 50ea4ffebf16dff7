"""Reads class names from the files that lie beside one's own data."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from mmpoolformer.data.foreign import foreign_format
from mmpoolformer.utils.text import first_few, shown

TWICE_CURE = (
    'rename one, or remove the one without annotations from "categories", such as the '
    'root category of exports of Roboflow'
)


def read_json(file: str | Path) -> object:
    """Read a JSON file.

    Raises:
        ValueError: If the file is missing or is not JSON; names the file.
    """
    path = Path(file)
    if not path.is_file():
        others = first_few(sorted(one.name for one in path.parent.glob('*.json')))
        hint = f'; {path.parent} has {others}' if others else ''
        raise ValueError(f'{path}: no such file{hint}')
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:  # also of numbers of 4,300 digits
        raise ValueError(f'{path}: not a JSON file ({error})') from error


def read_class_names(file: str | Path) -> tuple[str, ...]:
    """Read class names from a text file, one per line, in the order of the labels.

    The file is UTF-8, with or without a byte order mark; spaces around a name and
    empty lines at the end don't count.

    Raises:
        ValueError: If the file is missing or is not text, has no name, an empty line
            between names or a duplicate name; names the file and the lines.
    """
    path = Path(file)
    if not path.is_file():
        raise ValueError(f'{path}: no such file of class names')
    try:
        text = path.read_text(encoding='utf-8-sig')
    except ValueError as error:
        raise ValueError(
            f'{path}: not UTF-8 text; save the class names as UTF-8, one per line'
        ) from error
    names = tuple(line.strip() for line in text.rstrip().split('\n'))
    if not any(names):
        raise ValueError(f'{path}: no class names; write one per line')
    if '' in names:
        raise ValueError(
            f'{path}: line {names.index("") + 1} is empty; remove it, because labels '
            'are counted by lines'
        )
    _refuse_duplicates(names, str(path))
    return names


def chosen_classes(classes: str | PathLike | Sequence[str]) -> tuple[str, ...]:
    """Return the class names of a setting `classes`: a file of them, or themselves.

    Raises:
        ValueError: See `read_class_names`.
    """
    if isinstance(classes, (str, PathLike)):
        return read_class_names(classes)
    names = tuple(str(name) for name in classes)
    if not names:
        raise ValueError('classes: no class names; list them, or name a file of them')
    _refuse_duplicates(names, 'classes')
    return names


def _refuse_duplicates(names: Sequence[str], place: str) -> None:
    """Raise a `ValueError` with the lines (from 1) of a name that stands twice."""
    for name, count in Counter(names).items():
        if count > 1:
            lines = [str(i) for i, other in enumerate(names, start=1) if other == name]
            raise ValueError(
                f'{place}: duplicate class {shown(name)!r} (lines {", ".join(lines)})'
            )


def coco_classes(*ann_files: str | Path) -> tuple[str, ...]:
    """Return the class names of COCO annotation files, in the files' order.

    Args:
        ann_files: One or more annotation files, such as those of the training and
            the validation part. They must name the same classes in the same order.

    Raises:
        ValueError: If a file is missing, is not COCO's format, has no class or one
            name twice, or two files differ; if the folder is of another format, names
            it, and the conversion.
    """
    names = {str(file): _categories(file) for file in ann_files}
    first, *others = names
    for other in others:
        if names[other] != names[first]:
            raise ValueError(
                f'{first} and {other} name different classes: {names[first]} and '
                f'{names[other]}; write the same "categories" into both, and give the '
                'annotations their ids'
            )
    return names[first]


def _categories(file: str | Path) -> tuple[str, ...]:
    try:
        content = read_json(file)
    except ValueError as error:
        raise ValueError(f'{error}{_other_format(file)}') from error
    categories = content.get('categories') if isinstance(content, dict) else None
    if not isinstance(categories, list) or not categories:
        raise ValueError(
            f'{file}: has no "categories", so it is not COCO\'s format'
            f'{_other_format(file)}'
        )
    if not all(isinstance(entry, dict) and 'name' in entry for entry in categories):
        raise ValueError(f'{file}: has "categories" without a "name"')
    names = tuple(str(category['name']) for category in categories)
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise ValueError(f'{file}: duplicate class names {twice}: {TWICE_CURE}')
    return names


def _other_format(file: str | Path) -> str:
    """Say what the data set of an annotation file is, if it is not COCO's."""
    folder = Path(file).parent
    found = foreign_format(folder.parent if folder.name == 'annotations' else folder)
    return f'; {found}' if found else ''


@dataclass(frozen=True)
class SegClasses:
    """The classes of a segmentation folder.

    Attributes:
        names: Class names; the index is the label that the model learns.
        ids: The value that stands for each class in the annotation pictures.
        ignored: Values that stand for no class.
        palette: A colour (red, green, blue) from 0 to 255 for each class, or empty.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]
    ignored: tuple[int, ...]
    palette: tuple[tuple[int, int, int], ...]


def seg_classes(data_root: str | Path) -> SegClasses:
    """Read the classes of an ADE20K-layout folder.

    `classes.txt`: one name a line; line k (from 1) stands for the value k in the
    annotation pictures and 0 is not labelled, as in ADE20K. `classes.json`: a list
    under "classes" with "id" (the value), "name", and if wanted "color" and
    "ignore", for values that begin at 0 or have gaps. The value 255 is no class unless
    classes.json has it as an "id", as for binary masks of 0 and 255.

    Raises:
        ValueError: If neither file is there or its content can't be used.
    """
    data, text = Path(data_root, 'classes.json'), Path(data_root, 'classes.txt')
    if data.is_file():
        content = read_json(data)
        entries = content.get('classes') if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise ValueError(f'{data}: has no list named "classes"')
        return _from_entries(entries, data)
    if text.is_file():
        names = read_class_names(text)
        entries = [{'id': i, 'name': name} for i, name in enumerate(names, start=1)]
        return _from_entries(entries, text)
    raise ValueError(
        f'{data_root}: neither classes.txt (one class name a line) nor classes.json '
        'there'
    )


def _from_entries(entries: list[dict], file: Path) -> SegClasses:
    used = [entry for entry in entries if not entry.get('ignore', False)]
    ids = tuple(int(entry['id']) for entry in used)
    names = tuple(str(entry['name']).strip() for entry in used)
    if not names or '' in names or len(set(names)) < len(names):
        raise ValueError(
            f'{file}: give at least one class, each with a name of its own'
        )
    if len(set(ids)) < len(ids) or not set(ids) <= set(range(256)):
        raise ValueError(f'{file}: ids must differ and lie in 0..255, found {ids}')
    colours = [entry.get('color') for entry in used]
    palette = tuple(tuple(c) for c in colours) if all(colours) else ()
    ignored = {int(entry['id']) for entry in entries} - set(ids)
    return SegClasses(names, ids, tuple(sorted(ignored | {0, 255} - set(ids))), palette)
