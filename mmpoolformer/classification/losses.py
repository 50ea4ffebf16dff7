"""timm's losses under mmengine's registry, and the one that fits the targets."""

from timm.loss import (
    BinaryCrossEntropy,
    LabelSmoothingCrossEntropy,
    SoftTargetCrossEntropy,
)
from torch import nn

from mmpoolformer.registry import MODELS

SOFT_LOSSES = (BinaryCrossEntropy, SoftTargetCrossEntropy)

for loss in (BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy):
    MODELS.register_module(module=loss)
MODELS.register_module(name='CrossEntropy', module=nn.CrossEntropyLoss)


def build_loss(loss: dict | None, label_smoothing: float, mixes: bool) -> nn.Module:
    """Build the loss that a config names, or the one that fits its targets.

    Args:
        loss: A type of the registry with its options; None chooses as timm's training
            script does: soft targets where pictures are mixed (the smoothing is then
            in the targets), else smoothed labels, else plain cross-entropy.
        label_smoothing: Share of the target given to all classes alike, in [0, 1).
        mixes: Whether pictures, and so targets, are mixed.

    Raises:
        ValueError: If the loss can't take mixed targets.
    """
    if loss is None and mixes:
        return SoftTargetCrossEntropy()
    if loss is None:
        return (
            LabelSmoothingCrossEntropy(label_smoothing)
            if label_smoothing
            else nn.CrossEntropyLoss()
        )
    built = MODELS.build(loss)
    if mixes and not isinstance(built, SOFT_LOSSES):
        raise ValueError(
            f'loss {loss["type"]}: takes no mixed targets; use '
            'mmpoolformer.SoftTargetCrossEntropy or mmpoolformer.BinaryCrossEntropy, '
            'or mixup=None'
        )
    return built
