"""Pictures with class labels: timm's data sets and augmentation for mmengine.

`timm.data.create_dataset` reads Hugging Face and torchvision data sets by name;
`timm.data.create_transform` augments. What is added here: folders and tar files are
read by `ClassFolders` and `ClassTar`, mistakes in the data are errors, and augmentation
depends on the place in the run only (see `mmpoolformer.engine.seeding`).
"""

from collections.abc import Sequence
from multiprocessing import Array
from pathlib import Path

import torch
from mmengine.dist import all_reduce
from timm.data import ImageDataset, create_dataset, create_transform
from torch.utils.data import Dataset, IterableDataset

from mmpoolformer.data.class_folders import SPLITS, ClassFolders, ClassTar, order_notes
from mmpoolformer.data.class_names import chosen_classes
from mmpoolformer.registry import DATASETS
from mmpoolformer.utils.images import PictureError, convert_picture, open_picture
from mmpoolformer.utils.logs import warn
from mmpoolformer.utils.seeding import seeded
from mmpoolformer.utils.text import first_few, shown

ON_ERROR = ('raise', 'skip')
NO_CLASS = -1  # the label of what takes no part in the evaluation


@DATASETS.register_module()
class TimmDataset(Dataset):
    """Pictures with class labels, in any form that timm reads by index.

    Each item is a dict with `inputs` (C, H, W), `targets` (the label) and `img_path`.
    An item is asked for by its index, or by a tuple of the index and more numbers from
    which its augmentation is drawn, as the samplers of this package give them.

    Args:
        root: Folder with one subfolder per class, or with a subfolder for the split
            that has them; or a tar file.
        split: Subfolder: `'train'` or `'val'` also find `training`, `validation` and
            the like; empty for the root itself.
        name: timm's name of another kind of data set, such as `'hfds/food101'` or
            `'torch/cifar10'`; empty for folders and tar files.
        transform: Options of `timm.data.create_transform`, such as
            `dict(input_size=224, is_training=True, re_prob=0.25)`.
        on_error: What to do with an unreadable picture: `'raise'` stops and names it;
            `'skip'` takes the next one in training, leaves it out of an evaluation, and
            keeps it in `unreadable`.
        options: More options of `ClassFolders` or `ClassTar`, and with a `name` those
            of `timm.data.create_dataset`.
        classes: The class names in the order of the labels, or a file with one per
            line, for folders and tar files. Classes may lack pictures, but no picture
            may be of another class. By default they are the folders, in timm's order.
        quiet: Whether not to log `notes`.

    Attributes:
        metainfo: `classes`, the class names in the order of the labels, where known.
        notes: What may not be as meant, see `ClassFolders`.

    Raises:
        ValueError: If the folder or the split is missing, a class has no picture, or an
            option is unknown.
    """

    def __init__(
        self,
        root: str = '',
        split: str = '',
        name: str = '',
        transform: dict | None = None,
        on_error: str = 'raise',
        options: dict | None = None,
        classes: str | Sequence[str] | None = None,
        quiet: bool = False,
    ) -> None:
        if on_error not in ON_ERROR:
            raise ValueError(
                f'on_error={on_error!r}: choose from {", ".join(ON_ERROR)}'
            )
        self.transform_options = dict(transform or {})
        self.transform = create_transform(**self.transform_options)
        self.on_error = on_error
        self.root = find_split(root, split) if not name else root
        options = dict(options or {})
        if classes is not None:
            if name:
                raise ValueError(
                    f'classes: for folders and tar files; name={name!r} has its own'
                )
            names = chosen_classes(classes)
            options['class_map'] = {label: i for i, label in enumerate(names)}
        if not name:
            kind = ClassFolders if Path(self.root).is_dir() else ClassTar
            reader = kind(self.root, **options)
            self.data = ImageDataset(str(self.root), reader=reader)
        else:
            self.data = create_dataset(name, root=str(root), split=split, **options)
        if isinstance(self.data, IterableDataset):
            raise ValueError(
                f'name={name!r}: read one after another, not by index; use '
                "type='mmpoolformer.TimmStream' and sampler=None"
            )
        names = _class_names(self.data)
        self.metainfo = {'classes': names} if names else {}
        self.notes = self._notes()
        for note in () if quiet else self.notes:
            warn(note)
        # In shared memory, because the processes of a data loader find them.
        self._marked = Array('b', len(self.data))

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.data)

    def __getitem__(self, key: int | tuple[int, ...]) -> dict:
        """Return a picture, transformed, with its label and path.

        Args:
            key: The index, or the index and numbers to draw the augmentation from.

        Raises:
            PictureError: If it can't be read and `on_error` is `'raise'`.
        """
        index, *place = key if isinstance(key, tuple) else (key,)
        try:
            return self._item(index, place)
        except PictureError as error:
            if self.on_error == 'raise':
                cure = "mend or remove it, or skip such pictures by on_error='skip'"
                raise PictureError(f'{error}; {cure}') from error
            self._mark(index, error)
        return self._replacement(index, place)

    @property
    def unreadable(self) -> list[str]:
        """The paths of the unreadable pictures met so far, in all reading processes."""
        return [self._name(i) for i, mark in enumerate(self._marked) if mark]

    def share_unreadable(self) -> None:
        """Take over the unreadable pictures that a job's others met; all must ask."""
        marks = torch.tensor(self._marked[:])
        all_reduce(marks, op='max')
        self._marked[:] = marks.tolist()

    @property
    def is_training(self) -> bool:
        """Whether pictures are augmented."""
        return bool(self.transform_options.get('is_training'))

    def _notes(self) -> list[str]:
        reader = getattr(self.data, 'reader', None)
        if not isinstance(reader, (ClassFolders, ClassTar)):
            return []
        notes = list(reader.notes)
        if self.is_training:  # the own-folder config lists the classes itself
            order = map(shown, order_notes(self.root, self.metainfo['classes']))
            notes += [note for note in order if note not in notes]
            if reader.missing:
                names = first_few(reader.missing)
                notes.append(f'{self.root}: no picture to learn {names} from')
        return notes

    def _item(self, index: int, place: list[int]) -> dict:
        picture, label = self._read(index)
        with seeded(*place):
            inputs = self.transform(picture)
        return {'inputs': inputs, 'targets': label, 'img_path': self._name(index)}

    def _read(self, index: int) -> tuple:
        reader = getattr(self.data, 'reader', None)
        if reader is None:  # torchvision's own data sets
            # Those of files open them with Pillow, by default in any format.
            if hasattr(self.data, 'loader'):
                self.data.loader = open_picture
            picture, label = self.data[index]
            return convert_picture(picture, name=self._name(index)), label
        source, label = reader[index]
        if hasattr(source, 'convert'):  # decoded by the reader already
            return convert_picture(source, name=self._name(index)), label
        with source:
            return open_picture(source, name=self._name(index)), label

    def _replacement(self, index: int, place: list[int]) -> dict:
        """Return the next readable picture, in an evaluation without a class."""
        for step in range(1, len(self)):
            other = (index + step) % len(self)
            if self._marked[other]:
                continue
            try:
                item = self._item(other, place)
            except PictureError as error:
                self._mark(other, error)
                continue
            if not self.is_training:
                item |= {
                    'inputs': torch.zeros_like(item['inputs']),
                    'targets': NO_CLASS,
                    'img_path': self._name(index),
                }
            return item
        raise PictureError(f'{self.root}: none of its {len(self)} pictures can be read')

    def _mark(self, index: int, error: PictureError) -> None:
        if not self._marked[index]:
            self._marked[index] = 1
            warn(f'skipped {error}')

    def _name(self, index: int) -> str:
        known = hasattr(self.data, 'reader')
        path = self.data.filename(index, absolute=True) if known else None
        return path or f'{self.root or type(self.data).__name__}[{index}]'


def find_split(root: str | Path, split: str) -> Path:
    """Return the folder (or file) that holds the pictures of a split.

    Args:
        root: Folder, or tar file.
        split: See `TimmDataset`.

    Raises:
        ValueError: If it is not there; says what is.
    """
    root = Path(root)
    if not root.exists():
        raise ValueError(f'{root}: no such folder or tar file of pictures')
    if root.is_file() and root.suffix != '.tar':
        raise ValueError(f'{root}: neither a folder of pictures nor a .tar file')
    if not split or root.is_file():
        return root
    names = (split, *next((names for names in SPLITS if split in names), ()))
    for name in names:
        if (root / name).is_dir():
            return root / name
    there = sorted(p.name for p in root.iterdir() if p.is_dir())
    raise ValueError(
        f'{root}: has no folder for the split {split!r} '
        f'(looked for {", ".join(dict.fromkeys(names))}); it has '
        f'{first_few(there) or "no folders"}'
    )


def folder_classes(
    root: str | Path,
    split: str = 'train',
    classes: str | Sequence[str] | None = None,
) -> tuple[str, ...]:
    """Return the class names of an image folder, in the order of their labels.

    For configs, which need their number.

    Args:
        root: See `TimmDataset`.
        split: See `TimmDataset`.
        classes: See `TimmDataset`.

    Raises:
        ValueError: If the folder is missing, a class has no picture, or a folder is
            none of `classes`.
    """
    data = TimmDataset(str(root), split, classes=classes, quiet=True)
    return data.metainfo['classes']


def _class_names(data: Dataset) -> tuple[str, ...]:
    reader = getattr(data, 'reader', data)
    for name in ('class_to_idx', 'class_name_to_idx'):  # the latter in tar files
        to_label = getattr(reader, name, None)
        if to_label:
            return tuple(sorted(to_label, key=to_label.get))
    return ()
