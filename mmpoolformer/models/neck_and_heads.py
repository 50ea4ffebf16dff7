"""Neck and heads of a model for inference: types and layouts of inputs and outputs.

In a model in bfloat16 the layers of neck and heads compute in bfloat16, too. A head's
`forward` gives float32, so that boxes and scores are decoded, resized and sorted as
before.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mmpoolformer.utils.logs import warn

# Layers that need no more than bfloat16; a factor (Scale) keeps its float32.
LAYERS = ('Conv2d', 'ConvTranspose2d', 'Linear', 'GroupNorm')
PLAIN = (*LAYERS, 'Scale')
# Bases of heads that take maps nowhere but in `forward`, which only runs layers, and
# those of their kind whose `forward` does more with numbers of a type of its own.
HEADS = ('AnchorHead', 'AnchorFreeHead', 'BBoxHead', 'FCNMaskHead', 'BaseDecodeHead')
OTHERS = ('TOODHead', 'EMAHead', 'LightHamHead')


def optimize_neck_and_heads(
    model: nn.Module, backbone: nn.Module, dtype: torch.dtype
) -> torch.dtype:
    """Lay out neck and heads beside a backbone, in bfloat16 if asked for and safe.

    Safe are necks and heads of plain layers, heads also of the kinds in `HEADS`.
    Others, such as transformers and deformable convolutions, keep float32 and the plain
    layout and get such maps; where bfloat16 was asked for, the log names them.

    Args:
        model: What holds the backbone; it is changed.
        backbone: A child of the model.
        dtype: `torch.float32`, which leaves the types as they are, or `torch.bfloat16`.

    Returns:
        The type in which the backbone is to give out its maps.
    """
    neck = getattr(model, 'neck', None)
    heads = list(network_parts(model, skipped=(backbone, neck)))
    kept = [name for name, head in heads if not _is_safe(head)]
    for name, head in heads:
        if name not in kept:
            _optimize(head, dtype)
    given = dtype if heads and not kept else torch.float32
    if neck is not None:
        if _has_plain_layers(neck):
            _optimize(neck, dtype, given, plain=bool(kept))
            given = dtype
        else:
            kept.append('neck')
            given = torch.float32
    if kept and dtype != torch.float32:
        warn(f'bfloat16 is not known to be safe in {", ".join(kept)}: kept in float32')
    return given


def read_plain_maps(model: nn.Module) -> None:
    """Give RoI extractors float32 maps in the plain layout; mmcv reads no others."""
    for part in model.modules():
        if is_roi_extractor(part):
            part.forward = partial(_run_plainly, part.forward)


def is_roi_extractor(part: nn.Module) -> bool:
    """Tell whether a module takes the features of regions from maps."""
    return 'BaseRoIExtractor' in _bases(part)


def _run_plainly(forward: Callable, maps: Any, *args: Any, **kwargs: Any) -> Tensor:
    low = maps[0].dtype == torch.bfloat16
    maps = [(m.float() if low else m).contiguous() for m in maps]
    return forward(maps, *args, **kwargs)


def network_parts(
    model: nn.Module, skipped: tuple[nn.Module | None, ...] = (), prefix: str = ''
) -> Iterator[tuple[str, nn.Module]]:
    """Yield the names and modules that compute maps; containers of heads are opened."""
    for name, part in model.named_children():
        is_idle = next(part.parameters(), None) is None or name == 'auxiliary_head'
        if is_idle or any(part is other for other in skipped):
            continue
        if isinstance(part, nn.ModuleList) or 'BaseRoIHead' in _bases(part):
            yield from network_parts(part, prefix=f'{prefix}{name}.')
        else:
            yield f'{prefix}{name}', part


def _is_safe(head: nn.Module) -> bool:
    bases = _bases(head)
    is_known = not bases.isdisjoint(HEADS) and bases.isdisjoint(OTHERS)
    return is_known and _has_plain_layers(head)


def _has_plain_layers(part: nn.Module) -> bool:
    return all(
        not type(layer).__module__.startswith('mmcv.ops')
        and (type(layer).__name__ in PLAIN or not layer._parameters)
        for layer in part.modules()
    )


def _bases(part: nn.Module) -> set[str]:
    """Return the names of a module's class and its bases; mmdet is not imported."""
    return {kind.__name__ for kind in type(part).__mro__}


def _optimize(
    part: nn.Module,
    dtype: torch.dtype,
    given: torch.dtype = torch.float32,
    plain: bool = False,
) -> None:
    """Lay out a part's layers, and make it compute in a type and give out another."""
    part.to(memory_format=torch.channels_last)
    taken = None if dtype == torch.float32 else dtype
    for layer in part.modules():
        if taken and type(layer).__name__ in LAYERS:
            layer.to(taken)
    if taken or plain:  # not by hooks: mmseg calls `forward` itself
        cast_in = partial(cast, dtype=taken)
        cast_out = partial(cast, dtype=taken and given, plain=plain)
        part.forward = partial(_run_cast, part.forward, cast_in, cast_out)


def _run_cast(
    forward: Callable, cast_in: Callable, cast_out: Callable, *args: Any, **kwargs: Any
) -> Any:
    return cast_out(forward(*cast_in(args), **cast_in(kwargs)))


def cast(value: Any, dtype: torch.dtype | None, plain: bool = False) -> Any:
    """Bring the floating point tensors in nested containers to a type and layout."""
    if isinstance(value, Tensor):
        value = value.to(dtype) if dtype and value.is_floating_point() else value
        return value.contiguous() if plain else value
    if isinstance(value, dict):
        return {key: cast(part, dtype, plain) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(cast(part, dtype, plain) for part in value)
    return value
