"""Models by name, as plain modules outside any config."""

from collections.abc import Sequence
from fnmatch import fnmatch
from os import PathLike

from torch import nn

from mmpoolformer.checkpoints import OUTPUT_NORMS, ZOO, load_weights
from mmpoolformer.models.classifier import MetaFormerClassifier
from mmpoolformer.models.hub import SavedModel, is_saved, read_saved
from mmpoolformer.models.metaformer import MetaFormer
from mmpoolformer.models.pit import PiT, PiTClassifier
from mmpoolformer.models.variants import PIT, VARIANTS, PiTVariant
from mmpoolformer.utils.text import nearest

# The model of each name.
NAMED = {
    **{
        name: SavedModel(variant, num_classes=ZOO[name].num_classes)
        for name, variant in VARIANTS.items()
    },
    **{
        f'pit_{arch}{"_distilled" * distilled}': SavedModel(variant, distilled, 1000)
        for arch, variant in PIT.items()
        for distilled in (False, True)
    },
}


def list_models(pattern: str = '*') -> list[str]:
    """Return the names that `create_model` knows.

    Args:
        pattern: Which of them, with the wildcards of file names: `'caformer_*'`.
    """
    return [name for name in NAMED if fnmatch(name, pattern)]


def create_model(
    name: str,
    checkpoint: str | PathLike | None = None,
    num_classes: int | None = None,
    features_only: bool = False,
    *,
    pretrained: bool = False,
    out_indices: Sequence[int] | None = None,
    in_channels: int | None = None,
    drop_path_rate: float = 0.0,
    drop_rate: float = 0.0,
    with_cp: bool = False,
) -> nn.Module:
    """Build a model by name, or one that was saved.

    Args:
        name: One of `list_models()`, such as `'poolformer_s12'`, or with weights:
            `hf://OWNER/NAME` of the Hugging Face hub, or the path of a folder, see
            `save_pretrained`.
        checkpoint: Weights to load: a path, a URL, `zoo://NAME`, `timm://NAME` or
            `hf://OWNER/NAME`, perhaps with `#ENTRY`, in any known key format. `None`
            leaves a model by name as it is initialised, at random.
        num_classes: Classes of the classifier, not used with `features_only`; by
            default those of the weights: 1000, or 21,841 (`..._in21k`). Of others the
            last layer of a pretrained classifier stays random, as in timm.
        features_only: Whether to build the dense backbone (images to a tuple of
            maps) instead of the classifier (images to logits). Its `feature_info`
            describes the maps as timm's does.
        pretrained: Whether to load the published weights of a name, `zoo://NAME`.
        out_indices: Stages whose maps the backbone gives out, counted from 0; by
            default all, or those of the saved one.
        in_channels: Channels of the image; by default 3, or those of the saved one.
        drop_path_rate: Drop-path rate of the last block, in [0, 1).
        drop_rate: Dropout rate of the classifier's head, in [0, 1); not used with
            `features_only`.
        with_cp: Whether blocks recompute their activations in the backward pass.

    Returns:
        The model, in training mode as every new `nn.Module`.

    Raises:
        ValueError: If the name is unknown, an option is out of its range or
            contradicts another, or the checkpoint doesn't fit.

    Examples:
        >>> model = create_model('poolformer_s12', features_only=True).eval()
        >>> [tuple(m.shape) for m in model(torch.zeros(1, 3, 64, 64))]
        [(1, 64, 16, 16), (1, 128, 8, 8), (1, 320, 4, 4), (1, 512, 2, 2)]
    """
    known, source = _known(name, pretrained)
    if source and checkpoint is not None:
        raise ValueError('give checkpoint or pretrained weights, not both')
    if out_indices is not None and not features_only:
        raise ValueError(f'out_indices={out_indices}: only with features_only=True')
    if known.num_classes is None and not features_only:
        raise ValueError(f'{name} holds a backbone: give features_only=True')
    options = dict(
        in_channels=known.in_channels if in_channels is None else in_channels,
        drop_path_rate=drop_path_rate,
        with_cp=with_cp,
    )
    if isinstance(known.variant, PiTVariant):
        backbone, classifier = PiT, PiTClassifier
        options['distilled'] = known.distilled
    else:
        backbone, classifier = MetaFormer, MetaFormerClassifier
    if features_only:
        chosen = known.out_indices if out_indices is None else out_indices
        maps = {} if chosen is None else {'out_indices': chosen}
        model = backbone(known.variant, **options, **maps)
    else:
        classes = known.num_classes if num_classes is None else num_classes
        model = classifier(known.variant, classes, drop_rate=drop_rate, **options)
    if checkpoint is not None:
        load_weights(model, checkpoint)
    if source:
        is_other = num_classes not in (None, known.num_classes) and not features_only
        fresh = _last_layers(model, num_classes) if is_other else []
        load_weights(model, source, fresh=(*OUTPUT_NORMS, *fresh))
    return model


def _known(name: str, pretrained: bool) -> tuple[SavedModel, str | None]:
    """Return which model is meant, and the weights to load, if any."""
    if name in NAMED:
        return NAMED[name], f'zoo://{name}' if pretrained else None
    if not is_saved(name):
        raise ValueError(f'no model {name!r}: did you mean {nearest(name, NAMED)}?')
    return read_saved(name), str(name)


def _last_layers(model: nn.Module, num_classes: int) -> list[str]:
    """Return the names of a classifier's layers that give logits."""
    return [
        name
        for name, part in model.named_modules()
        if name.startswith('head') and getattr(part, 'out_features', 0) == num_classes
    ]
