"""Errors of a detector by kind, and what each kind costs.

The definitions are those of TIDE (Bolya et al., ECCV 2020, arXiv 2008.08115), with an
IoU of 0.5 for the foreground and 0.1 for the background. Detections within crowds are
no errors here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from mmpoolformer.analysis.report.matching import LEAST_OVERLAP, Scene
from mmpoolformer.analysis.report.measures import average_precision

BACKGROUND = 0.1
KINDS = {
    'class': 'well placed, of another class',
    'localisation': 'of the right class, badly placed (IoU 0.1 to 0.5)',
    'both': 'badly placed and of another class',
    'duplicate': 'a better one has found the object already',
    'background': 'nothing is there (IoU at most 0.1)',
    'missed': 'an object without detection, right or nearly so',
}
NONE, CLASS, PLACE, BOTH, DUPLICATE, NOTHING = range(-1, 5)


@dataclass(frozen=True)
class Judged:
    """Detections of all pictures with the kind of their error.

    Attributes:
        labels: Class numbers, (N,).
        scores: (N,).
        hits: Which have found an object, (N,).
        kinds: Place of the error's kind in `KINDS`, -1 for none, (N,).
        fixed: Class number of the object that each would find without its error; -1
            where that is none, or another detection would, (N,).
        objects: How many objects each class has, (K,).
        missed: How many of them count as missed, (K,).
    """

    labels: ndarray
    scores: ndarray
    hits: ndarray
    kinds: ndarray
    fixed: ndarray
    objects: ndarray
    missed: ndarray


def judge(scenes: Sequence[Scene], classes: int) -> Judged:
    """Find the kinds of errors in all pictures."""
    kinds, fixed, missed = [], [], []
    for scene in scenes:
        kind, target = _kinds_of(scene)
        used = scene.used()
        can_be_fixed = np.isin(kind, (CLASS, PLACE)) & ~np.append(used, True)[target]
        # The surest one of an object finds it, the others are dropped.
        targets, first = np.unique(target[can_be_fixed], return_index=True)
        label = np.full(len(kind), -1)
        label[np.flatnonzero(can_be_fixed)[first]] = scene.objects[targets]
        lost = ~used
        lost[targets] = False
        kinds.append(kind)
        fixed.append(label)
        missed.append(scene.objects[lost])
    return Judged(
        labels=_joined([scene.labels for scene in scenes]),
        scores=_joined([scene.scores for scene in scenes], float),
        hits=_joined([scene.hits for scene in scenes], bool),
        kinds=_joined(kinds),
        fixed=_joined(fixed),
        objects=np.bincount(
            _joined([scene.objects for scene in scenes]), minlength=classes
        ),
        missed=np.bincount(_joined(missed), minlength=classes),
    )


def _joined(parts: Sequence[ndarray], kind: type = int) -> ndarray:
    return np.concatenate([np.zeros(0, kind), *parts])


def _kinds_of(scene: Scene) -> tuple[ndarray, ndarray]:
    """Return of each detection its kind of error and the object meant, -1 for none."""
    kinds, targets = np.full((2, len(scene.labels)), -1)
    is_same = scene.labels[:, None] == scene.objects[None]
    used = scene.used()
    for i in np.flatnonzero(~scene.hits):
        if not len(scene.objects):
            kinds[i] = NOTHING
            continue
        overlaps = scene.overlaps[i]
        same, other = overlaps * is_same[i], overlaps * ~is_same[i]
        if BACKGROUND <= same.max() <= LEAST_OVERLAP:
            kinds[i], targets[i] = PLACE, same.argmax()
        elif other.max() >= LEAST_OVERLAP:
            kinds[i], targets[i] = CLASS, other.argmax()
        elif (same * used).max() >= LEAST_OVERLAP:
            kinds[i] = DUPLICATE
        else:
            kinds[i] = NOTHING if overlaps.max() <= BACKGROUND else BOTH
    return kinds, targets


def mean_precision(judged: Judged, without: int = NONE) -> float:
    """Return the mean over classes of AP at an IoU of 0.5.

    Args:
        judged: The detections.
        without: Place in `KINDS` of errors that are fixed, or -1.
    """
    affected = (judged.kinds == without) & (without != NONE)
    is_fixed = affected & (judged.fixed >= 0)
    kept = ~affected | is_fixed
    labels = np.where(is_fixed, judged.fixed, judged.labels)[kept]
    hits, scores = (judged.hits | is_fixed)[kept], judged.scores[kept]
    counts = judged.objects - (judged.missed if without == len(KINDS) - 1 else 0)
    known = (judged.objects > 0) & (
        (counts > 0) | (np.bincount(labels, minlength=len(counts)) > 0)
    )
    values = [
        average_precision(scores[labels == k], hits[labels == k], counts[k])
        for k in np.flatnonzero(known)
    ]
    return float(np.mean(values)) if values else float('nan')


def error_table(judged: Judged) -> list[dict]:
    """Return how often each kind occurs, and the AP50 that fixing it would gain."""
    base = mean_precision(judged)
    rows = []
    for place, (kind, meaning) in enumerate(KINDS.items()):
        is_missed = place == len(KINDS) - 1
        count = judged.missed.sum() if is_missed else (judged.kinds == place).sum()
        gain = max(mean_precision(judged, place) - base, 0.0)
        rows.append(
            {
                'error': kind,
                'count': int(count),
                'AP50 gained': round(gain, 4),
                'meaning': meaning,
            }
        )
    return rows
