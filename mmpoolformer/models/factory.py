"""Models by name, as plain modules outside any config."""

import difflib
from os import PathLike

from torch import nn

from mmpoolformer.checkpoints import load_weights
from mmpoolformer.models.classifier import MetaFormerClassifier
from mmpoolformer.models.poolformer import PoolFormer
from mmpoolformer.models.variants import POOLFORMER

_NAMES = {f'poolformer_{arch}': arch for arch in POOLFORMER}


def list_models() -> list[str]:
    """Return every name that `create_model` knows."""
    return list(_NAMES)


def create_model(
    name: str,
    checkpoint: str | PathLike | None = None,
    num_classes: int = 1000,
    features_only: bool = False,
) -> nn.Module:
    """Build a model by name.

    Args:
        name: One of `list_models()`, such as `'poolformer_s12'`.
        checkpoint: Weights to load: a path, a URL, `zoo://NAME` or `timm://NAME`, in
            any known key format. `None` leaves the random initialisation.
        num_classes: Classes of the classifier; not used with `features_only`.
        features_only: Whether to build the dense backbone (images to a tuple of four
            maps) instead of the classifier (images to logits).

    Returns:
        The model, in training mode as every new `nn.Module`.

    Raises:
        ValueError: If the name is unknown or the checkpoint doesn't fit.

    Example:
        >>> model = create_model('poolformer_s12', features_only=True).eval()
        >>> [tuple(m.shape) for m in model(torch.zeros(1, 3, 64, 64))]
        [(1, 64, 16, 16), (1, 128, 8, 8), (1, 320, 4, 4), (1, 512, 2, 2)]
    """
    if name not in _NAMES:
        close = difflib.get_close_matches(name, _NAMES, n=3) or list(_NAMES)
        raise ValueError(f'no model {name!r}: did you mean {", ".join(close)}?')
    arch = _NAMES[name]
    if features_only:
        model = PoolFormer(arch)
    else:
        model = MetaFormerClassifier(POOLFORMER[arch], num_classes)
    if checkpoint is not None:
        load_weights(model, checkpoint)
    return model
