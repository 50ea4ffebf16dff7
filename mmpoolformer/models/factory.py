"""Models by name, as plain modules outside any config."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from functools import partial
from os import PathLike

from torch import nn

from mmpoolformer.checkpoints import OUTPUT_NORMS, ZOO, load_weights
from mmpoolformer.models.classifier import MetaFormerClassifier
from mmpoolformer.models.metaformer import MetaFormer
from mmpoolformer.models.pit import PiT, PiTClassifier
from mmpoolformer.models.variants import PIT, VARIANTS
from mmpoolformer.utils.text import nearest


def _metaformer(
    name: str,
    num_classes: int,
    features_only: bool,
    in_channels: int,
    drop_path_rate: float,
    drop_rate: float,
    with_cp: bool,
    **maps: Sequence[int],
) -> nn.Module:
    if features_only:
        return MetaFormer(
            VARIANTS[name],
            in_channels=in_channels,
            drop_path_rate=drop_path_rate,
            with_cp=with_cp,
            **maps,
        )
    return MetaFormerClassifier(
        name, num_classes, in_channels, drop_path_rate, drop_rate, with_cp
    )


def _pit(
    arch: str,
    distilled: bool,
    num_classes: int,
    features_only: bool,
    in_channels: int,
    drop_path_rate: float,
    drop_rate: float,
    with_cp: bool,
    **maps: Sequence[int],
) -> nn.Module:
    options = dict(
        distilled=distilled,
        in_channels=in_channels,
        drop_path_rate=drop_path_rate,
        with_cp=with_cp,
    )
    if features_only:
        return PiT(arch, **options, **maps)
    return PiTClassifier(arch, num_classes, drop_rate=drop_rate, **options)


# What builds the model of each name, from the other options of `create_model`.
BUILDERS: dict[str, Callable[..., nn.Module]] = {
    **{name: partial(_metaformer, name) for name in VARIANTS},
    **{
        f'pit_{arch}{"_distilled" if distilled else ""}': partial(_pit, arch, distilled)
        for arch in PIT
        for distilled in (False, True)
    },
}


def list_models(pattern: str = '*') -> list[str]:
    """Return the names that `create_model` knows.

    Args:
        pattern: Which of them, with the wildcards of file names: `'caformer_*'`.
    """
    return [name for name in BUILDERS if fnmatch(name, pattern)]


def create_model(
    name: str,
    checkpoint: str | PathLike | None = None,
    num_classes: int | None = None,
    features_only: bool = False,
    *,
    pretrained: bool = False,
    out_indices: Sequence[int] | None = None,
    in_channels: int = 3,
    drop_path_rate: float = 0.0,
    drop_rate: float = 0.0,
    with_cp: bool = False,
) -> nn.Module:
    """Build a model by name.

    Args:
        name: One of `list_models()`, such as `'poolformer_s12'`.
        checkpoint: Weights to load: a path, a URL, `zoo://NAME` or `timm://NAME`,
            perhaps with `#ENTRY`, in any known key format. `None` leaves the random
            initialisation.
        num_classes: Classes of the classifier, not used with `features_only`; by
            default those of the published weights: 1000, or 21,841 (`..._in21k`).
        features_only: Whether to build the dense backbone (images to a tuple of
            maps) instead of the classifier (images to logits). Its `feature_info`
            describes the maps as timm's does.
        pretrained: Whether to load the published weights, `zoo://NAME`. The last
            layer of a classifier of other classes then stays random, as in timm.
        out_indices: Stages whose maps the backbone gives out, counted from 0; by
            default all.
        in_channels: Channels of the image.
        drop_path_rate: Drop-path rate of the last block, in [0, 1).
        drop_rate: Dropout rate of the classifier's head, in [0, 1); not used with
            `features_only`.
        with_cp: Whether blocks recompute their activations in the backward pass.

    Returns:
        The model, in training mode as every new `nn.Module`.

    Raises:
        ValueError: If the name is unknown, an option is out of its range or
            contradicts another, or the checkpoint doesn't fit.

    Example:
        >>> model = create_model('poolformer_s12', features_only=True).eval()
        >>> [tuple(m.shape) for m in model(torch.zeros(1, 3, 64, 64))]
        [(1, 64, 16, 16), (1, 128, 8, 8), (1, 320, 4, 4), (1, 512, 2, 2)]
    """
    if name not in BUILDERS:
        raise ValueError(f'no model {name!r}: did you mean {nearest(name, BUILDERS)}?')
    if pretrained and checkpoint is not None:
        raise ValueError('give checkpoint or pretrained=True, not both')
    if out_indices is not None and not features_only:
        raise ValueError(f'out_indices={out_indices}: only with features_only=True')
    published = ZOO[name].num_classes
    model = BUILDERS[name](
        num_classes=published if num_classes is None else num_classes,
        features_only=features_only,
        in_channels=in_channels,
        drop_path_rate=drop_path_rate,
        drop_rate=drop_rate,
        with_cp=with_cp,
        **({} if out_indices is None else {'out_indices': out_indices}),
    )
    if checkpoint is not None:
        load_weights(model, checkpoint)
    if pretrained:
        is_other = num_classes not in (None, published) and not features_only
        fresh = _last_layers(model, num_classes) if is_other else []
        load_weights(model, f'zoo://{name}', fresh=(*OUTPUT_NORMS, *fresh))
    return model


def _last_layers(model: nn.Module, num_classes: int) -> list[str]:
    """Return the names of a classifier's layers that give logits."""
    return [
        name
        for name, part in model.named_modules()
        if name.startswith('head') and getattr(part, 'out_features', 0) == num_classes
    ]
