"""Folders of pictures by class, also in a tar file: what is read, as which class.

timm's readers take the innermost folder for the class, count hidden folders, read three
endings and order names that differ only in case by chance. Here the class is the folder
directly below the root; in tar files, which may have more folders around the classes,
it is the innermost, and all must lie at the same place.
"""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from timm.data.readers.class_map import load_class_map
from timm.data.readers.reader import Reader
from timm.data.readers.reader_image_in_tar import ReaderImageInTar, extract_tarinfos

from mmpoolformer.utils.images import SUFFIXES
from mmpoolformer.utils.text import first_few, shown

# Folders that systems and programs make beside data; those of a dot are hidden.
STRANGE = (
    '$RECYCLE.BIN',
    '@eaDir',
    'System Volume Information',
    '__MACOSX',
    '__pycache__',
    'lost+found',
)
# Endings of what lies beside pictures and is none: not worth a warning.
BESIDE = (
    *('.cfg', '.csv', '.db', '.htm', '.html', '.ini', '.json', '.jsonl', '.log'),
    *('.mat', '.md', '.py', '.toml', '.tsv', '.txt', '.xml', '.xmp', '.yaml', '.yml'),
)
# Names that a split's folder may have.
SPLITS = (
    ('train', 'training'),
    ('val', 'valid', 'validation', 'eval', 'evaluation', 'test'),
)


class ClassFolders(Reader):
    """Pictures in one folder per class, as a reader for `timm.data.ImageDataset`.

    A picture at any depth below a class folder is of that class. Hidden files and
    folders, and those of `STRANGE`, are left out; links are followed.

    Args:
        root: The folder that has the class folders.
        class_map: The label of each class, or a file of them as timm reads it; then
            folders may be missing. By default the classes are numbered `in_order`.

    Attributes:
        samples: Path and label of each picture, sorted by path as timm does.
        class_to_idx: The label of each class.
        missing: Classes of `class_map` that have no picture.
        notes: What may not be as meant, in a line each: one class only, files left
            out, pictures in deeper folders, an order of classes unlike the plain one.

    Raises:
        ValueError: If there is no picture, one outside of the class folders, a class
            without a picture, a folder that is not in `class_map`, or if the folders
            are splits or hold class folders themselves.
    """

    def __init__(
        self, root: str | os.PathLike, class_map: Mapping[str, int] | str | None = None
    ) -> None:
        super().__init__()
        self.root = Path(root)
        entries = [name for name in os.listdir(root) if not is_strange(name)]
        folders = [
            name
            for name in entries
            if (self.root / name).is_dir() and not _leads_back(self.root / name)
        ]
        files = {name: list(_files(self.root / name)) for name in folders}
        pictures = {name: [*filter(is_picture, files[name])] for name in folders}
        self._check(pictures, [name for name in entries if name not in pictures])
        self.class_to_idx = self._labels(pictures, class_map)
        self.samples = [
            (os.path.join(root, name, path), self.class_to_idx[name])
            for name, paths in pictures.items()
            for path in paths
        ]
        self.samples.sort(key=lambda sample: _sort_key(sample[0]))
        self.missing = tuple(n for n in self.class_to_idx if not pictures.get(n))
        names = tuple(self.class_to_idx)
        notes = [*self._notes(files), *class_notes(root, names, class_map)]
        self.notes = [*map(shown, notes)]

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[IO[bytes], int]:
        """Open a picture; return the file and the label."""
        path, label = self.samples[index]
        return open(path, 'rb'), label

    def _filename(
        self, index: int, basename: bool = False, absolute: bool = False
    ) -> str:
        path = self.samples[index][0]
        if basename:
            return os.path.basename(path)
        return path if absolute else os.path.relpath(path, self.root)

    def _check(self, pictures: dict[str, list[str]], files: Sequence[str]) -> None:
        loose = sorted(name for name in files if is_picture(name))
        if loose and not any(pictures.values()):
            raise ValueError(
                f'{self.root}: {len(loose)} pictures (such as {shown(loose[0])}), but '
                f'no class folders: sort them into {self.root}/CLASS/, or set root and '
                'split of the data set to a folder that has class folders'
            )
        if not any(pictures.values()):
            raise ValueError(
                f'{self.root}: no picture in class folders (CLASS/*.jpg); it has '
                f'{first_few(in_order(pictures)) or "no folders"}; set root and split '
                'of the data set to the folder that has the class folders'
            )
        if loose:
            raise ValueError(
                f'{self.root}: {shown(loose[0])} lies outside of the class folders; '
                f'expected {self.root}/CLASS/{shown(loose[0])}'
            )

    def _labels(
        self,
        pictures: dict[str, list[str]],
        class_map: Mapping[str, int] | str | None,
    ) -> dict[str, int]:
        empty = in_order(name for name in pictures if not pictures[name])
        if class_map:
            return _mapped(self.root, pictures.keys() - {*empty}, class_map)
        if empty:
            raise ValueError(
                f'{self.root}: no picture in {first_few(empty)}; fill or remove the '
                'folder, because class labels are counted from those with pictures'
            )
        self._refuse_folders_of_classes(pictures)
        return {name: i for i, name in enumerate(in_order(pictures))}

    def _refuse_folders_of_classes(self, pictures: dict[str, list[str]]) -> None:
        """Refuse splits, or a single folder around all classes, in place of classes."""
        inside = {path for paths in pictures.values() for path in paths}
        if any(os.sep not in path for path in inside):
            return
        splits = {name for names in SPLITS for name in names}
        names = in_order(pictures)
        if len(names) > 1 and splits.issuperset(names):
            raise ValueError(
                f'{self.root}: its folders are splits, no classes '
                f'({first_few(names)}); set split of the data set, such as '
                f'split={names[0]!r}'
            )
        below = in_order({path.split(os.sep)[0] for path in inside})
        if len(names) == 1 and len(below) > 1:
            raise ValueError(
                f'{self.root}: {names[0]} is its only folder and has no picture but in '
                f'folders ({first_few(below)}); set root of the data set to '
                f'{self.root / names[0]}, and no split, if those are the classes'
            )

    def _notes(self, files: dict[str, list[str]]) -> Iterator[str]:
        """Say what may not be as meant; see `notes`."""
        suffixes = Counter(
            os.path.splitext(path)[1].lower() or 'none'
            for paths in files.values()
            for path in paths
            if not is_picture(path) and not path.lower().endswith(BESIDE)
        )
        if suffixes:
            kinds = [f'{suffix} ({count})' for suffix, count in suffixes.most_common()]
            yield (
                f'{self.root}: {suffixes.total()} files left out, because their '
                f"endings are no known pictures': {first_few(kinds)}"
            )
        deep = [
            (name, path)
            for name, paths in files.items()
            for path in paths
            if os.sep in path and is_picture(path)
        ]
        if deep:
            name, path = min(deep)
            yield (
                f'{self.root}: {len(deep)} pictures in deeper folders are of the class '
                f'of the first folder, such as {name}/{path} of {name}'
            )


class ClassTar(ReaderImageInTar):
    """Pictures in one folder per class within a tar file, see `ClassFolders`.

    Args:
        root: The tar file.
        class_map: The label of each class, or a file of them as timm reads it.
        cache_tarinfo: Whether to keep the list of its files beside it; by default for
            more than 10 GB.

    Raises:
        ValueError: If there is no picture, or class folders lie in different folders.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        class_map: Mapping[str, int] | str | None = None,
        cache_tarinfo: bool | None = None,
    ) -> None:
        Reader.__init__(self)
        self.root, self.root_is_tar, self.cache_tarfiles = str(root), True, True
        try:
            samples, labels, classes, tars = extract_tarinfos(
                self.root, cache_tarinfo=cache_tarinfo, extensions=SUFFIXES
            )
        except ValueError as error:  # timm unpacks an empty list
            raise ValueError(f'{root}: no picture in class folders there') from error
        self.tar_state = tars[0][1]
        names = sorted(classes, key=classes.get)
        found = [
            (sample, names[label])
            for sample, label in zip(samples, labels, strict=True)
            if not any(map(is_strange, _parts(sample[0].name)))
        ]
        self._check([_parts(sample[0].name) for sample, _ in found if not sample[2]])
        known = {name for _, name in found}
        if class_map:
            self.class_name_to_idx = _mapped(root, known, class_map)
        else:
            self.class_name_to_idx = {n: i for i, n in enumerate(in_order(known))}
        self.class_idx_to_name = {i: n for n, i in self.class_name_to_idx.items()}
        self.samples = [sample for sample, _ in found]
        self.targets = [self.class_name_to_idx[name] for _, name in found]
        self.missing = tuple(n for n in self.class_name_to_idx if n not in known)
        notes = class_notes(root, tuple(self.class_name_to_idx), class_map)
        self.notes = [*map(shown, notes)]

    def _check(self, places: Sequence[tuple[str, ...]]) -> None:
        around = {place[:-2] for place in places}
        if any(len(place) < 2 for place in places) or len(around) > 1:
            found = first_few(sorted({'/'.join(place[:-1]) or '.' for place in places}))
            raise ValueError(
                f'{self.root}: pictures lie in {found}; a tar file has one split, as '
                'CLASS/*.jpg: unpack it, and set root of the data set to the folder'
            )


def _composed(name: str) -> str:
    return unicodedata.normalize('NFC', name)


def _mapped(
    root: str | os.PathLike, names: set[str], class_map: Mapping[str, int] | str
) -> dict[str, int]:
    """Return the labels of a class map, which must have all folders' names."""
    labels = dict(load_class_map(class_map, str(root)))
    unknown = in_order(names - labels.keys())
    if unknown:
        alike = {_composed(name) for name in labels} & set(map(_composed, unknown))
        form = ' (the same letters in another Unicode form, as macOS writes them)'
        raise ValueError(
            f'{root}: folders of unknown classes: {first_few(unknown)}'
            f'{form if alike else ""}; the classes are {first_few(tuple(labels))}; '
            'rename or remove the folders, or add them to the classes'
        )
    return labels


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part for part in name.split('/') if part not in ('', '.'))


def is_strange(name: str) -> bool:
    """Tell whether a file or folder is hidden, or a system's own."""
    return name.startswith('.') or name in STRANGE


def is_picture(name: str) -> bool:
    """Tell by its ending whether a file is a picture that can be read."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sort class names as timm does: numbers by value, capitals as small letters.

    Names that are equal so, such as `A` and `a` or `1` and `01`, are sorted plainly.
    """
    return tuple(sorted(names, key=_sort_key))


def class_notes(
    root: str | os.PathLike, names: Sequence[str], chosen: object
) -> Iterator[str]:
    """Say if there is one class only, or other labels than names sorted plainly have.

    Args:
        root: Where the pictures are.
        names: The class names in the order of the labels.
        chosen: Whether the order was given.
    """
    if len(names) == 1:
        yield f'{root}: one class only ({names[0]}), so nothing to tell apart'
    if not chosen:
        yield from order_notes(root, names)


def order_notes(root: str | os.PathLike, names: Sequence[str]) -> Iterator[str]:
    """Say if class names in natural order have other labels than names sorted plainly.

    Args:
        root: Where the pictures are.
        names: The class names in the order of the labels.
    """
    differ = [
        pair for pair in zip(names, sorted(names), strict=True) if len({*pair}) > 1
    ]
    if differ and tuple(names) == in_order(names):
        name, plain = differ[0]
        yield (
            f'{root}: classes in natural order, as by timm (2 before 10, capitals like '
            f'small letters): label {names.index(name)} is {name}, but {plain} in the '
            'plain order of torchvision and others; a list of classes sets another'
        )


def _sort_key(text: str) -> tuple[list[str | int], str]:
    parts = re.split(r'(\d+)', text.lower())
    natural = [int(part) if i % 2 else part for i, part in enumerate(parts)]
    return natural, text


def _files(folder: Path) -> Iterator[str]:
    """Find all files below a folder but hidden ones, as paths from there."""
    start = len(str(folder)) + 1
    for place, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
        folders[:] = [
            name
            for name in folders
            if not is_strange(name) and not _leads_back(os.path.join(place, name))
        ]
        seen = (name for name in files if not is_strange(name))
        yield from (os.path.join(place, name)[start:] for name in seen)


def _leads_back(folder: str | Path) -> bool:
    """Tell whether a folder is a link to one that it lies in."""
    if not os.path.islink(folder):
        return False
    return Path(folder).parent.resolve().is_relative_to(Path(folder).resolve())


def _raise(error: OSError) -> None:
    raise error  # os.walk would leave out a folder that it can't list
