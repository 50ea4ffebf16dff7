"""One size for the pictures of a config, in training, validation and test."""

from mmengine.config import Config

from mmpoolformer.data.checks.part import LOADERS
from mmpoolformer.utils.errors import UsageError
from mmpoolformer.utils.logs import warn
from mmpoolformer.utils.nested import dicts_in
from mmpoolformer.utils.text import type_name

Size = tuple[int, int]
# Settings of steps that are (width, height), or several of them; crops are
# (height, width).
SCALES = {
    'Resize': 'scale',
    'RandomResize': 'scale',
    'RandomChoiceResize': 'scales',
    'Pad': 'size',
    'Mosaic': 'img_scale',
    'MixUp': 'img_scale',
}


def use_size(config: Config, size: Size) -> None:
    """Set the size of pictures, (height, width), everywhere in a config.

    The size that the config has now is mmseg's training crop, else mmseg's
    `data_preprocessor.size`, else what the test resizes to; what is larger or smaller
    now, such as one of several random scales, stays so in proportion.

    Raises:
        UsageError: If it has no size that is known.
    """
    parts = [config.get(key) for key in (*LOADERS, 'tta_pipeline')]
    # By identity, because loaders may share them.
    steps = [*{id(node): node for _, node in dicts_in(parts)}.values()]
    timms = [s for s in steps if type_name(s.get('type')).startswith('Timm')]
    timms = [step for step in timms if step.get('transform') is not None]
    for step in timms:
        step['transform']['input_size'] = (3, *size)
    now = _current(config)
    if now:
        _change(config, steps, now, size)
    elif not timms:
        raise UsageError(
            '--size: no step of the data pipelines is known to set the size; change '
            'it by --cfg-options'
        )


def _change(config: Config, steps: list[dict], now: Size, size: Size) -> None:
    """Set what mmdet and mmseg have for sizes."""

    def changed(value: object, flipped: bool = False) -> object:
        if isinstance(value, float):  # a share of the picture
            return value
        if isinstance(value, list | tuple) and not isinstance(value[0], int):
            return [changed(one, flipped) for one in value]
        order = -1 if flipped else 1
        return _scaled(_pair(value)[::order], now, size)[::order]

    for step in steps:
        name = type_name(step.get('type'))
        key = SCALES.get(name)
        if key and step.get(key) is not None:
            step[key] = changed(step[key], flipped=True)
        if name == 'RandomCrop':
            step['crop_size'] = changed(step['crop_size'])
    for part in _sized_parts(config):
        part['size'] = changed(part['size'])
    test = config.model.get('test_cfg') or {}
    for key in ('crop_size', 'stride'):  # of sliding windows
        if test.get(key):
            test[key] = changed(test[key])


def warn_of_padding(config: Config) -> None:
    """Warn of training crops that are padded, to a larger `data_preprocessor.size`."""
    crop = _crop(config)
    for part in _sized_parts(config)[:1] if crop else ():
        full = _pair(part['size'])
        if full[0] > crop[0] or full[1] > crop[1]:
            warn(
                f'training crops of {crop[0]}x{crop[1]} are padded to '
                f'{full[0]}x{full[1]}, model.data_preprocessor.size: set both by '
                f'--size {crop[0]} {crop[1]}'
            )


def tested_scale(config: Config) -> Size | None:
    """Return what the test resizes pictures to, width and height, if anything."""
    steps = dicts_in([config.get(key) for key in LOADERS[:0:-1]])
    scales = (s.get('scale') for _, s in steps if type_name(s.get('type')) == 'Resize')
    return next((_pair(scale) for scale in scales if scale), None)


def _sized_parts(config: Config) -> list[dict]:
    """Return what sets the size that mmseg pads to, the model's first."""
    parts = (config.model.get('data_preprocessor'), config.get('data_preprocessor'))
    return [part for part in parts if part and part.get('size')]


def _crop(config: Config) -> Size | None:
    """Return the training crop of mmseg, height and width."""
    if not _sized_parts(config):
        return None
    for _, step in dicts_in(config.get('train_dataloader')):
        if type_name(step.get('type')) == 'RandomCrop':
            return _pair(step['crop_size'])
    return None


def _current(config: Config) -> Size | None:
    """Return height and width of the pictures now."""
    padded = [_pair(part['size']) for part in _sized_parts(config)]
    scale = tested_scale(config)
    return _crop(config) or next(iter(padded), None) or (scale and scale[::-1])


def _pair(value: object) -> Size:
    return (value, value) if isinstance(value, int) else tuple(value)


def _scaled(pair: Size, now: Size, size: Size) -> Size:
    """Return what a pair becomes where `now` becomes `size`."""
    if pair == now:
        return size
    short, long = min(size) / min(now), max(size) / max(now)
    is_tall = pair[0] > pair[1]
    ratios = (long, short) if is_tall else (short, long)
    return tuple(round(side * ratio) for side, ratio in zip(pair, ratios, strict=True))
