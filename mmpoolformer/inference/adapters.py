"""Models of each task under one interface, for `Predictor`.

An engine has `task`, `title`, `classes`, `colours` and `network`; `prepare` makes an
item of a picture; items of equal `size_of` may be given to `run` together. One that
`has_loader` reads files itself, and tells what is `shown` of them.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from numpy import ndarray
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform
from torch import Tensor, nn

from mmpoolformer.checkpoints import read_checkpoint, resolve_source
from mmpoolformer.checkpoints.loading import fill_model
from mmpoolformer.classification.class_labels import describe_classes, recorded_classes
from mmpoolformer.classification.classifier import ImageClassifier
from mmpoolformer.engine.config import load_config, task_scope
from mmpoolformer.inference.classifiers import load_classifier
from mmpoolformer.inference.openmmlab import OpenMMLabModel, load_openmmlab
from mmpoolformer.models.from_config import build_from_config
from mmpoolformer.utils.errors import UserError
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
class ClassifierEngine:
    """A classifier.

    Attributes:
        title: Its name.
        network: Images (B, 3, H, W) to logits (B, K).
        settings: Options of `timm.data.create_transform`.
        classes: Names of the classes.
    """

    title: str
    network: nn.Module
    settings: Mapping
    classes: Sequence[str]
    task: str = field(default=CLASSIFICATION, init=False)
    has_loader: bool = field(default=False, init=False)

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


@dataclass(frozen=True)
class OpenMMLabEngine:
    """A detector or segmentor."""

    whole: OpenMMLabModel

    @property
    def title(self) -> str:
        """The config's name."""
        return self.whole.title

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
    def has_loader(self) -> bool:
        """Whether the config reads pictures in a way of its own."""
        return self.whole.loader is not None

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


def load_engine(
    model: str | os.PathLike | Config, checkpoint: str | None, trust: bool
) -> ClassifierEngine | OpenMMLabEngine:
    """Make a model ready, see `Predictor`.

    Raises:
        ValueError: If the name is unknown, or the checkpoint can't be used.
        UserError: If the config can't be used, or the checkpoint does not fill it.
    """
    if not isinstance(model, Config) and not is_config(model):
        return _known_classifier(str(model), checkpoint, trust)
    config = model if isinstance(model, Config) else _read_config(model)
    if checkpoint is None:
        raise UserError(f'{config.filename}: a config needs a checkpoint')
    if task_scope(config) in ('mmdet', 'mmseg'):
        return OpenMMLabEngine(load_openmmlab(config, checkpoint, trust))
    return _classifier_of(config, checkpoint, trust)


def is_config(model: str | os.PathLike) -> bool:
    """Tell whether a model is given by a config file, not by a name."""
    return str(model).endswith('.py') or Path(model).is_file()


def _read_config(path: str | os.PathLike) -> Config:
    if not Path(path).is_file():
        raise UserError(f'{path}: no such config file')
    return load_config(path, ('model', 'test_dataloader'))


def _known_classifier(
    name: str, checkpoint: str | None, trust: bool
) -> ClassifierEngine:
    known = load_classifier(name, checkpoint, trust)
    classes = describe_classes(known.classes, known.num_classes)
    return ClassifierEngine(name, known.network, known.settings, classes)


def _classifier_of(config: Config, checkpoint: str, trust: bool) -> ClassifierEngine:
    """Make the classifier of a config of this package ready."""
    name = Path(config.filename or 'config').stem
    model = build_from_config(config)
    if not isinstance(model, ImageClassifier):
        raise UserError(
            f'{config.filename}: {type(model).__name__} is no detector of mmdet, no '
            'segmentor of mmseg and no classifier of this package'
        )
    path = os.path.expanduser(checkpoint)
    content = read_checkpoint(resolve_source(path), trust=trust)
    fill_model(model, content, checkpoint)
    settings = config.test_dataloader.dataset.get('transform') or {}
    classes = describe_classes(recorded_classes(content), model.num_classes)
    return ClassifierEngine(name, model.backbone, dict(settings), classes)
