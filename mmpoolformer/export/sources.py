"""Models to export, with what a user of the file must know: by name or by config."""

from collections.abc import Mapping
from pathlib import Path

from mmengine.config import Config
from torch import nn

from mmpoolformer.checkpoints import load_weights
from mmpoolformer.classification.class_labels import describe_classes, recorded_classes
from mmpoolformer.classification.preprocessing import (
    evaluation_settings,
    filled_settings,
)
from mmpoolformer.engine.picture_size import tested_scale
from mmpoolformer.inference.classifiers import load_classifier
from mmpoolformer.inference.weights import ALL, fill_from_config, named_source
from mmpoolformer.models import create_model
from mmpoolformer.models.from_config import build_from_config
from mmpoolformer.utils.paths import RANDOM

BYTE = 255


def named_model(
    name: str,
    checkpoint: str | None = None,
    features_only: bool = False,
    num_classes: int | None = None,
    trust: bool = False,
) -> tuple[nn.Module, dict, str]:
    """Build a model of this package.

    Args:
        name: One of `mmpoolformer.list_models()`.
        checkpoint: Its weights, see `load_classifier`.
        features_only: Whether to build the backbone in place of the classifier.
        num_classes: Classes of a classifier with random weights.
        trust: See `read_checkpoint`.

    Returns:
        The model; for the file `model`, `mean`, `std`, `picture_size`, `crop_pct` (the
        share of a picture that is seen), `interpolation`, `channel_order` and, if
        known, `classes`; and which weights are random, in words.

    Raises:
        ValueError: If there is no such model or the weights do not fit.
    """
    if features_only:
        model = create_model(name, features_only=True)
        source = named_source(name, checkpoint)
        if source != RANDOM:
            load_weights(model, source, trust=trust)
        unfilled = ALL if source == RANDOM else ''
        settings, classes = evaluation_settings(name), ()
    else:
        known = load_classifier(name, checkpoint, trust, num_classes=num_classes)
        model, settings, classes = known.network, known.settings, known.classes
        unfilled = known.unfilled
    info = {'model': name, **_preparation(settings)}
    if not features_only:
        info['classes'] = list(describe_classes(classes, model.num_classes))
    return model, info, unfilled


def config_model(
    config: Config,
    checkpoint: str | None = None,
    features_only: bool = False,
    trust: bool = False,
) -> tuple[nn.Module, dict, str]:
    """Build the model of a config.

    Args:
        config: A config with `model`.
        checkpoint: Weights of the whole model, see `fill_from_config`.
        features_only: Whether only its backbone is wanted.
        trust: See `read_checkpoint`.

    Returns:
        What `named_model` gives.

    Raises:
        UserError: If the checkpoint does not fill the model.
    """
    model = build_from_config(config)
    weights = fill_from_config(model, config, checkpoint, trust, may_be_random=True)
    info: dict = {'model': Path(config.filename or 'model').stem}
    classes = recorded_classes(weights.content)
    if classes:
        info['classes'] = list(classes)
    prepared = config.model.get('data_preprocessor') or {}
    if 'mean' in prepared:
        order = 'RGB' if prepared.get('bgr_to_rgb') else 'BGR'
        info['channel_order'] = order
        info |= {key: list(prepared[key]) for key in ('mean', 'std')}
        scale = tested_scale(config)
        if scale:
            info['scale'] = list(scale)
    else:
        dataset = (config.get('test_dataloader') or {}).get('dataset', {})
        info |= _preparation(dataset.get('transform') or {})
    if not features_only:
        return model, info, weights.unfilled
    return model.backbone, info, '' if 'backbone' in weights.parts else weights.unfilled


def _preparation(settings: Mapping) -> dict:
    """Return how timm prepares pictures; mean and std to 255."""
    filled = filled_settings(settings)
    return {
        'picture_size': filled['input_size'][1:],
        'channel_order': 'RGB',
        'crop_pct': filled['crop_pct'],
        'interpolation': filled['interpolation'],
        'mean': [BYTE * x for x in filled['mean']],
        'std': [BYTE * x for x in filled['std']],
    }
