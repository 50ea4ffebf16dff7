"""Comparison of an exported file's outputs with the model's.

Candidates and detections are sorted by score, and where two scores differ by no more
than rounding does, either order is right. So these are compared in ways that do not
depend on that order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy import ndarray
from numpy.typing import ArrayLike
from torch import Tensor

# A box whose overlap or score lies at a threshold may fall on either side.
MAY_DIFFER = 0.02
SAME = 1e-3


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        shape: Of the images, (B, C, H, W).
        what: What was compared.
        difference: The largest one, relative to the largest value of its output;
            infinite where shapes or too many boxes differ.
    """

    shape: tuple[int, ...]
    what: str
    difference: float


def compare_tensors(
    images: Tensor,
    names: Sequence[str],
    expected: Sequence[ndarray],
    given: Sequence[ndarray],
) -> Check:
    """Compare outputs number by number."""
    worst = max(
        (_relative(a, b) for a, b in zip(expected, given, strict=True)), default=np.inf
    )
    what = names[0] if len(names) == 1 else f'{names[0]} to {names[-1]}'
    return Check(tuple(images.shape), what, worst)


def compare_candidates(
    images: Tensor, block: int, expected: Sequence[ndarray], given: Sequence[ndarray]
) -> Check:
    """Compare candidates (boxes, scores, labels).

    Scores are compared place by place, boxes and labels where no neighbour has so close
    a score that the two may be swapped.

    Args:
        images: The input (B, C, H, W).
        block: Number of candidates that are sorted together.
        expected: Boxes (B, N, 4), scores (B, N) and labels (B, N) of the model.
        given: Those of the file.
    """
    shape = tuple(images.shape)
    if any(a.shape != b.shape for a, b in zip(expected, given, strict=True)):
        return Check(shape, 'candidates: other shapes', np.inf)
    expected, given = (_sorted_blocks(found, block) for found in (expected, given))
    scores = expected[1]  # (B * levels, block)
    worst = _relative(scores, given[1])
    rounding = np.abs(scores - given[1]).max() + 1e-9
    apart = -np.diff(scores, axis=1) > 2 * rounding  # (B * levels, block - 1)
    clear = np.zeros(scores.shape, bool)
    clear[:, :-1] = apart  # the last one may change places with one that was cut off
    clear[:, 1:-1] &= apart[:, :-1]
    if not (expected[2] == given[2])[clear].all():
        return Check(shape, 'candidates: other labels', np.inf)
    moved = np.abs(expected[0] - given[0])[clear] / max(shape[2:])
    what = f'candidates: {clear.sum()} boxes, {scores.size} scores'
    return Check(shape, what, max(worst, float(moved.max(initial=0))))


def compare_detections(
    images: Tensor, expected: Sequence[Sequence[ArrayLike]], given: Sequence[ndarray]
) -> Check:
    """Compare detections, which have a partner if label, score, box and mask agree.

    Args:
        images: The input (B, C, H, W).
        expected: Boxes (F, 4), scores (F), labels (F) and perhaps masks (F, h, w) of
            each image, by the model.
        given: Boxes (B, M, 4), scores (B, M), labels (B, M) and perhaps masks
            (B, M, h, w), by the file; those that are none have score 0.
    """
    size = max(images.shape[2:])
    total = alone = 0
    worst = 0.0
    for found, *other in zip(expected, *given, strict=True):
        one = [np.asarray(x) for x in found]
        other = [x[other[1] > 0] for x in other]
        total += max(len(one[1]), len(other[1]))
        distance = _distances(one, other, size)
        for axis in (0, 1) if distance.size else ():
            nearest = distance.min(axis)
            same = nearest <= SAME
            alone += (~same).sum() / 2
            worst = max(worst, float(nearest[same].max(initial=0)))
        if not distance.size:
            alone += max(distance.shape)
    if alone > MAY_DIFFER * total:
        worst = np.inf
    what = f'detections: {total}, of which {alone:.0f} differ'
    return Check(tuple(images.shape), what, worst)


def _sorted_blocks(found: Sequence[ndarray], block: int) -> list[ndarray]:
    """Return boxes (R, block, 4), scores and labels (R, block), by falling score.

    Too small boxes have got score 0, wherever they stood.
    """
    order = np.argsort(-found[1].reshape(-1, block), axis=1, kind='stable')
    rows = np.arange(len(order))[:, None]
    return [x.reshape(*order.shape, *x.shape[2:])[rows, order] for x in found]


def _distances(one: Sequence[ndarray], other: Sequence[ndarray], size: int) -> ndarray:
    """Return how far each detection of one (rows) is from each of the other."""
    moved = np.abs(one[0][:, None] - other[0][None]).max(2) / size
    scored = np.abs(one[1][:, None] - other[1][None])
    distance = np.maximum(moved, scored)
    for row, mask in enumerate(one[3] if len(one) > 3 else ()):
        differs = np.abs(mask - other[3]).max((1, 2), initial=0)
        distance[row] = np.maximum(distance[row], differs)
    distance[one[2][:, None] != other[2][None]] = np.inf
    return distance


def _relative(expected: ndarray, given: ndarray) -> float:
    if expected.shape != given.shape or not np.isfinite(given).all():
        return np.inf
    largest = np.abs(expected).max(initial=1e-12)
    return float(np.abs(expected - given).max(initial=0) / largest)
