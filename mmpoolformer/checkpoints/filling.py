"""Filling the whole model of a config: a detector, a segmentor, a classifier."""

import re
from collections.abc import Mapping, Sequence

from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn

from mmpoolformer.checkpoints.errors import entry_cure
from mmpoolformer.checkpoints.keymaps import native_keys, with_dot
from mmpoolformer.checkpoints.loading import LoadReport, reshaped_tensors, unwrap
from mmpoolformer.utils.errors import UserError, one_line
from mmpoolformer.utils.logs import warn
from mmpoolformer.utils.paths import split_entry
from mmpoolformer.utils.text import first_few

BACKBONE = 'backbone.'
COUNTS = 'num_batches_tracked'  # of BatchNorm, which files may lack
# What torch says of a tensor: its name, the shape in the file and in the model.
SHAPES = re.compile(r'size mismatch for (\S+): .*?Size\((.*?)\).*?Size\((.*?)\)')


def is_wrapper(model: nn.Module) -> bool:
    """Tell whether a model wraps another (distributed, test-time augmentation)."""
    return is_model_wrapper(model) or isinstance(model, BaseTTAModel)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside wrappers."""
    while is_wrapper(model):
        model = model.module
    return model


def fill_model(model: nn.Module, checkpoint: dict, filename: str) -> LoadReport:
    """Load a checkpoint that must hold all tensors of a model.

    Args:
        model: The model, perhaps wrapped.
        checkpoint: What the file holds: the state dict, or a dict with it inside.
        filename: Its name, for messages. Unexpected tensors are logged.

    Returns:
        What was loaded, and what was left.

    Raises:
        UserError: If a tensor is missing or differs in shape.
    """
    model = unwrapped(model)
    entry, weights = model_weights(checkpoint, filename)
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        shapes = [
            f'{name} {ours}, not {own}'
            for name, ours, own in SHAPES.findall(str(error))
        ]
        listed = first_few(shapes, between='; ')
        text = f'tensors of another shape: {listed}' if shapes else one_line(error)
        raise UserError(f'{filename}: {text}') from error
    missing = [key for key in missing if not key.endswith(COUNTS)]
    if missing:
        own = model.state_dict()
        raise UserError(
            f"{filename}: lacks {len(missing)} of the model's {len(own)} tensors: "
            f'{first_few(missing)}; '
            f'{place_cure(own, weights) or "is it a checkpoint of this config?"}'
        )
    if unexpected:
        warn(
            f'{filename}: {len(unexpected)} tensors that the model has no place for: '
            f'{first_few(unexpected)}'
        )
    return _model_report(model, weights, filename, entry, missing, unexpected, {})


def fill_partly(model: nn.Module, checkpoint: dict, filename: str) -> LoadReport:
    """Load what fits of a checkpoint for a model like this one; see `fill_model`.

    Returns:
        What was loaded, is new (also for its shape), and was left.

    Raises:
        UserError: If nothing fits, or nothing of the model's backbone.
    """
    model = unwrapped(model)
    entry, weights = model_weights(checkpoint, filename)
    weights = dict(weights)
    for name, part in model.named_modules():
        # Backbones rename what they load, too late here: a name may be that of another
        # tensor, such as norm2 of the authors' files.
        if hasattr(part, 'stem_names'):
            native_keys(weights, with_dot(name))
    own = model.state_dict()
    reshaped = reshaped_tensors(own, weights)
    chosen = {key: weights[key] for key in weights if key not in reshaped}
    missing, unexpected = model.load_state_dict(chosen, strict=False)
    missing = [key for key in missing if key not in reshaped]
    report = _model_report(
        model, weights, filename, entry, missing, unexpected, reshaped
    )
    loaded = [key for key in report.loaded if not key.endswith(COUNTS)]
    if not loaded:
        cure = place_cure(own, weights) or _part_cure(filename)
        raise UserError(f'{filename}: no tensor fits the model: {report}. {cure}')
    has_backbone = any(key.startswith(BACKBONE) for key in own)
    if has_backbone and not any(key.startswith(BACKBONE) for key in loaded):
        raise UserError(
            f"{filename}: no tensor fits the model's backbone: {report}. "
            f'{_part_cure(filename)}'
        )
    return report


def place_cure(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    """Say how to get at a whole model that weights hold under a prefix.

    The text is empty if no prefix has all of the model's tensors.
    """
    needed = [key for key in own if not key.endswith(COUNTS)]
    starts = [
        key.removesuffix(needed[0]) for key in weights if key.endswith(f'.{needed[0]}')
    ]
    whole = [s for s in starts if all(f'{s}{key}' in weights for key in needed)]
    if not whole:
        return ''
    listed = first_few(map(repr, whole))
    return f'it is under {listed}: {entry_cure(whole[-1].rstrip("."))}'


def _part_cure(filename: str) -> str:
    return (
        'Weights of a backbone alone go into model.backbone.init_cfg: --cfg-options '
        "model.backbone.init_cfg=\"{'type': 'Pretrained', 'checkpoint': "
        f"'{filename}'}}\"; for no weights leave out load_from"
    )


def model_weights(checkpoint: dict, filename: str) -> tuple[str, dict[str, Tensor]]:
    """Find the weights of a whole model, without `module.` of a distributed one.

    Returns:
        The entry's name, empty if there is none, and the weights.
    """
    entry, weights = 'state_dict', checkpoint.get('state_dict')
    if not weights:
        entry, weights = unwrap(checkpoint, filename)
    if all(key.startswith('module.') for key in weights):
        weights = {key.removeprefix('module.'): weights[key] for key in weights}
    return entry, weights


def _model_report(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    filename: str,
    entry: str,
    missing: Sequence[str],
    unexpected: Sequence[str],
    reshaped: Mapping[str, str],
) -> LoadReport:
    kept = {*missing, *reshaped}
    # Torch fills in the counts of batches that a file lacks.
    own = [k for k in model.state_dict() if k in weights or not k.endswith(COUNTS)]
    return LoadReport(
        source=filename,
        format='OpenMMLab',
        wrapper=split_entry(filename)[1] or entry,
        prefix='',
        loaded=tuple(key for key in own if key not in kept),
        new=tuple(missing),
        left=tuple(unexpected),
        reshaped=tuple(reshaped.values()),
    )
