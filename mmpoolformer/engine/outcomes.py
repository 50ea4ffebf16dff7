"""What a test leaves for a report: the outcome of each picture, in little space."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from mmengine.evaluator import BaseMetric, Evaluator

from mmpoolformer.engine.per_class import PerClass
from mmpoolformer.utils.errors import UsageError

NO_TRUTH = 65535  # in label maps: what is ignored


@dataclass(frozen=True)
class Classified:
    """A classified picture.

    Attributes:
        path: Where it is from.
        truth: Number of its class; below 0 for none, as of skipped pictures.
        found: Number of the class with the highest score.
        score: That score.
    """

    path: str
    truth: int
    found: int
    score: float


@dataclass(frozen=True)
class Segmented:
    """A segmented picture.

    Attributes:
        path: Where it is from.
        pairs: True and found class of pixels, (P, 2), each pair once.
        counts: How many pixels have each pair, (P,).
        maps: True (or `NO_TRUTH`) and found class of each pixel, as PNG files.
    """

    path: str
    pairs: np.ndarray
    counts: np.ndarray
    maps: tuple[bytes, bytes]


@dataclass(frozen=True)
class Tested:
    """What a test has measured.

    Attributes:
        scope: `mmdet`, `mmseg` or another for classifiers.
        metrics: The metrics by name.
        per_class: Figures of each class.
        outcomes: Of each picture a `Classified` or `Segmented`, or of detectors its id
            and path (`per_class.coco` has all else); none if not asked for.
        meta: What the data set tells of itself, such as its palette.
    """

    scope: str
    metrics: dict
    per_class: PerClass
    outcomes: Sequence[Classified | Segmented | tuple] = ()
    meta: dict | None = None


class KeepOutcomes(BaseMetric):
    """Keep something of each picture, over all processes; it measures nothing.

    Args:
        keep: What is kept of a data sample.
    """

    default_prefix = ''

    def __init__(self, keep: Callable[[dict], object]) -> None:
        super().__init__()
        self.keep = keep
        self.kept: list = []

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep it of the pictures of a batch."""
        self.results.extend(map(self.keep, data_samples))

    def compute_metrics(self, results: list) -> dict:
        """Take over what all processes have kept."""
        self.kept = results
        return {}


def keep_outcomes(evaluator: Evaluator, scope: str) -> KeepOutcomes:
    """Add what keeps outcomes to an evaluator.

    Raises:
        UsageError: If the evaluator has no metric that a report could explain.
    """
    needed, keep = KINDS.get(scope, ('Accuracy', _of_classifier))
    for metric in evaluator.metrics:
        kinds = {kind.__name__ for kind in type(metric).__mro__}
        if needed in kinds and 'LVISMetric' not in kinds:
            break
    else:
        there = ', '.join(type(metric).__name__ for metric in evaluator.metrics)
        raise UsageError(
            f'--report: explains what {needed} measures, test_evaluator has only '
            f'{there}'
        )
    if scope == 'mmseg':
        classes = len(metric.dataset_meta['classes'])
        keep = partial(keep, metric.ignore_index, classes)
    added = KeepOutcomes(keep)
    evaluator.metrics.append(added)
    return added


def _of_detector(sample: dict) -> tuple:
    return sample['img_id'], sample.get('img_path') or str(sample['img_id'])


def _of_classifier(sample: dict) -> Classified:
    scores = sample['pred_scores']
    found = int(scores.argmax())
    return Classified(
        sample['img_path'], sample['gt_label'], found, float(scores[found])
    )


def _of_segmentor(ignored: int, classes: int, sample: dict) -> Segmented:
    found, truth = (
        sample[name]['data'].squeeze(0).cpu().numpy().astype(np.int64)
        for name in ('pred_sem_seg', 'gt_sem_seg')
    )
    known = (truth != ignored) & (truth < classes)  # others count nowhere in mmseg
    counts = np.bincount(truth[known] * classes + found[known])
    places = np.flatnonzero(counts)
    pairs = np.stack(np.divmod(places, classes), axis=1)
    maps = _as_png(np.where(known, truth, NO_TRUTH)), _as_png(found)
    return Segmented(sample['img_path'], pairs, counts[places], maps)


def _as_png(labels: np.ndarray) -> bytes:
    """Return a label map as a PNG of 16 bits."""
    return cv2.imencode('.png', labels.astype(np.uint16))[1].tobytes()


# The metric that a report explains, and what it needs of a picture, by scope.
KINDS = {'mmdet': ('CocoMetric', _of_detector), 'mmseg': ('IoUMetric', _of_segmentor)}
