"""Classifiers by name: the network with weights, class names and preprocessing."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike

import timm
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from mmpoolformer.checkpoints import (
    CheckpointError,
    load_weights,
    read_checkpoint,
    resolve_source,
    unwrap,
)
from mmpoolformer.classification.class_labels import recorded_classes
from mmpoolformer.classification.preprocessing import (
    evaluation_settings,
    recorded_settings,
)
from mmpoolformer.models import create_model, list_models
from mmpoolformer.models.timm_models import (
    TIMM,
    build_timm,
    load_timm,
    without_wrappers,
)
from mmpoolformer.utils.text import nearest

# The last layer in the key formats of this package's models. Its bias, because weights
# lie transposed in some.
LAST_LAYER = re.compile(r'(?:^|\.)(?:head|classifier)(?:\.fc)?(?:\.fc2)?\.bias$')


@dataclass(frozen=True)
class KnownClassifier:
    """A classifier that is ready to be used.

    Attributes:
        name: Its name, see `load_classifier`.
        source: Where its weights are from.
        network: From images (B, 3, H, W) to logits (B, classes); in evaluation mode.
        settings: How pictures are prepared: options of `timm.data.create_transform`.
        classes: The class names in the checkpoint; empty where it has none.
    """

    name: str
    source: str
    network: nn.Module
    settings: dict
    classes: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.network.num_classes


def load_classifier(
    name: str,
    checkpoint: str | PathLike | None = None,
    trust: bool = False,
    classes: Sequence[str] = (),
    size: tuple[int, int] | None = None,
) -> KnownClassifier:
    """Build a classifier by name, with weights.

    The number of classes is that of the weights. Where they come from tools/train.py,
    class names and preprocessing are those of the training.

    Args:
        name: A name of `mmpoolformer.list_models()`, or `timm/NAME` with one of timm's.
        checkpoint: What `resolve_source` takes: a path, a URL, `zoo://NAME` or
            `timm://NAME`; in any known key format, for timm's models in timm's. By
            default the published weights, which are downloaded.
        trust: See `read_checkpoint`.
        classes: Names of the classes in the order of the labels, in place of those in
            the checkpoint.
        size: Height and width of the images, for models of timm that are built for one
            size alone; `None` is the model's own.

    Raises:
        ValueError: If the name is unknown, the classes are of another number, or the
            checkpoint is none of this model.
    """
    check_name(name)
    source = str(checkpoint or default_source(name))
    content = read_checkpoint(resolve_source(source), trust=trust)
    weights = without_wrappers(unwrap(content, source)[1])
    if name.startswith(TIMM):
        network = _timm_network(name.removeprefix(TIMM), weights, size)
        load_timm(network, content, source)
    else:
        network = create_model(name, num_classes=_last_size(weights))
        load_weights(network, content, trust=trust, name=source)
    if classes and len(classes) != network.num_classes:
        raise ValueError(
            f'{len(classes)} class names, but {source} is for {network.num_classes} '
            'classes; give one name for each'
        )
    classes = tuple(classes) or recorded_classes(content)
    if classes and len(classes) != network.num_classes:
        raise CheckpointError(
            f'{source}: names {len(classes)} classes, but its weights are for '
            f'{network.num_classes}'
        )
    meta = content.get('meta')
    recorded = recorded_settings(meta) if isinstance(meta, Mapping) else None
    settings = evaluation_settings(name) if recorded is None else recorded
    return KnownClassifier(name, source, network.eval(), settings, classes)


def check_name(name: str) -> None:
    """Refuse a name that `load_classifier` doesn't know.

    Raises:
        ValueError: Naming similar ones.
    """
    if name.startswith(TIMM):
        _check_timm(name.removeprefix(TIMM))
    elif name not in list_models():
        also = f', or {TIMM}{name} for timm' if timm.is_model(name) else ''
        raise ValueError(
            f'no model {name!r}: did you mean {nearest(name, list_models())}{also}?'
        )


def _check_timm(name: str) -> None:
    known = timm.list_pretrained() if '.' in name else timm.list_models()
    if name not in known:
        raise ValueError(
            f"no model '{TIMM}{name}': did you mean timm's {nearest(name, known)}?"
        )


def default_source(name: str) -> str:
    """Return where a model's published weights are, for `resolve_source`."""
    if name.startswith(TIMM):
        return f'timm://{name.removeprefix(TIMM)}'
    return f'zoo://{name}'


def _timm_network(
    name: str, weights: Mapping[str, Tensor], size: tuple[int, int] | None
) -> nn.Module:
    published = get_pretrained_cfg(name)
    layers = published.classifier
    layer = layers if isinstance(layers, str) or not layers else layers[0]
    weight = weights.get(f'{layer}.weight')
    count = published.num_classes if weight is None else len(weight)
    if not count:
        raise ValueError(f'timm/{name} gives features, not classes')
    other = size and published.fixed_input_size and size != published.input_size[1:]
    return build_timm(name, count, options={'img_size': size} if other else None)


def _last_size(weights: Mapping[str, Tensor]) -> int | None:
    """Return the number of classes that weights are for, None if they don't tell."""
    return next((len(weights[k]) for k in weights if LAST_LAYER.search(k)), None)
