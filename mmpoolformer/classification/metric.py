"""Top-k accuracy."""

from collections.abc import Sequence

import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor

from mmpoolformer.data.classification import NO_CLASS
from mmpoolformer.registry import METRICS
from mmpoolformer.utils.errors import UserError


@METRICS.register_module()
class Accuracy(BaseMetric):
    """Share of pictures, in percent, whose class is among the k highest scores.

    Results are `accuracy/top1`, `accuracy/top5` and so on, as in mmpretrain. Pictures
    without a class (skipped ones) are left out. With fewer than k classes every picture
    counts as right.

    Args:
        topk: The numbers k, from 1.
        collect_device: As in mmengine's metrics.
        prefix: Put before the names of the results in place of `accuracy`.

    Raises:
        ValueError: If `topk` is empty or has a number below 1.
    """

    default_prefix = 'accuracy'

    def __init__(
        self,
        topk: Sequence[int] = (1, 5),
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix)
        self.topk = tuple(topk)
        if not self.topk or min(self.topk) < 1:
            raise ValueError(f'topk={topk!r}: give numbers from 1, such as (1, 5)')

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep label and rank of each picture's true class, 0 for the highest score."""
        scores = torch.stack([sample['pred_scores'] for sample in data_samples])
        labels = torch.tensor([sample['gt_label'] for sample in data_samples])
        ranks = class_ranks(scores, labels)
        # Kept without a class too: processes' results are merged by their place.
        self.results.extend(zip(labels.tolist(), ranks, strict=True))

    def compute_metrics(self, results: list[tuple]) -> dict[str, float]:
        """Average over the pictures with a class."""
        return topk_accuracy([rank for _, rank in results], self.topk)


def class_ranks(scores: Tensor, labels: Tensor) -> list[int | None]:
    """Return the rank of each picture's true class, 0 for the highest score.

    Args:
        scores: Scores (B, classes); of equal ones the first class counts as higher.
        labels: True classes (B).

    Returns:
        A rank for each picture; None where the label is `NO_CLASS`.

    Raises:
        ValueError: If there is no score for a label.
        UserError: If scores are no numbers.
    """
    if scores.isnan().any():  # would count as a hit of the first class
        raise UserError('scores are not finite; are these weights of this model?')
    if len(labels) and labels.max() >= scores.shape[1]:
        raise ValueError(
            f'a picture of class {labels.max()} (counted from 0), but only '
            f'{scores.shape[1]} scores'
        )
    order = scores.argsort(dim=1, descending=True, stable=True)
    places = order.argsort(dim=1)  # where in the order each class stands
    labels = labels.to(scores.device)
    ranks = places.gather(1, labels.clamp(min=0)[:, None])[:, 0].tolist()
    return [
        None if label == NO_CLASS else rank
        for label, rank in zip(labels.tolist(), ranks, strict=True)
    ]


def topk_accuracy(ranks: Sequence[int | None], topk: Sequence[int]) -> dict[str, float]:
    """Return the share of ranks below each k, in percent, as `top1` and so on.

    Args:
        ranks: See `class_ranks`; those that are None don't count.
        topk: The numbers k.

    Raises:
        ValueError: If there are no ranks.
    """
    ranks = [rank for rank in ranks if rank is not None]
    if not ranks:
        raise ValueError('no picture has a class, so there is no accuracy')
    return {f'top{k}': 100 * sum(r < k for r in ranks) / len(ranks) for k in topk}
