"""Ids of a COCO annotation file, for results that are measured against it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmpoolformer.data.class_names import coco_classes, read_json
from mmpoolformer.utils.text import first_few


@dataclass(frozen=True)
class CocoIds:
    """What an annotation file calls pictures and classes.

    Attributes:
        images: Ids by the paths of the pictures.
        categories: Ids in the order of the classes.
    """

    images: dict[str, int | str]
    categories: tuple[int, ...]


def read_coco_ids(
    file: str | Path, pictures: Sequence[str], classes: Sequence[str]
) -> CocoIds:
    """Find pictures and classes in an annotation file.

    Args:
        file: The file.
        pictures: Paths. What a path ends on, as long as possible, is looked for among
            the file names, and then its last part among their last parts.
        classes: Names of classes.

    Raises:
        ValueError: If the file is not COCO's format, lacks a picture or a class, or it
            is not certain which picture is which.
    """
    known, content = coco_classes(file), read_json(file)
    missing = sorted(set(classes) - set(known))
    if missing:
        raise ValueError(
            f'{file}: has no classes {missing}, which the model has; it has '
            f'{first_few(known)}; --classes FILE gives the model others'
        )
    try:
        ids = dict(
            zip(known, (one['id'] for one in content['categories']), strict=True)
        )
        named = [(Path(one['file_name']).parts, one['id']) for one in content['images']]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f'{file}: "images" and "categories" need ids, and images a "file_name" '
            f'({error!r})'
        ) from error
    images = _image_ids(str(file), named, pictures)
    return CocoIds(images, tuple(ids[name] for name in classes))


def _image_ids(
    file: str, named: list[tuple[tuple, int | str]], pictures: Sequence[str]
) -> dict[str, int | str]:
    by_path, by_name, taken = defaultdict(list), defaultdict(list), {}
    for parts, number in named:
        by_path[parts].append(number)
        by_name[parts[-1:]].append(number)
    for picture in pictures:
        parts = Path(picture).absolute().parts
        ends = (by_path[parts[i:]] for i in range(len(parts)) if parts[i:] in by_path)
        found = next(ends, None) or by_name.get(parts[-1:], [])
        if len(found) != 1:
            what = f'images {first_few(found)} may all be' if found else 'no image is'
            raise ValueError(f'{file}: {what} {picture}, by their "file_name"')
        other = taken.setdefault(found[0], picture)
        if other != picture:
            raise ValueError(f'{file}: image {found[0]} may be {other} or {picture}')
    return {picture: number for number, picture in taken.items()}
