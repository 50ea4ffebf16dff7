"""Models of each task under one interface, for `Predictor`.

An adapter has `task`, `title`, `classes`, `colours`, `network` and `unfilled`;
`prepare` makes an item of a picture; items of equal `size_of` may be given to `run`
together. It reads files by `read`, and tells what is `shown` of them; arrays are taken
so, too, where it `takes_bands`.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from mmengine.config import Config
from numpy import ndarray
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform
from torch import Tensor, nn

from mmpoolformer.classification.class_labels import describe_classes
from mmpoolformer.engine.config import task_scope
from mmpoolformer.inference.classifiers import load_classifier, read_config
from mmpoolformer.inference.engines import Engine
from mmpoolformer.inference.openmmlab import OpenMMLabModel, load_openmmlab
from mmpoolformer.utils.errors import UserError
from mmpoolformer.utils.images import open_picture
from mmpoolformer.utils.paths import is_config
from mmpoolformer.utils.results import (
    CLASSIFICATION,
    DETECTION,
    INSTANCES,
    SEGMENTATION,
    Classes,
    Detections,
    Regions,
)
from mmpoolformer.visual.drawing import (
    class_colours,
    detections_from_instances,
    labels_from_sample,
)


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
    takes_bands: bool = field(default=False, init=False)

    @cached_property
    def transform(self) -> object:
        """From a PIL picture to the network's input (3, H, W)."""
        return create_transform(**self.settings)

    @property
    def colours(self) -> ndarray:
        """Colours of the classes, uint8 (K, 3)."""
        return class_colours(len(self.classes))

    @staticmethod
    def read(path: str) -> ndarray:
        """Read a picture file, RGB, uint8 (H, W, 3)."""
        return np.array(open_picture(path))

    @staticmethod
    def shown(pixels: ndarray) -> ndarray:
        """Return what is to see of such a picture: itself."""
        return pixels

    def prepare(self, pixels: ndarray) -> Tensor:
        """Return the network's input (3, H, W) for a picture, RGB, uint8 (H, W, 3)."""
        return self.transform(Image.fromarray(pixels))

    def seen(self, image: Tensor) -> ndarray:
        """Return what is to see on an input (3, H, W), RGB, uint8 (H, W, 3)."""
        mean = torch.tensor(self.settings.get('mean') or IMAGENET_DEFAULT_MEAN)
        std = torch.tensor(self.settings.get('std') or IMAGENET_DEFAULT_STD)
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

    def with_network(self, network: nn.Module) -> 'ClassifierAdapter':
        """Return the same with another network."""
        return replace(self, network=network)


@dataclass(frozen=True)
class OpenMMLabAdapter:
    """A detector or segmentor."""

    whole: OpenMMLabModel

    @property
    def title(self) -> str:
        """The config's name."""
        return self.whole.title

    @property
    def unfilled(self) -> str:
        """Which weights are random, in words; empty if none."""
        return self.whole.unfilled

    @property
    def network(self) -> nn.Module:
        """The model of mmdet or mmseg."""
        return self.whole.model

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes."""
        return self.whole.classes

    @property
    def colours(self) -> ndarray:
        """Colours of the classes, uint8 (K, 3)."""
        return self.whole.colours

    @property
    def task(self) -> str:
        """What the model does."""
        if hasattr(self.whole.model, 'decode_head'):
            return SEGMENTATION
        return INSTANCES if self.whole.model.with_mask else DETECTION

    @property
    def takes_bands(self) -> bool:
        """Whether the config reads other pictures than RGB of 8 bits."""
        return self.whole.takes_bands

    def read(self, path: str) -> ndarray:
        """Read a picture file as the config says."""
        return self.whole.read(path)

    def shown(self, pixels: ndarray) -> ndarray:
        """Return what is to see of such a picture, RGB, uint8 (H, W, 3)."""
        return self.whole.shown(pixels)

    def prepare(self, pixels: ndarray) -> dict:
        """Return inputs and data sample for a picture, RGB, uint8 (H, W, 3)."""
        return self.whole.prepare(pixels)

    @staticmethod
    def size_of(item: Mapping) -> tuple[int, ...]:
        """Return the shape of what the model gets."""
        return tuple(item['inputs'].shape)

    def run(self, items: Sequence[Mapping]) -> list[Detections] | list[Regions]:
        """Return what the model sees."""
        batch = {key: [item[key] for item in items] for key in items[0]}
        samples = self.whole.model.test_step(batch)
        if self.task == SEGMENTATION:
            kind = np.min_scalar_type(len(self.classes))
            return [Regions(labels_from_sample(one).astype(kind)) for one in samples]
        return [detections_from_instances(one.pred_instances) for one in samples]

    def with_network(self, network: nn.Module) -> 'OpenMMLabAdapter':
        """Return the same with another network."""
        return replace(self, whole=replace(self.whole, model=network))


def load_adapter(
    model: str | os.PathLike | Config,
    checkpoint: str | os.PathLike | Engine | None = None,
    trust: bool = False,
    classes: Sequence[str] = (),
    *,
    size: tuple[int, int] | None = None,
    num_classes: int | None = None,
    may_be_random: bool = False,
) -> ClassifierAdapter | OpenMMLabAdapter:
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
        whole = load_openmmlab(model, checkpoint, trust, classes, may_be_random)
        return OpenMMLabAdapter(whole)
    known = load_classifier(
        model, checkpoint, trust, classes, size, num_classes, may_be_random
    )
    names = classes or describe_classes(known.classes, known.num_classes)
    return ClassifierAdapter(
        known.name, known.network, known.settings, names, known.unfilled
    )
