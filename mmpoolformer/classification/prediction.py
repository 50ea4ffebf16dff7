"""The classes that a network sees in picture files."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mmpoolformer.classification.evaluation import Placement
from mmpoolformer.utils.images import PictureError, as_picture_error, open_picture


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
            picture = open_picture(path)
            # Such as a side that a resize leaves no pixel of.
            with as_picture_error(path):
                return path, self.transform(picture)
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
