"""Models of each task under one interface, for `Predictor`.

An adapter (`ClassifierAdapter`, `OpenMMLabModel`) is a dataclass with `task`, `title`,
`classes`, `colours`, `network` and `unfilled`; `prepare` makes an item of a picture;
items of equal `size_of` may be given to `run` together. One with a `loader` reads files
itself, and tells what is `shown` of them.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from mmengine.config import Config
from numpy import ndarray
from PIL import Image
from timm.data import create_transform
from torch import Tensor, nn

from mmpoolformer.classification.class_labels import describe_classes
from mmpoolformer.classification.preprocessing import normalisation
from mmpoolformer.engine.config import task_scope
from mmpoolformer.inference.classifiers import load_classifier, read_config
from mmpoolformer.inference.engines import Engine
from mmpoolformer.inference.openmmlab import OpenMMLabModel, load_openmmlab
from mmpoolformer.utils.errors import UserError
from mmpoolformer.utils.paths import is_config
from mmpoolformer.utils.results import CLASSIFICATION, Classes
from mmpoolformer.visual.drawing import class_colours


@dataclass(frozen=True)
class ClassifierAdapter:
    """A classifier.

    Attributes:
        title: Its name.
        network: Images (B, 3, H, W) to logits (B, K).
        settings: Options of `timm.data.create_transform`.
        classes: Names of the classes.
        unfilled: Which weights are random, in words; empty if none.
    """

    title: str
    network: nn.Module
    settings: Mapping
    classes: Sequence[str]
    unfilled: str = ''
    task: str = field(default=CLASSIFICATION, init=False)
    loader: None = field(default=None, init=False)

    @cached_property
    def transform(self) -> object:
        """From a PIL picture to the network's input (3, H, W)."""
        return create_transform(**self.settings)

    @property
    def colours(self) -> ndarray:
        """Colours of the classes, uint8 (K, 3)."""
        return class_colours(len(self.classes))

    def prepare(self, pixels: ndarray) -> Tensor:
        """Return the network's input (3, H, W) for a picture, RGB, uint8 (H, W, 3)."""
        return self.transform(Image.fromarray(pixels))

    def seen(self, image: Tensor) -> ndarray:
        """Return what is to see on an input (3, H, W), RGB, uint8 (H, W, 3)."""
        mean, std = map(torch.tensor, normalisation(self.settings))
        pixels = image.cpu().permute(1, 2, 0) * std + mean  # (H, W, 3)
        return (pixels.clamp(0, 1) * 255).round().byte().numpy()

    @staticmethod
    def size_of(item: Tensor) -> tuple[int, ...]:
        """Return the shape of what the network gets."""
        return tuple(item.shape)

    def run(self, items: Sequence[Tensor]) -> list[Classes]:
        """Return what the network sees.

        Raises:
            ValueError: If its logits are not finite.
        """
        device = next(self.network.parameters()).device
        logits = self.network(torch.stack(list(items)).to(device)).float()
        if not logits.isfinite().all():
            raise ValueError(
                f'{self.title}: the scores are not finite; are these weights of this '
                'model?'
            )
        scores, labels = logits.softmax(1).sort(dim=1, descending=True, stable=True)
        pairs = zip(labels.cpu().numpy(), scores.cpu().numpy(), strict=True)
        return [Classes(*pair) for pair in pairs]


def load_adapter(
    model: str | os.PathLike | Config,
    checkpoint: str | os.PathLike | Engine | None = None,
    trust: bool = False,
    classes: Sequence[str] = (),
    *,
    size: tuple[int, int] | None = None,
    num_classes: int | None = None,
    may_be_random: bool = False,
) -> ClassifierAdapter | OpenMMLabModel:
    """Make a model ready.

    Args:
        model: See `Predictor`, as the next three.
        checkpoint: The weights, or an exported file.
        trust: See `read_checkpoint`.
        classes: Names of the classes.
        size: See `load_classifier`, as the next two; for classifiers.
        num_classes: Classes of a named model with random weights.
        may_be_random: Whether a config may leave weights random.

    Raises:
        ValueError: If the name is unknown, or the checkpoint can't be used.
        UserError: If the config can't be used, or the checkpoint does not fill it.
    """
    if not isinstance(model, Config) and is_config(model):
        model = read_config(model)
    if isinstance(model, Config) and task_scope(model) in ('mmdet', 'mmseg'):
        if size:
            raise UserError(
                f'{model.filename}: size={size} is for classifiers; the pipeline of '
                'test_dataloader says what this model sees'
            )
        return load_openmmlab(model, checkpoint, trust, classes, may_be_random)
    known = load_classifier(
        model, checkpoint, trust, classes, size, num_classes, may_be_random
    )
    names = classes or describe_classes(known.classes, known.num_classes)
    return ClassifierAdapter(
        known.name, known.network, known.settings, names, known.unfilled
    )
