"""Models to export, with what a user of the file must know: by name or by config."""

from collections.abc import Mapping
from pathlib import Path

from mmengine.config import Config
from torch import nn

from mmpoolformer.checkpoints import load_weights, read_checkpoint, resolve_source
from mmpoolformer.checkpoints.loading import fill_model
from mmpoolformer.classification.class_labels import describe_classes, recorded_classes
from mmpoolformer.classification.preprocessing import (
    evaluation_settings,
    normalisation,
    picture_size,
)
from mmpoolformer.inference.classifiers import load_classifier
from mmpoolformer.models import create_model
from mmpoolformer.models.from_config import build_from_config

BYTE = 255


def named_model(
    name: str,
    checkpoint: str | None = None,
    features_only: bool = False,
    num_classes: int | None = None,
    trust: bool = False,
) -> tuple[nn.Module, dict]:
    """Build a model of this package.

    Args:
        name: One of `mmpoolformer.list_models()`.
        checkpoint: Its weights: a path, a URL, `zoo://NAME` or `timm://NAME`; `None`
            leaves them random.
        features_only: Whether to build the backbone in place of the classifier.
        num_classes: Classes of a classifier with random weights; else the weights tell.
        trust: See `read_checkpoint`.

    Returns:
        The model, and for the file `model`, `mean`, `std`, `size` of the pictures,
        `channel_order` and, if known, `classes`.

    Raises:
        ValueError: If there is no such model or the weights do not fit.
    """
    if checkpoint is None or features_only:
        model = create_model(name, num_classes=num_classes, features_only=features_only)
        if checkpoint is not None:
            load_weights(model, checkpoint, trust=trust)
        settings, classes = evaluation_settings(name), ()
    else:
        known = load_classifier(name, checkpoint, trust)
        model, settings, classes = known.network, known.settings, known.classes
    info = {
        'model': name,
        'picture_size': list(picture_size(settings)),
        **_normalisation(settings),
    }
    if not features_only:
        info['classes'] = list(describe_classes(classes, model.num_classes))
    return model, info


def config_model(
    config: Config,
    checkpoint: str | None = None,
    features_only: bool = False,
    trust: bool = False,
) -> tuple[nn.Module, dict]:
    """Build the model of a config.

    Args:
        config: A config with `model`.
        checkpoint: Weights of the whole model; `None` leaves them random.
        features_only: Whether only its backbone is wanted.
        trust: See `read_checkpoint`.

    Returns:
        The model, and for the file what `named_model` gives.

    Raises:
        UserError: If the checkpoint does not fill the model.
    """
    model = build_from_config(config)
    info: dict = {'model': Path(config.filename or 'model').stem}
    if checkpoint is not None:
        content = read_checkpoint(resolve_source(checkpoint), trust=trust)
        fill_model(model, content, str(checkpoint))
        info['classes'] = list(recorded_classes(content))
    info = {key: value for key, value in info.items() if value}
    prepared = config.model.get('data_preprocessor') or {}
    if 'mean' in prepared:
        order = 'RGB' if prepared.get('bgr_to_rgb') else 'BGR'
        info['channel_order'] = order
        info |= {key: list(prepared[key]) for key in ('mean', 'std')}
    else:
        dataset = (config.get('test_dataloader') or {}).get('dataset', {})
        settings = dataset.get('transform') or {}
        info['picture_size'] = list(picture_size(settings))
        info |= _normalisation(settings)
    return (model.backbone if features_only else model), info


def _normalisation(settings: Mapping) -> dict:
    """Return what timm subtracts from and divides pictures by, for pixels to 255."""
    names = ('mean', 'std')
    values = zip(names, normalisation(settings), strict=True)
    numbers = {name: [BYTE * x for x in each] for name, each in values}
    return {'channel_order': 'RGB', **numbers}
