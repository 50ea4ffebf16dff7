"""How pictures are prepared for evaluation: size, crop and normalisation by model."""

import ast
from collections.abc import Mapping, Sequence

from timm.data import (
    DEFAULT_CROP_PCT,
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    resolve_data_config,
)
from timm.models import get_pretrained_cfg

from mmpoolformer.checkpoints import ZOO
from mmpoolformer.models.timm_models import TIMM

LARGEST = 4096  # side of pictures for a network, in pixels
INTERPOLATIONS = ['nearest', 'bilinear', 'bicubic', 'box', 'hamming', 'lanczos']
FROM_ZOO = ('input_size', 'mean', 'std', 'crop_pct', 'interpolation')


def evaluation_settings(name: str) -> dict:
    """Return how pictures are prepared for a published model.

    Args:
        name: A name of `mmpoolformer.list_models()`, or `timm/NAME` with one of timm's.

    Returns:
        Options of `timm.data.create_transform`: `input_size` (C, H, W), `mean`, `std`,
        `crop_pct`, `interpolation`. For timm's models the size is that of training;
        some are published with a larger one too.
    """
    if name.startswith(TIMM):
        published = get_pretrained_cfg(name.removeprefix(TIMM)).to_dict()
        return resolve_data_config(pretrained_cfg=published)
    return {key: getattr(ZOO[name], key) for key in FROM_ZOO}


def recorded_settings(meta: Mapping) -> dict | None:
    """Return how pictures were prepared for the evaluations of a training.

    Args:
        meta: The entry of that name in a checkpoint of tools/train.py. Its config is
            read as text; nothing in it is run.

    Returns:
        Options of `timm.data.create_transform`, or None where no such config is.
    """
    statements = _statements(meta.get('cfg'))
    for name in ('test_dataloader', 'val_dataloader'):
        transform = _entry(_entry(statements.get(name), 'dataset'), 'transform')
        if transform is not None:
            return ast.literal_eval(_Dicts().visit(transform))
    return None


def stated_settings(meta: Mapping) -> dict:
    """Return how the folder of a checkpoint says that pictures are prepared.

    Args:
        meta: The entry of that name, see `read_checkpoint`.

    Returns:
        Some options of `timm.data.create_transform`; what is no value of an option is
        left out.
    """
    stated = meta.get('preparation')
    stated = stated if isinstance(stated, Mapping) else {}
    return {
        key: tuple(stated[key]) if isinstance(stated[key], list) else stated[key]
        for key, fits in FITTING.items()
        if key in stated and fits(stated[key])
    }


def _are_three(value: object, least: float, most: float, *kinds: type) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(type(x) in kinds and least <= x <= most for x in value)
    )


FITTING = {
    'input_size': lambda value: _are_three(value, 1, LARGEST, int),
    'mean': lambda value: _are_three(value, 0, 1, int, float),
    'std': lambda value: _are_three(value, 1e-9, 1, int, float),
    'crop_pct': lambda value: isinstance(value, float | int) and 0 < value <= 1,
    'interpolation': INTERPOLATIONS.__contains__,
}


def changed_settings(
    settings: Mapping, img_size: int | None, crop_pct: float | None
) -> dict:
    """Return settings with another size or crop.

    Args:
        settings: Options of `timm.data.create_transform`.
        img_size: Height and width of the network's input, or None to leave them.
        crop_pct: Its share of the resized picture's shorter side, or None.
    """
    changed = dict(settings)
    if img_size is not None:
        changed['input_size'] = (3, img_size, img_size)
    if crop_pct is not None:
        changed['crop_pct'] = crop_pct
    return changed


def normalisation(settings: Mapping) -> tuple[Sequence[float], Sequence[float]]:
    """Return mean and standard deviation of the channels, for pixels from 0 to 1.

    Args:
        settings: Options of `timm.data.create_transform`; its own are ImageNet's.
    """
    mean = settings.get('mean', IMAGENET_DEFAULT_MEAN)
    return mean, settings.get('std', IMAGENET_DEFAULT_STD)


def picture_size(settings: Mapping) -> tuple[int, int]:
    """Return height and width of the network's input."""
    size = settings.get('input_size', 224)  # timm's default
    return (size, size) if isinstance(size, int) else tuple(size)[-2:]


def filled_settings(settings: Mapping) -> dict:
    """Return settings with what timm takes where they say nothing.

    Args:
        settings: Options of `timm.data.create_transform`.
    """
    mean, std = normalisation(settings)
    return {
        'input_size': [3, *picture_size(settings)],
        'mean': list(mean),
        'std': list(std),
        'crop_pct': settings.get('crop_pct') or DEFAULT_CROP_PCT,
        'interpolation': settings.get('interpolation', 'bilinear'),
    }


class _Dicts(ast.NodeTransformer):
    """Writes `dict(a=1)` as `{'a': 1}`, which is a literal."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.func, ast.Name) or node.func.id != 'dict' or node.args:
            return node
        keys = [ast.Constant(keyword.arg) for keyword in node.keywords]
        return ast.Dict(keys, [keyword.value for keyword in node.keywords])


def _statements(text: object) -> dict[str, ast.expr]:
    """Return what each name of a config's text is set to."""
    if not isinstance(text, str):
        return {}
    try:
        lines = ast.parse(text).body
    except SyntaxError:  # the config of another program, in a language of its own
        return {}
    return {
        line.targets[0].id: line.value
        for line in lines
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name)
    }


def _entry(node: ast.expr | None, key: str) -> ast.expr | None:
    keywords = node.keywords if isinstance(node, ast.Call) else ()
    return next((k.value for k in keywords if k.arg == key), None)
