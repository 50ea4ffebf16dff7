"""Accuracy, loss and speed of a classifier on pictures, outside of mmengine's Runner.

The data set and the accuracy are those of tools/test.py.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from mmpoolformer.classification.class_labels import (
    describe_classes,
    imagenet_synsets,
    match_classes,
)
from mmpoolformer.classification.metric import class_ranks, topk_accuracy
from mmpoolformer.data.class_folders import SPLITS, is_strange
from mmpoolformer.data.classification import NO_CLASS, TimmDataset
from mmpoolformer.utils.progress import progress_bar


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` has found.

    Attributes:
        top1: Share of pictures whose class has the highest score, in percent.
        top5: Share of pictures whose class is among the five highest scores.
        loss: Mean cross-entropy.
        pictures: Number of pictures that count.
        unreadable: Paths of those that were skipped.
        pictures_per_second: Pictures over the time for all, reading them included.
    """

    top1: float
    top5: float
    loss: float
    pictures: int
    unreadable: tuple[str, ...]
    pictures_per_second: float


@dataclass(frozen=True)
class Placement:
    """On which device a network runs, and in which precision.

    Attributes:
        device: The device.
        dtype: Of weights and images.
        amp: Whether to run in mixed precision: float16 on a GPU, bfloat16 on a CPU.
    """

    device: torch.device = field(default_factory=lambda: torch.device('cpu'))
    dtype: torch.dtype = torch.float32
    amp: bool = False

    def prepare(self, network: nn.Module) -> nn.Module:
        """Move a network there and put it into evaluation mode."""
        return network.to(self.device, self.dtype).eval()

    @torch.inference_mode()
    def logits(self, network: nn.Module, images: Tensor) -> Tensor:
        """Run a network on images (B, 3, H, W); return its logits (B, classes)."""
        images = images.to(self.device, self.dtype, non_blocking=True)
        half = torch.bfloat16 if self.device.type == 'cpu' else torch.float16
        with torch.autocast(self.device.type, half, enabled=self.amp):
            return network(images).float()


def evaluation_data(
    root: str | Path,
    settings: dict,
    classes: tuple[str, ...],
    num_classes: int,
    skip_unreadable: bool = False,
) -> TimmDataset:
    """Read a folder of pictures for the evaluation of a model.

    Args:
        root: Folder with one subfolder per class, or with a split `val` (or the like)
            that has them; or a tar file.
        settings: Options of `timm.data.create_transform`.
        classes: The model's class names, or none; see `match_classes`.
        num_classes: The model's number of classes.
        skip_unreadable: Whether to leave out pictures that can't be read.

    Raises:
        ValueError: If there is no such data, or its classes aren't the model's.
    """
    options = dict(
        root=str(root),
        split='val' if _has_splits(Path(root)) else '',
        transform=settings,
        on_error='skip' if skip_unreadable else 'raise',
    )
    folders = TimmDataset(**options, quiet=True).metainfo.get('classes', ())
    synsets = imagenet_synsets(num_classes)
    if synsets and classes == describe_classes(synsets, num_classes):
        classes = synsets  # the weights name them in words
    labels = match_classes(folders, classes, num_classes)
    if set(folders) <= set(classes or synsets):  # by name
        return TimmDataset(**options, options={'class_map': labels})
    return TimmDataset(**options)  # by order, which is told if others have another


def evaluate(
    network: nn.Module,
    data: TimmDataset,
    placement: Placement | None = None,
    batch_size: int = 64,
    workers: int = 0,
    text: str = '',
    see: Callable[[Sequence[dict]], None] | None = None,
) -> Evaluation:
    """Measure a classifier.

    Args:
        network: From images (B, 3, H, W) to logits (B, classes).
        data: The pictures, see `evaluation_data`.
        placement: Where and how to compute; by default on the CPU in float32.
        batch_size: Pictures at a time.
        workers: Processes that read them; 0 for none but this one.
        text: What the progress bar calls it; empty for no bar.
        see: Takes what is found in each batch, as metrics of tools/test.py do.

    Raises:
        PictureError: If a picture can't be read and is not to be skipped.
    """
    placement = placement or Placement()
    network = placement.prepare(network)
    loader = DataLoader(
        data,
        batch_size,
        num_workers=workers,
        pin_memory=placement.device.type == 'cuda',
    )
    ranks, loss, start = [], 0.0, time.perf_counter()
    with progress_bar(len(data), text, shown=bool(text)) as bar:
        for batch in loader:
            logits = placement.logits(network, batch['inputs'])
            labels = batch['targets'].to(logits.device)
            # Probabilities, as the classifier's predictions in tools/test.py.
            scores = logits.softmax(1)
            ranks += class_ranks(scores, labels)
            if see:
                see(_samples(scores.cpu(), batch))
            loss += F.cross_entropy(
                logits, labels, ignore_index=NO_CLASS, reduction='sum'
            ).item()
            bar.update(len(labels))
    seconds = time.perf_counter() - start
    count = sum(rank is not None for rank in ranks)
    return Evaluation(
        **topk_accuracy(ranks, (1, 5)),
        loss=loss / count,
        pictures=count,
        unreadable=tuple(data.unreadable),
        pictures_per_second=count / seconds,
    )


def _samples(scores: Tensor, batch: dict) -> list[dict]:
    parts = scores, batch['targets'].tolist(), batch['img_path']
    names = 'pred_scores', 'gt_label', 'img_path'
    return [dict(zip(names, one, strict=True)) for one in zip(*parts, strict=True)]


def _has_splits(root: Path) -> bool:
    """Tell whether a folder has splits that have the class folders, or those itself."""
    names = (name for split in SPLITS for name in split)
    return any(
        any(
            below.is_dir() and not is_strange(below.name)
            for below in (root / name).iterdir()
        )
        for name in names
        if (root / name).is_dir()
    )
