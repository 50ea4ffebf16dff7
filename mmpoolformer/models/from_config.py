"""Models for the tools: classifiers by name, or the whole models of configs."""

import warnings

import timm
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS
from timm.models import get_pretrained_cfg
from torch import nn

from mmpoolformer.models import VARIANTS, create_model, list_models
from mmpoolformer.models.timm_models import TIMM, build_timm
from mmpoolformer.registry import scope_of
from mmpoolformer.utils.prints import ignore_noise
from mmpoolformer.utils.text import nearest

DEFAULT_SIZE = (224, 224)


def check_name(name: str) -> None:
    """Refuse a name that is none of `mmpoolformer.list_models()` and no `timm/NAME`.

    Raises:
        ValueError: Naming similar ones.
    """
    if name.startswith(TIMM):
        bare = name.removeprefix(TIMM)
        known = timm.list_pretrained() if '.' in bare else timm.list_models()
        if bare not in known:
            raise ValueError(
                f"no model {name!r}: did you mean timm's {nearest(bare, known)}?"
            )
    elif name not in list_models():
        also = f', or {TIMM}{name} for timm' if timm.is_model(name) else ''
        raise ValueError(
            f'no model {name!r}: did you mean {nearest(name, list_models())}{also}?'
        )


def input_size(name: str) -> tuple[int, int]:
    """Return height and width of the images that a model of that name was made for.

    Raises:
        ValueError: See `check_name`.
    """
    check_name(name)
    if name in VARIANTS:
        return (VARIANTS[name].image_size,) * 2
    if not name.startswith(TIMM):
        return DEFAULT_SIZE
    known = get_pretrained_cfg(name.removeprefix(TIMM))
    return tuple(known.input_size[1:]) if known else DEFAULT_SIZE


def list_architectures() -> list[str]:
    """Return `mmpoolformer.list_models()` less the names that differ in weights alone.

    `caformer_s18_in21k` is left out, because it is built as `caformer_s18`;
    `caformer_s18_384` is not, because it was made for larger images.
    """
    first = {VARIANTS.get(name, name): name for name in reversed(list_models())}
    return sorted(first.values(), key=list_models().index)


def build_classifier(
    name: str, size: tuple[int, int] | None = None, num_classes: int | None = 1000
) -> nn.Module:
    """Build a classifier of this package or of timm, with random weights.

    Args:
        name: See `check_name`.
        size: Height and width of the images, for models that are built for one size
            alone, such as timm's DeiT. `None` is the model's own.
        num_classes: Classes; `None`, for models of this package, is the model's own.

    Returns:
        The model, in evaluation mode.

    Raises:
        ValueError: If the name is unknown.
    """
    check_name(name)
    if not name.startswith(TIMM):
        return create_model(name, num_classes=num_classes).eval()
    bare = name.removeprefix(TIMM)
    known = get_pretrained_cfg(bare)
    fixed = size and known and known.fixed_input_size
    other = fixed and size != tuple(known.input_size[1:])
    options = {'img_size': size} if other else None
    return build_timm(bare, num_classes, options=options).eval()


def build_from_config(config: Config) -> nn.Module:
    """Build the whole model of a config: a detector, segmentor or classifier.

    Nothing is downloaded: the weights are random. Synchronised BatchNorm, which runs
    on several GPUs only, becomes plain.

    Args:
        config: Has `model` and, for OpenMMLab's types, `default_scope`.

    Returns:
        The model, in evaluation mode.
    """
    with scope_of(config), warnings.catch_warnings():
        ignore_noise()
        model = MODELS.build(config.model)
    return revert_sync_batchnorm(model).eval()
