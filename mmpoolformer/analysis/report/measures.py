"""Figures of scores: average precision, the best threshold, calibration."""

from dataclasses import dataclass

import numpy as np
from numpy import ndarray

RECALLS = np.linspace(0, 1, 101)
BINS = 10


@dataclass(frozen=True)
class Calibration:
    """How far scores are shares of what is right.

    Attributes:
        counts: How many scores are in each of `BINS` equal parts of 0 to 1.
        scores: Their mean; NaN where there is none.
        right: The share of them that is right; NaN where there is none.
    """

    counts: ndarray
    scores: ndarray
    right: ndarray

    @property
    def error(self) -> float:
        """The expected calibration error: mean distance of both, by counts."""
        known = self.counts > 0
        gaps = np.abs(self.scores - self.right)[known]
        return float(np.average(gaps, weights=self.counts[known])) if len(gaps) else 0.0

    def rows(self) -> list[dict]:
        """Return a table of the parts that have scores."""
        return [
            {
                'score': f'{i / BINS:.1f} - {(i + 1) / BINS:.1f}',
                'count': int(self.counts[i]),
                'mean score': round(float(self.scores[i]), 4),
                'share right': round(float(self.right[i]), 4),
            }
            for i in np.flatnonzero(self.counts)
        ]


def calibrate(scores: ndarray, right: ndarray) -> Calibration:
    """Compare scores (N,) from 0 to 1 with what is right, bool (N,)."""
    bins = (np.asarray(scores) * BINS).astype(int).clip(0, BINS - 1)
    counts, sums, hits = (
        np.bincount(bins, weights=weights, minlength=BINS)
        for weights in (None, scores, right)
    )
    with np.errstate(invalid='ignore'):
        return Calibration(counts, sums / counts, hits / counts)


def average_precision(scores: ndarray, hits: ndarray, count: int) -> float:
    """Return AP as pycocotools: precision interpolated at 101 recalls.

    Args:
        scores: Of detections of one class, (N,).
        hits: Which of them have found an object, bool (N,).
        count: How many objects there are.
    """
    if not count or not len(scores):
        return 0.0
    found = np.cumsum(hits[np.argsort(-scores, kind='stable')])
    precision = found / np.arange(1, len(found) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]  # at that recall or a higher
    places = np.searchsorted(found / count, RECALLS, side='left')
    return float(np.append(best, 0.0)[places].mean())


def best_threshold(scores: ndarray, hits: ndarray, count: int) -> tuple[float, float]:
    """Return the score threshold with the highest F1, and that F1; (0, 0) for no score.

    Args:
        scores: Of detections, (N,).
        hits: Which of them have found an object, bool (N,).
        count: How many objects there are.
    """
    if not len(scores):
        return 0.0, 0.0
    order = np.argsort(-scores, kind='stable')
    found, shown = np.cumsum(hits[order]), np.arange(1, len(order) + 1)
    f1 = 2 * found / (shown + count)
    is_last = np.append(np.diff(scores[order]) != 0, True)  # of equal scores
    place = np.argmax(np.where(is_last, f1, -1))
    return float(scores[order][place]), float(f1[place])


def top_confusions(matrix: ndarray, names: list[str], most: int = 15) -> list[dict]:
    """Return the largest counts beside the diagonal of (truth, found), as a table."""
    wrong = matrix * ~np.eye(len(matrix), dtype=bool)
    places = np.argsort(-wrong, axis=None, kind='stable')[:most]
    return [
        {
            'truth': names[truth],
            'found': names[found],
            'count': int(wrong[truth, found]),
            'share of truth': f'{wrong[truth, found] / matrix[truth].sum():.1%}',
        }
        for truth, found in zip(*np.unravel_index(places, wrong.shape), strict=True)
        if wrong[truth, found]
    ]
