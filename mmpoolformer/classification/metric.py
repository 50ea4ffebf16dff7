"""Top-k accuracy."""

from collections.abc import Sequence

from mmengine.evaluator import BaseMetric

from mmpoolformer.classification.dataset import NO_CLASS
from mmpoolformer.registry import METRICS


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
        """Find the rank of the true class of each picture, 0 for the highest score."""
        for sample in data_samples:
            scores, label = sample['pred_scores'], sample['gt_label']
            order = scores.argsort(descending=True, stable=True)
            rank = None if label == NO_CLASS else (order == label).nonzero().item()
            # Kept without a class too: processes' results are merged by their place.
            self.results.append(rank)

    def compute_metrics(self, results: list[int | None]) -> dict[str, float]:
        """Average over the pictures with a class."""
        results = [rank for rank in results if rank is not None]
        if not results:
            raise ValueError('no picture has a class, so there is no accuracy')
        return {
            f'top{k}': 100 * sum(rank < k for rank in results) / len(results)
            for k in self.topk
        }
