"""What the pipelines of mmdet and mmseg make of a picture's size."""

from collections.abc import Mapping, Sequence

from mmpoolformer.utils.text import type_name

# A size that a picture is fitted into, or a factor.
Scale = tuple[int, int] | float

# Steps that leave a picture's size as it is.
KEEPING = ('MapLabels', 'RandomFlip', 'PhotoMetricDistortion')
RESIZING = ('Resize', 'RandomResize', 'RandomChoiceResize')


def smallest_scales(steps: Sequence[Mapping]) -> list[Scale]:
    """Return what a pipeline's first resizing may scale to, where it keeps the ratio.

    Args:
        steps: The pipeline's settings.

    Returns:
        The smallest of random scales; none if the ratio is not kept, or if a transform
        comes before it whose effect on the size is not known.
    """
    for step in steps:
        name = type_name(step.get('type'))
        if name == 'RandomChoice':
            branches = step.get('transforms') or ()
            return [scale for branch in branches for scale in smallest_scales(branch)]
        if name in RESIZING:
            return _scales_of(step, name) if step.get('keep_ratio') else []
        if not name.startswith('Load') and name not in KEEPING:
            return []
    return []


def vanishes(size: tuple[int, int], scale: Scale) -> bool:
    """Tell whether a side comes to no pixel at all.

    Args:
        size: Width and height of the picture.
        scale: What it is scaled to.
    """
    long, short = max(size), min(size)
    if isinstance(scale, tuple):
        scale = min(max(scale) / long, min(scale) / short)
    return int(short * scale + 0.5) < 1


def _scales_of(step: Mapping, name: str) -> list[Scale]:
    if name == 'RandomChoiceResize':
        return [_pair(scale) for scale in step.get('scales') or ()]
    scale, factor = step.get('scale'), step.get('scale_factor')
    if scale is None:
        factors = factor if isinstance(factor, (list, tuple)) else [factor]
        return [float(min(factors))] if factor else []
    if name == 'RandomResize' and isinstance(scale[0], (list, tuple)):
        return [tuple(map(min, zip(*scale, strict=True)))]
    least = min(step.get('ratio_range') or (1,)) if name == 'RandomResize' else 1
    return [tuple(int(side * least) for side in _pair(scale))]


def _pair(scale: int | Sequence[int]) -> tuple[int, int]:
    return (scale, scale) if isinstance(scale, int) else tuple(scale)
