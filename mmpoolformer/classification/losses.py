"""timm's losses under mmengine's registry, and the one that fits the targets."""

from collections.abc import Sequence
from inspect import signature

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.loss import (
    BinaryCrossEntropy,
    LabelSmoothingCrossEntropy,
    SoftTargetCrossEntropy,
)
from torch import Tensor, nn
from torch.nn import functional as F

from mmpoolformer.models.timm_models import build_timm
from mmpoolformer.registry import MODELS

SOFT_LOSSES = (BinaryCrossEntropy, SoftTargetCrossEntropy)

KINDS = ('hard', 'soft')

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
            Losses of labels that know it take it, unless their options say it.
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
    kind = type(built)
    names = {'smoothing', 'label_smoothing'} & signature(kind).parameters.keys()
    is_named = kind is LabelSmoothingCrossEntropy and not label_smoothing
    if mixes or is_named or not names or names & set(loss):
        return built
    # timm's would smooth by a tenth of their own accord.
    return MODELS.build({**loss, names.pop(): label_smoothing})


class Distillation:
    """The teacher and its part of the loss. It is no part of the student's weights.

    Args:
        teacher: timm's name of the teacher, such as `'regnety_160'`.
        checkpoint: Its weights in timm's names (a path or URL); None downloads timm's.
        num_classes: Classes of teacher and student.
        kind: `'hard'`: cross-entropy with the teacher's class; `'soft'`: divergence
            from its distribution.
        alpha: Weight of this loss, 0 to 1; the other one gets the rest.
        tau: Temperature of soft distillation, above 0.
        mean: What the student's pictures are normalised with; a teacher that was
            trained with other values gets its own.
        std: Likewise.

    Raises:
        ValueError: If an option is out of its range or the weights don't fit.
    """

    def __init__(
        self,
        teacher: str,
        num_classes: int,
        checkpoint: str | None = None,
        kind: str = 'hard',
        alpha: float = 0.5,
        tau: float = 1.0,
        mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
        std: Sequence[float] = IMAGENET_DEFAULT_STD,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f'kind={kind!r}: choose from {", ".join(KINDS)}')
        if not 0 <= alpha <= 1 or tau <= 0:
            raise ValueError(
                f'alpha={alpha}, tau={tau}: alpha is in [0, 1], tau above 0'
            )
        self.kind, self.alpha, self.tau = kind, alpha, tau
        network = build_timm(teacher, num_classes, checkpoint, checkpoint is None)
        self.teacher = network.eval().requires_grad_(False)
        own = self.teacher.pretrained_cfg
        self.rescale = _rescaling(mean, std, own['mean'], own['std'])

    def __deepcopy__(self, memo: dict) -> 'Distillation':
        """Return itself: an average of the student needs no second teacher."""
        return self

    def __call__(self, base_loss: Tensor, logits: Tensor, images: Tensor) -> dict:
        """Weigh the two losses.

        Args:
            base_loss: The student's loss from the labels.
            logits: The student's logits (B, num_classes) that follow the teacher.
            images: Its (mixed) images (B, C, H, W).

        Returns:
            `loss_cls` and `loss_distill`, whose sum is the loss.
        """
        with torch.no_grad():
            scale, shift = (t.to(images) for t in self.rescale)
            taught = self.teacher.to(images.device)(images * scale + shift)
        distill = self.distance(logits, taught)
        return {
            'loss_cls': base_loss * (1 - self.alpha),
            'loss_distill': distill * self.alpha,
        }

    def distance(self, logits: Tensor, taught: Tensor) -> Tensor:
        """Return how far logits (B, num_classes) are from the teacher's."""
        if self.kind == 'hard':
            return F.cross_entropy(logits, taught.argmax(1))
        own = F.log_softmax(logits / self.tau, dim=1)
        wanted = F.log_softmax(taught / self.tau, dim=1)
        # Divided by all scores, not by the pictures: DeiT's scale.
        divergence = F.kl_div(own, wanted, reduction='sum', log_target=True)
        return divergence * self.tau**2 / logits.numel()


def _rescaling(
    mean: Sequence[float],
    std: Sequence[float],
    own_mean: Sequence[float],
    own_std: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """Return factor and summand (C, 1, 1) from one normalisation to another."""
    mean, std, own_mean, own_std = (
        torch.tensor(values).view(-1, 1, 1) for values in (mean, std, own_mean, own_std)
    )
    return std / own_std, (mean - own_mean) / own_std
