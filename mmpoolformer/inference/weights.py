"""One rule for the weights of a model: given, published, the config's own, or random.

checkpoint   of a name in `list_models()` or timm/NAME   of a config
given        those                                       those, for the whole model
'random'     none                                        none
None         the published ones                          its load_from, else init_cfg
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from mmengine.config import Config
from torch import nn

from mmpoolformer.checkpoints import read_source, register_safe_loaders
from mmpoolformer.checkpoints.filling import fill_model
from mmpoolformer.models.timm_models import TIMM
from mmpoolformer.utils.errors import UserError
from mmpoolformer.utils.logs import warnings_alone
from mmpoolformer.utils.paths import RANDOM

ALL = 'all weights'


@dataclass(frozen=True)
class Weights:
    """What a model was filled with.

    Attributes:
        source: The checkpoint's name, or `RANDOM`.
        content: What the checkpoint holds; empty without one.
        unfilled: Which weights are random, in words; empty if none.
        parts: Without a checkpoint: the parts that are filled, such as `backbone`.
    """

    source: str
    content: Mapping = field(default_factory=dict)
    unfilled: str = ''
    parts: tuple[str, ...] = ()


def report_random(name: str, unfilled: str) -> None:
    """Say on stderr which weights of a model are random, if any are."""
    if unfilled:
        print(
            f'note: {name}: {unfilled} are random; give --checkpoint', file=sys.stderr
        )


def named_source(name: str, checkpoint: str | os.PathLike | None) -> str:
    """Return where the weights of a named model are: by default, published."""
    if checkpoint is not None:
        return os.fspath(checkpoint)
    if name.startswith(TIMM):
        return f'timm://{name.removeprefix(TIMM)}'
    return f'zoo://{name}'


def fill_from_config(
    model: nn.Module,
    config: Config,
    checkpoint: str | os.PathLike | None,
    trust: bool = False,
    may_be_random: bool = False,
) -> Weights:
    """Fill the model of a config.

    Args:
        model: What `build_from_config` has made of the config.
        config: The config.
        checkpoint: Weights of the whole model; `RANDOM` leaves it as it is; None asks
            the config: its `load_from`, else what its `init_cfg` load.
        trust: See `read_checkpoint`.
        may_be_random: Whether the config may leave weights random; asking for `RANDOM`
            always may.

    Raises:
        ValueError: If a checkpoint can't be read or doesn't fit.
        UserError: If the checkpoint does not fill the model, or nothing would.
    """
    if checkpoint == RANDOM:
        return Weights(RANDOM, unfilled=ALL)
    source = checkpoint or config.get('load_from')
    if source:
        source = os.fspath(source)
        content = read_source(source, trust=trust)
        fill_model(model, content, source)
        return Weights(source, content)
    pretrained = _pretrained_parts(model)
    parts = pretrained | _built_parts(config.model)
    unfilled = _unfilled(model, parts)
    if unfilled and not may_be_random:
        raise UserError(
            f'{config.filename}: names no weights of the whole model (load_from): give '
            f'--checkpoint FILE, or --checkpoint {RANDOM}'
        )
    if pretrained:
        register_safe_loaders()
        with warnings_alone():  # not a line for each parameter
            model.init_weights()
    source = ', '.join(parts.values()) or RANDOM
    return Weights(source, unfilled=unfilled, parts=tuple(parts))


def _pretrained_parts(model: nn.Module) -> dict[str, str]:
    """Return the parts that `init_cfg` fills, by name, with their checkpoints."""
    parts = {}
    for name, module in model.named_modules():
        given = getattr(module, 'init_cfg', None)
        for entry in given if isinstance(given, list) else [given]:
            if isinstance(entry, Mapping) and entry.get('type') == 'Pretrained':
                parts[name] = str(entry.get('checkpoint'))
    return parts


def _built_parts(settings: Mapping) -> dict[str, str]:
    """Return the parts that are built with weights: `checkpoint=` or `pretrained=`."""
    parts = {'': settings, 'backbone': settings.get('backbone') or {}}
    given = {k: v.get('checkpoint') or v.get('pretrained') for k, v in parts.items()}
    return {part: str(weights) for part, weights in given.items() if weights}


def _unfilled(model: nn.Module, parts: Mapping[str, str]) -> str:
    """Tell which parameters lie outside of parts such as `backbone`."""
    starts = tuple(part and f'{part}.' for part in parts)
    if all(name.startswith(starts) for name, _ in model.named_parameters()):
        return ''
    return f'{ALL} but those of {", ".join(parts)}' if parts else ALL
