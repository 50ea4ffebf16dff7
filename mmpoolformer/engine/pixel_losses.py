"""Losses of mmseg's segmentors on CPUs, with the classes of a pixel side by side.

mmseg resizes the logits of all classes to the labels' size. Laid out class after class,
the softmax over them jumps through the memory for each pixel; laid out pixel after
pixel it takes less than 60 % of the time: 6 to 10 % of a training step of Semantic FPN
with PoolFormer-S12 in float32, 17 to 22 % in bfloat16.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mmpoolformer.models.label_maps import inherits

METHOD = {'BaseDecodeHead': ('loss_by_feat',)}


def lay_out_losses(model: nn.Module) -> None:
    """Let the heads of a segmentor compute their losses pixel by pixel, in place.

    The losses are the same up to rounding.

    Args:
        model: A model that is trained on a CPU. Heads that are none of mmseg's or have
            a `loss_by_feat` of their own stay as they are, as do losses other than
            cross entropy.
    """
    for head in model.modules():
        if not inherits(head, METHOD):
            continue
        head.loss_by_feat = partial(_loss_by_feat, head)
        for loss in head.loss_decode.modules():
            criterion = getattr(loss, 'cls_criterion', None)
            if getattr(criterion, '__name__', '') == 'cross_entropy':
                loss.cls_criterion = partial(_by_rows, criterion)


def _loss_by_feat(head: nn.Module, logits: Tensor, samples: list) -> dict[str, Tensor]:
    logits = logits.contiguous(memory_format=torch.channels_last)
    return type(head).loss_by_feat(head, logits, samples)


def _by_rows(
    criterion: Any, logits: Tensor, labels: Tensor, weight: Any = None, **options: Any
) -> Tensor:
    """Return mmseg's cross entropy, which takes rows of logits, too."""
    # Weights of classes it picks by a loop over the labels in some versions, and
    # without a reduction the result is a map.
    has_maps = logits.ndim == 4 and options.get('reduction') != 'none'
    if has_maps and options.get('class_weight') is None:
        logits = logits.permute(0, 2, 3, 1).flatten(0, 2)  # (B, K, H, W) -> (N, K)
        labels = labels.flatten()
        weight = weight if weight is None else weight.flatten()
    return criterion(logits, labels, weight, **options)
