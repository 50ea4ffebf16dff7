"""Networks of timm, built and filled with weights in timm's names."""

import timm
from torch import nn

from mmpoolformer.checkpoints import read_checkpoint, resolve_source, unwrap


def build_timm(
    name: str,
    num_classes: int = 1000,
    checkpoint: str | None = None,
    pretrained: bool = False,
    options: dict | None = None,
) -> nn.Module:
    """Build a model of timm, see `TimmClassifier`.

    Raises:
        ValueError: If timm has no such model, or the weights don't fit.
    """
    if not timm.is_model(name.split('.')[0]):
        near = ', '.join(timm.list_models(f'{name[:6]}*')[:4])
        hint = f'; it has {near}' if near else ''
        raise ValueError(f'name={name!r}: timm has no such model{hint}')
    model = timm.create_model(
        name, pretrained=pretrained, num_classes=num_classes, **options or {}
    )
    if checkpoint is not None:
        load_timm(model, checkpoint)
    return model


def load_timm(model: nn.Module, checkpoint: str) -> None:
    """Load weights with timm's names into a model of timm, strictly.

    Args:
        model: The model.
        checkpoint: A path or URL; a checkpoint of `TimmClassifier` will do.

    Raises:
        ValueError: If the weights don't fit.
    """
    weights = unwrap(read_checkpoint(resolve_source(checkpoint)), str(checkpoint))[1]
    for prefix in ('module.', 'backbone.'):
        if all(key.startswith(prefix) for key in weights):
            weights = {key.removeprefix(prefix): weights[key] for key in weights}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = ' '.join(str(error).split())[:300]
        raise ValueError(f'{checkpoint}: {reason}') from error
