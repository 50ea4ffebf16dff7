"""Whether the parts of a model fit each other, told before the first step.

A backbone in another's place gives other feature maps. What follows it fails at the
first step then, deep inside and without the name of a setting.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import torch
from mmengine.config import ConfigDict
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmpoolformer.utils.errors import UserError
from mmpoolformer.utils.nested import dicts_in
from mmpoolformer.utils.temporary import evaluating

SIDE = 128  # of the picture that a backbone is tried on; strides go up to 64
# What a picture of zeros may raise in parts that do not fit it or each other.
TRIAL_ERRORS = (AssertionError, LookupError, RuntimeError, TypeError, ValueError)
HEADS = (
    *('bbox_head', 'rpn_head', 'mask_head', 'panoptic_head'),
    *('decode_head', 'auxiliary_head'),
)


def check_fit(model: nn.Module, config: ConfigDict) -> None:
    """Refuse a neck or head for other feature maps than it gets.

    The backbone and neck are run on a small picture; what runs is not refused for its
    neck. Heads are compared by their numbers.

    Args:
        model: The model, not wrapped; one without backbone and `extract_feat` is left
            alone.
        config: Its settings.

    Raises:
        UserError: Naming the channels and the setting to change.
    """
    if not hasattr(model, 'extract_feat') or not hasattr(model, 'backbone'):
        return
    has_neck = bool(config.get('neck'))
    maps = _channels_of(model, config, model.extract_feat)
    if maps is None:
        given = _declared(model.backbone) or _channels_of(model, config, model.backbone)
        if given:
            _check_neck(config, given)
        maps = None if has_neck else given
    for place, head, settings in _heads(model, config) if maps else ():
        _check_head(place, head, settings, maps, has_neck)


def check_losses(model: dict) -> None:
    """Refuse losses for another number of classes than their heads have.

    Raises:
        UserError: Naming the setting and the right number of weights, or the setting
            that a single channel needs.
    """
    for place, part in dicts_in(model, 'model'):
        for key in ('loss_cls', 'loss_decode'):
            losses = part.get(key) or []
            if isinstance(losses, dict):
                _check_loss(part, key, losses, f'{place}.{key}')
                continue
            for number, loss in enumerate(losses):
                _check_loss(part, key, loss, f'{place}.{key}.{number}')


def _check_loss(head: dict, key: str, loss: dict, place: str) -> None:
    if not str(loss.get('type')).endswith('CrossEntropyLoss'):
        return
    is_sigmoid = bool(loss.get('use_sigmoid'))
    channels = head.get('out_channels') if key == 'loss_decode' else None
    if channels == 1 and not is_sigmoid:
        raise UserError(
            f'{place}: a single channel (out_channels=1) needs a sigmoid: set '
            f'{place}.use_sigmoid=True, or out_channels={head.get("num_classes", 2)}'
        )
    stuff = head.get('num_stuff_classes', 0)
    classes = head.get('num_classes') or head.get('num_things_classes', 0) + stuff
    weights = loss.get('class_weight')
    if not classes or not isinstance(weights, list | tuple):
        return
    # The background is a class of its own in a detector's softmax.
    needed = channels or classes + (key == 'loss_cls' and not is_sigmoid)
    if len(weights) != needed:
        extra = ', the last for the background' if needed > classes else ''
        raise UserError(
            f'{place}.class_weight has {len(weights)} values for {classes} classes: '
            f'give {needed}{extra}'
        )


def check_averages(hooks: Sequence[Hook], scope: str) -> None:
    """Refuse averaged models (EMA) of a kind that is not known in a scope.

    Raises:
        UserError: Naming the kind, and the scope that has it.
    """
    kinds = [hook.ema_cfg['type'] for hook in hooks if isinstance(hook, EMAHook)]
    for kind in kinds:
        with MODELS.switch_scope_and_registry(scope) as registry:
            if not isinstance(kind, str) or registry.get(kind) is not None:
                continue
        owners = [s for s, one in MODELS.children.items() if kind in one.module_dict]
        names = [f'{owner}.{kind}' for owner in owners] or ['mmdet.ExpMomentumEMA']
        raise UserError(
            f'EMAHook: ema_type={kind} is not known to {scope}: write it with its '
            f'scope, such as {names[0]}, or take ExponentialMovingAverage'
        )


def _declared(backbone: nn.Module) -> tuple[int, ...] | None:
    declared = getattr(backbone, 'out_channels', None)
    is_list = isinstance(declared, Sequence) and all(
        isinstance(count, int) for count in declared
    )
    return tuple(declared) if is_list else None


def _channels_of(
    model: nn.Module, config: ConfigDict, part: Callable[[Tensor], object]
) -> tuple[int, ...] | None:
    """Run a part of a model on a picture of zeros; return its maps' channels.

    None stands for a failure, and for a result that is no maps.
    """
    channels = config.backbone.get('in_channels', 3)
    like = next(model.parameters())
    picture = torch.zeros(1, channels, SIDE, SIDE, dtype=like.dtype, device=like.device)
    maps = None
    with suppress(*TRIAL_ERRORS), evaluating(model), torch.no_grad():
        maps = part(picture)
    is_maps = (
        isinstance(maps, list | tuple)
        and maps
        and all(isinstance(one, Tensor) and one.ndim == 4 for one in maps)
    )
    return tuple(one.shape[1] for one in maps) if is_maps else None


def _check_neck(config: ConfigDict, given: tuple[int, ...]) -> None:
    neck, place = config.get('neck'), 'model.neck'
    if isinstance(neck, list | tuple):
        neck, place = neck[0], 'model.neck.0'
    wanted = neck and neck.get('in_channels')
    if isinstance(wanted, list | tuple) and tuple(wanted) != given:
        raise _misfit(f'{place}.in_channels', list(wanted), list(given), given, False)


def _heads(
    model: nn.Module, config: ConfigDict
) -> Iterator[tuple[str, nn.Module, ConfigDict]]:
    """Give the heads that see all feature maps, with their places and settings."""
    for name in HEADS:
        head, settings = getattr(model, name, None), config.get(name)
        if isinstance(settings, list | tuple):
            parts = zip(head or (), settings, strict=False)
            for number, (one, own) in enumerate(parts):
                yield f'model.{name}.{number}', one, own
        elif head is not None and settings:
            yield f'model.{name}', head, settings


def _check_head(
    place: str,
    head: nn.Module,
    settings: ConfigDict,
    maps: tuple[int, ...],
    has_neck: bool,
) -> None:
    wanted = settings.get('in_channels')
    index = getattr(head, 'in_index', None)
    levels = getattr(getattr(head, 'prior_generator', None), 'num_levels', None)
    if wanted is None:
        return
    is_list = isinstance(wanted, list | tuple)
    if index is not None:
        indices = tuple(index) if isinstance(index, list | tuple) else (index,)
        if any(not -len(maps) <= i < len(maps) for i in indices):
            raise _misfit(
                f'{place}.in_index', index, f'below {len(maps)}', maps, has_neck
            )
        needed = [maps[i] for i in indices]
        needed = needed if is_list else needed[0]
    elif is_list:
        needed = list(maps)
    else:
        needed = wanted if set(maps) == {wanted} else 'of each map'
    wanted = list(wanted) if is_list else wanted
    if wanted != needed:
        raise _misfit(f'{place}.in_channels', wanted, needed, maps, has_neck)
    if levels and levels != len(maps) and index is None:
        raise UserError(
            f'{_given(maps, has_neck)}, but {place} has anchors or points for {levels} '
            'maps: change the strides of its generator (anchor_generator or '
            'prior_generator), model.neck.num_outs or model.backbone.out_indices'
        )


def _given(maps: tuple[int, ...], has_neck: bool) -> str:
    if has_neck:
        return f'the neck gives {len(maps)} maps of {list(maps)} channels'
    return f'the backbone gives {len(maps)} maps (out_channels={list(maps)})'


def _misfit(
    place: str, wanted: object, needed: object, maps: tuple[int, ...], has_neck: bool
) -> UserError:
    if needed == 'of each map':
        part = 'model.neck.out_channels' if has_neck else 'model.neck'
        cure = f'give every map {wanted} channels by {part}'
    else:
        sign = ' ' if isinstance(needed, str) else '='
        cure = f'set {place}{sign}{needed}'.replace(', ', ',')
    others = '' if has_neck else ', or choose other maps by model.backbone.out_indices'
    return UserError(
        f'{_given(maps, has_neck)}, but {place}={wanted} is for others: {cure}{others}'
    )
