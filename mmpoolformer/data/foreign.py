"""Data sets of other formats: which one it is, and what makes COCO's of it."""

import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmpoolformer.data.class_folders import SPLITS
from mmpoolformer.utils.files import json_or_none
from mmpoolformer.utils.text import first_few

MOST_FILES = 100  # of an ending in a folder, that are looked at
YOLO_LINE = re.compile(r'\d+(\s+[-\d.e]+){4,}\s*$')
XML_ROOT = re.compile(r'<(annotations?)\b')
HEAD = 2000  # characters of a text file that tell what it is
EXPORT = "export it again as COCO, which is one of {}'s own formats"


def foreign_format(root: str | Path) -> str:
    """Say what a data set is that is not COCO's, and how to convert it.

    Args:
        root: Its folder.

    Returns:
        Such as `it looks like YOLO's: ...`; empty for none that is known.
    """
    by_ending: dict[str, list[Path]] = {}
    for file in _walk(root):
        by_ending.setdefault(file.suffix.lower(), []).append(file)
    xml = [file for file in by_ending.get('.xml', ()) if _xml_root(file)]
    if xml and _xml_root(xml[0]) == 'annotations':
        return f"it looks like CVAT's: {EXPORT.format('CVAT')}"
    if xml:
        return _conversion(root, "Pascal VOC's", 'from_pascal_voc', xml)
    texts = by_ending.get('.txt', ())
    labels = [file for file in texts if YOLO_LINE.match(_head(file).split('\n')[0])]
    if labels:
        yaml = [*by_ending.get('.yaml', ()), *by_ending.get('.yml', ())]
        names = yaml[0] if yaml else Path(root, 'data.yaml')
        cure = '' if yaml else f' write {names} (names: [CLASS, ...]), then'
        return _conversion(root, "YOLO's", 'from_yolo', labels, names, cure)
    for file in by_ending.get('.json', ())[:1]:
        content = json_or_none(file)
        if isinstance(content, dict) and {'shapes', 'imagePath'} <= content.keys():
            return _conversion(root, "labelme's", 'from_labelme', by_ending['.json'])
        first = content[0] if isinstance(content, list) and content else None
        if isinstance(first, dict) and {'annotations', 'data'} <= first.keys():
            return f"it looks like Label Studio's: {EXPORT.format('Label Studio')}"
    return ''


def _conversion(
    root: str | Path,
    kind: str,
    reader: str,
    annotations: list[Path],
    names: Path | None = None,
    cure: str = '',
) -> str:
    """Return the command that writes COCO's annotations beside the pictures."""
    places = sorted({file.parent for file in annotations})
    splits = [_of_split(root, places, names) for names in SPLITS]
    chosen = splits if all(splits) else [places]
    if any(len(part) > 1 for part in chosen):
        return (
            f'it looks like {kind}, in several folders ({first_few(places)}): put it '
            'into one, or one for train and one for val'
        )

    def read(place: Path) -> str:
        paths = [_pictures(place), place, *([names] if names else [])]
        quoted = ', '.join(json.dumps(str(path)) for path in paths)
        return f'sv.DetectionDataset.{reader}({quoted})'

    steps = [f'parts = [{", ".join(read(place) for [place] in chosen)}]']
    if chosen is not splits:
        steps += ['parts = parts[0].split(0.8, random_state=0)']
    elif not names:  # each part has numbered the classes in its own order
        steps += [
            'none = sv.DetectionDataset(sum((x.classes for x in parts), []), [], {})',
            'parts = [sv.DetectionDataset.merge([x, none]) for x in parts]',
        ]
    files = [f'{root}/annotations/{split}.json' for split in ('train', 'val')]
    steps += [
        f'files = {json.dumps(files)}',
        '[x.as_coco(annotations_path=f) for x, f in zip(parts, files)]',
        # supervision makes crowds, which count as nothing, of masks of several pieces
        'made = [json.load(open(f)) for f in files]',
        '[one.update(iscrowd=0) for x in made for one in x["annotations"]]',
        '[json.dump(x, open(f, "w")) for x, f in zip(made, files)]',
    ]
    code = '; '.join(['import json, supervision as sv', *steps])
    return (
        f'it looks like {kind}; convert it (pip install supervision):{cure} '
        f'python -c {shlex.quote(code)}'
    )


def _of_split(
    root: str | Path, places: Sequence[Path], names: Sequence[str]
) -> list[Path]:
    """Return the places of a split, by the first of its names that a folder has."""
    found = ([x for x in places if name in x.relative_to(root).parts] for name in names)
    return next(filter(None, found), [])


def _pictures(place: Path) -> Path:
    """Return the folder of the pictures whose annotations are in `place`."""
    for name, other in (('labels', 'images'), ('Annotations', 'JPEGImages')):
        parts = [other if part == name else part for part in place.parts]
        if parts != [*place.parts] and Path(*parts).is_dir():
            return Path(*parts)
    return place


def _walk(root: str | Path) -> Iterator[Path]:
    """Yield some files of each ending in each folder, however many others have."""
    for folder, folders, files in os.walk(root):
        folders.sort()
        seen = Counter()
        for file in (Path(folder, name) for name in sorted(files)):
            seen[file.suffix.lower()] += 1
            if seen[file.suffix.lower()] <= MOST_FILES:
                yield file


def _head(file: Path) -> str:
    try:
        with file.open(encoding='utf-8') as lines:
            return lines.read(HEAD)
    except (OSError, ValueError):
        return ''


def _xml_root(file: Path) -> str:
    found = XML_ROOT.search(_head(file))
    return found[1] if found else ''
