"""Classifiers by name or config: network, weights, class names and preprocessing."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from mmengine.config import Config
from numpy import ndarray
from PIL import Image
from timm.data import create_transform
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from mmpoolformer.checkpoints import (
    CheckpointError,
    load_weights,
    read_source,
    unwrap,
)
from mmpoolformer.classification.class_labels import recorded_classes
from mmpoolformer.classification.classifier import ImageClassifier
from mmpoolformer.classification.preprocessing import (
    evaluation_settings,
    normalisation,
    recorded_settings,
    stated_settings,
)
from mmpoolformer.engine.config import load_config
from mmpoolformer.inference.engines import Engine
from mmpoolformer.inference.exported import exported_classifier, weights_or_exported
from mmpoolformer.inference.weights import ALL, Weights, named_source
from mmpoolformer.models.from_config import (
    build_classifier,
    build_from_config,
    check_name,
)
from mmpoolformer.models.timm_models import (
    TIMM,
    load_timm,
    without_wrappers,
)
from mmpoolformer.utils.errors import UserError
from mmpoolformer.utils.images import open_picture
from mmpoolformer.utils.paths import RANDOM, is_config
from mmpoolformer.utils.results import CLASSIFICATION, Classes
from mmpoolformer.visual.drawing import class_colours

# The last layer in the key formats of this package's models. Its bias, because weights
# lie transposed in some.
LAST_LAYER = re.compile(r'(?:^|\.)(?:head|classifier)(?:\.fc)?(?:\.fc2)?\.bias$')


@dataclass(frozen=True)
class KnownClassifier:
    """A classifier that is ready to be used.

    Attributes:
        title: Its name, see `load_classifier`; of a config the file's, without ending.
        source: Where its weights are from.
        network: From images (B, 3, H, W) to logits (B, classes); in evaluation mode.
        settings: How pictures are prepared: options of `timm.data.create_transform`.
        classes: The class names in the checkpoint; empty where it has none. From
            `load_adapter` the names of all classes.
        unfilled: Which weights are random, in words; empty if none.
    """

    title: str
    source: str
    network: nn.Module
    settings: dict
    classes: tuple[str, ...]
    unfilled: str = ''
    task: ClassVar[str] = CLASSIFICATION
    takes_bands: ClassVar[bool] = False

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.network.num_classes

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
        """Read a picture file, RGB, uint8 (H, W, 3), as `open_picture` does."""
        return np.array(open_picture(path))

    @staticmethod
    def shown(pixels: ndarray) -> ndarray:
        """Return a picture of `read` to be looked at: itself."""
        return pixels

    def prepare(self, pixels: ndarray) -> Tensor:
        """Return the network's input (3, H, W) for a picture, RGB, uint8 (H, W, 3)."""
        return self.transform(Image.fromarray(pixels))

    def seen(self, image: Tensor) -> ndarray:
        """Undo the normalisation of an input (3, H, W): RGB, uint8 (H, W, 3)."""
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


def load_classifier(
    model: str | PathLike | Config,
    checkpoint: str | PathLike | Engine | None = None,
    trust: bool = False,
    classes: Sequence[str] = (),
    size: tuple[int, int] | None = None,
    num_classes: int | None = None,
    may_be_random: bool = False,
) -> KnownClassifier:
    """Build a classifier by name or config, with weights.

    The number of classes is that of the weights. Where they come from tools/train.py,
    class names and, for names, the preprocessing are those of the training.

    Args:
        model: A name of `mmpoolformer.list_models()`, `timm/NAME` with one of timm's,
            or a config of a classifier, the file or what is in it.
        checkpoint: What `read_source` takes: a path, a URL, `zoo://NAME` or
            `timm://NAME`, perhaps with `#ENTRY`; in any known key format, for timm's
            models in timm's; or `'random'`. By default the published weights, which
            are downloaded, or those that the config names, see `fill_from_config`. An
            exported file runs in place of the network.
        trust: See `read_checkpoint`.
        classes: Names of the classes in the order of the labels, in place of those in
            the checkpoint.
        size: Height and width of the images, in place of the model's own.
        num_classes: Classes of a named model with random weights; other weights of
            another number are refused.
        may_be_random: See `fill_from_config`.

    Raises:
        ValueError: If the name is unknown, the classes are of another number, or the
            checkpoint is none of this model.
        UserError: If the config is of another kind, or the checkpoint does not fill it.
    """
    if isinstance(model, Config) or is_config(model):
        config = model if isinstance(model, Config) else read_config(model)
        name, network, weights = _of_config(config, checkpoint, trust, may_be_random)
        settings = dict(config.test_dataloader.dataset.get('transform') or {})
    else:
        name = str(model)
        check_name(name)
        if isinstance(checkpoint, Engine):
            network, weights = exported_classifier(checkpoint)
        else:
            source = named_source(name, checkpoint)
            network, weights = _named(name, source, trust, size, num_classes)
        meta = weights.content.get('meta')
        meta = meta if isinstance(meta, Mapping) else {}
        recorded = recorded_settings(meta)
        settings = evaluation_settings(name) if recorded is None else recorded
        settings |= stated_settings(meta)
    if size:
        settings['input_size'] = (3, *size)
    classes = _checked_classes(name, classes, weights, network.num_classes)
    return KnownClassifier(
        name, weights.source, network.eval(), settings, classes, weights.unfilled
    )


def read_config(path: str | PathLike) -> Config:
    """Read the config of a model that is to be shown pictures.

    Raises:
        UserError: If it is none, or lacks what pictures need.
    """
    if not Path(path).is_file():
        raise UserError(f'{path}: no such config file')
    return load_config(path, ('model', 'test_dataloader'))


def _of_config(
    config: Config,
    checkpoint: str | PathLike | Engine | None,
    trust: bool,
    may_be_random: bool,
) -> tuple[str, nn.Module, Weights]:
    model = build_from_config(config)
    if not isinstance(model, ImageClassifier):
        raise UserError(
            f'{config.filename}: {type(model).__name__} is no detector of mmdet, no '
            'segmentor of mmseg and no classifier of this package'
        )
    weights = weights_or_exported(model, config, checkpoint, trust, may_be_random)
    return Path(config.filename or 'config').stem, model.backbone, weights


def _named(
    name: str,
    source: str,
    trust: bool,
    size: tuple[int, int] | None,
    num_classes: int | None,
) -> tuple[nn.Module, Weights]:
    if source == RANDOM:
        network = _network(name, {}, num_classes, size)
        return network, Weights(RANDOM, unfilled=ALL)
    content = read_source(source, trust=trust)
    network = _network(name, without_wrappers(unwrap(content, source)[1]), None, size)
    if num_classes not in (None, network.num_classes):
        raise CheckpointError(
            f'num_classes={num_classes}, but {source} is for {network.num_classes} '
            'classes; leave it out'
        )
    if name.startswith(TIMM):
        load_timm(network, content, source)
    else:
        load_weights(network, content, trust=trust, name=source)
    return network, Weights(source, content)


def _checked_classes(
    name: str, given: Sequence[str], weights: Weights, count: int
) -> tuple[str, ...]:
    """Return the names of the classes: those given, or else in the checkpoint.

    Raises:
        ValueError: If there are more or fewer than classes.
    """
    if given and len(given) != count:
        raise ValueError(
            f'{len(given)} class names, but {name} ({weights.source}) has {count} '
            'classes; give one name for each'
        )
    classes = tuple(given) or recorded_classes(weights.content)
    if classes and len(classes) != count:
        raise CheckpointError(
            f'{weights.source}: names {len(classes)} classes, but its weights are for '
            f'{count}'
        )
    return classes


def _network(
    name: str,
    weights: Mapping[str, Tensor],
    num_classes: int | None,
    size: tuple[int, int] | None,
) -> nn.Module:
    """Build a network for weights; without any, for a number of classes or its own."""
    count = _timm_classes if name.startswith(TIMM) else _last_size
    return build_classifier(name, size, num_classes or count(name, weights))


def _timm_classes(name: str, weights: Mapping[str, Tensor]) -> int:
    published = get_pretrained_cfg(name.removeprefix(TIMM))
    layers = published.classifier
    layer = layers if isinstance(layers, str) or not layers else layers[0]
    weight = weights.get(f'{layer}.weight')
    count = published.num_classes if weight is None else len(weight)
    if not count:
        raise ValueError(f'{name} gives features, not classes')
    return count


def _last_size(_: str, weights: Mapping[str, Tensor]) -> int | None:
    """Return the number of classes that weights are for, None if they don't tell."""
    return next((len(weights[k]) for k in weights if LAST_LAYER.search(k)), None)
