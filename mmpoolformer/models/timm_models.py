"""Networks of timm, built and filled with weights in timm's names."""

from collections.abc import Mapping

import timm
from torch import Tensor, nn

from mmpoolformer.checkpoints import CheckpointError, read_source, unwrap
from mmpoolformer.checkpoints.filling import place_cure
from mmpoolformer.utils.text import nearest

TIMM = 'timm/'  # what stands before timm's names
AVERAGED = 'n_averaged'  # how many weights torch's AveragedModel has averaged


def build_timm(
    name: str,
    num_classes: int = 1000,
    checkpoint: str | None = None,
    pretrained: bool = False,
    options: dict | None = None,
) -> nn.Module:
    """Build a model of timm, see `TimmClassifier`.

    Raises:
        ValueError: If timm has no such model, the weights don't fit, or an option
            would let timm read a file by itself.
    """
    if 'checkpoint_path' in (options or {}):
        raise ValueError(
            f'checkpoint_path={options["checkpoint_path"]!r}: give the weights as '
            'checkpoint, which reads them without running what is in them'
        )
    if not timm.is_model(name.split('.')[0]):
        near = nearest(name, timm.list_models())
        raise ValueError(f'name={name!r}: timm has no such model; did you mean {near}?')
    model = timm.create_model(
        name, pretrained=pretrained, num_classes=num_classes, **options or {}
    )
    # Else mmengine, before a training, would call the `init_weights` that some have,
    # such as ResNet, ViT and Swin, and their weights would be random again.
    model.is_init = True
    if checkpoint is not None:
        load_timm(model, read_source(checkpoint), checkpoint)
    return model


def load_timm(model: nn.Module, content: Mapping, name: str) -> None:
    """Load weights with timm's names into a model of timm, strictly.

    Args:
        model: The model.
        content: What a file holds; a checkpoint of `TimmClassifier` will do.
        name: How messages call it.

    Raises:
        CheckpointError: If the weights don't fit.
    """
    weights = without_wrappers(unwrap(content, str(name))[1])
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        cure = place_cure(model.state_dict(), weights)
        reason = cure or ' '.join(str(error).split())[:300]
        raise CheckpointError(f'{name}: {reason}') from error


def without_wrappers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights without what wrappers around a timm model put before all names.

    Such as `module.` of DDP, `model.` of Lightning, `timm_model.` of transformers and
    `backbone.` of `TimmClassifier`: parts of a model itself have different names.
    """
    weights = {key: value for key, value in weights.items() if key != AVERAGED}
    first = next(iter(weights), '').partition('.')
    start = ''.join(first[:2])
    if not first[2] or not all(key.startswith(start) for key in weights):
        return weights
    return without_wrappers({k.removeprefix(start): weights[k] for k in weights})
