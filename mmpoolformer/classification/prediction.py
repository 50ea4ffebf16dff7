"""The classes that a network sees in picture files."""

import glob
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mmpoolformer.classification.evaluation import Placement
from mmpoolformer.utils.images import PictureError, open_picture

# What is taken for a picture in a folder; files named one by one may have any name.
SUFFIXES = ('.bmp', '.gif', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp')


@dataclass(frozen=True)
class Prediction:
    """What a network sees in one picture.

    Attributes:
        path: The picture.
        classes: Numbers of the likeliest classes, the likeliest one first.
        probabilities: Their probabilities, 0 to 1.
        problem: Why there are none; empty if the picture could be read.
    """

    path: str
    classes: tuple[int, ...] = ()
    probabilities: tuple[float, ...] = ()
    problem: str = ''

    def pairs(self) -> list[tuple[int, float]]:
        """Return classes with their probabilities."""
        return list(zip(self.classes, self.probabilities, strict=True))


def find_pictures(
    places: Sequence[str], suffixes: Sequence[str] = SUFFIXES
) -> list[str]:
    """Find picture files.

    Args:
        places: Files; folders, of which all pictures at any depth are taken, sorted,
            but no hidden ones; and patterns such as `'photos/*.jpg'` or `'**/*.png'`.
        suffixes: What names of pictures in folders end on, in small letters.

    Returns:
        The files, each one once, in the order of the places.

    Raises:
        ValueError: If there is nothing at a place.
    """
    found = [path for place in places for path in _pictures_at(place, suffixes)]
    return list(dict.fromkeys(found))


def predict_pictures(
    network: nn.Module,
    paths: Sequence[str],
    transform: Callable[[Image.Image], Tensor],
    *,
    topk: int = 5,
    placement: Placement | None = None,
    batch_size: int = 16,
    workers: int = 0,
    skip_unreadable: bool = False,
) -> Iterator[Prediction]:
    """Classify pictures.

    Args:
        network: From images (B, 3, H, W) to logits (B, classes); is moved and put into
            evaluation mode.
        paths: The picture files.
        transform: From a picture to the network's input (3, H, W), such as
            `timm.data.create_transform(...)` makes.
        topk: Classes to give; all of them if there are fewer.
        placement: Where and how to compute; by default on the CPU in float32.
        batch_size: Pictures at a time.
        workers: Processes that read them; 0 for none but this one.
        skip_unreadable: Whether to give a prediction with a `problem` in place of an
            error.

    Yields:
        One prediction for each path, in their order.

    Raises:
        PictureError: If a picture can't be read and is not to be skipped.
        ValueError: If the network's logits are not finite.
    """
    placement = placement or Placement()
    network = placement.prepare(network)
    loader = DataLoader(
        _Pictures(paths, transform), batch_size, num_workers=workers, collate_fn=list
    )
    for batch in loader:
        readable = [item for item in batch if not isinstance(item[1], str)]
        if len(readable) < len(batch) and not skip_unreadable:
            raise PictureError(next(i[1] for i in batch if isinstance(i[1], str)))
        seen = iter(_classify(network, readable, topk, placement))
        for path, item in batch:
            problem = isinstance(item, str)
            yield Prediction(path, problem=item) if problem else next(seen)


class _Pictures(Dataset):
    """Pairs of a path and the picture, or what is wrong with it."""

    def __init__(self, paths: Sequence[str], transform: Callable) -> None:
        self.paths = list(paths)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[str, Tensor | str]:
        path = self.paths[index]
        try:
            return path, self.transform(open_picture(path))
        except PictureError as error:
            return path, str(error)


def _classify(
    network: nn.Module,
    items: Sequence[tuple[str, Tensor]],
    topk: int,
    placement: Placement,
) -> list[Prediction]:
    if not items:
        return []
    paths, images = zip(*items, strict=True)
    logits = placement.logits(network, torch.stack(images))
    if not logits.isfinite().all():
        raise ValueError(
            f'{paths[0]}: the network gives scores that are not finite; are these '
            'weights of this model?'
        )
    scores, classes = logits.softmax(1).sort(dim=1, descending=True, stable=True)
    return [
        Prediction(path, tuple(best), tuple(shares))
        for path, best, shares in zip(
            paths, classes[:, :topk].tolist(), scores[:, :topk].tolist(), strict=True
        )
    ]


def _pictures_at(place: str, suffixes: Sequence[str]) -> list[str]:
    if Path(place).exists():  # first: names may have the letters of patterns
        matches = [place]
    else:
        matches = sorted(glob.glob(place, recursive=True))
    if not matches:
        raise ValueError(f'{place}: no such picture or folder')
    found = []
    for match in matches:
        is_folder = Path(match).is_dir()
        found += _pictures_below(Path(match), suffixes) if is_folder else [match]
    if not found:
        raise ValueError(f'{place}: no picture there ({", ".join(suffixes)})')
    return found


def _pictures_below(folder: Path, suffixes: Sequence[str]) -> list[str]:
    files = sorted(p for p in folder.rglob('*') if p.suffix.lower() in suffixes)
    return [
        str(file)
        for file in files
        if file.is_file()
        and not any(part[0] == '.' for part in file.relative_to(folder).parts)
    ]
