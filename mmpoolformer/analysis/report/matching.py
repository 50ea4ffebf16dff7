"""Detections and objects of each picture, as pycocotools has matched them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy import ndarray
from pycocotools import mask as coco_masks

LEAST_OVERLAP = 0.5


@dataclass(frozen=True)
class Scene:
    """Detections and objects of one picture; crowds and what lies in them left out.

    Attributes:
        image: The picture's id.
        scores: Of detections, the highest first, (N,).
        labels: Class numbers of detections, (N,).
        matches: Which object each has found, as an index; -1 for none, (N,).
        objects: Class numbers of objects, (M,).
        overlaps: IoU of each detection with each object, whatever its class, (N, M).
        found: COCO's annotations of the detections.
        truth: COCO's annotations of the objects.
    """

    image: object
    scores: ndarray
    labels: ndarray
    matches: ndarray
    objects: ndarray
    overlaps: ndarray
    found: Sequence[dict] = ()
    truth: Sequence[dict] = ()

    @property
    def hits(self) -> ndarray:
        """Which detections have found an object, (N,)."""
        return self.matches >= 0

    def above(self, threshold: float) -> 'Scene':
        """Return it with the detections alone that score at least `threshold`."""
        n = int((self.scores >= threshold).sum())
        names = ('scores', 'labels', 'matches', 'overlaps', 'found')
        return replace(self, **{name: getattr(self, name)[:n] for name in names})

    def used(self) -> ndarray:
        """Return which objects have been found, (M,)."""
        used = np.zeros(len(self.objects), dtype=bool)
        used[self.matches[self.hits]] = True
        return used


def read_scenes(evaluation: object) -> list[Scene]:
    """Read the matches at an IoU of 0.5 of a `COCOeval` that was evaluated."""
    settings = evaluation.params
    level = int(np.abs(np.asarray(settings.iouThrs) - LEAST_OVERLAP).argmin())
    sizes, pictures = len(settings.areaRng), len(settings.imgIds)
    scenes = []
    for place, image in enumerate(settings.imgIds):
        # The first of the ranges of areas is that of all.
        parts = [
            (label, evaluation.evalImgs[label * sizes * pictures + place])
            for label in range(len(settings.catIds))
        ]
        parts = [(label, part) for label, part in parts if part]
        scenes.append(_scene(evaluation, image, parts, level))
    return scenes


def _scene(evaluation: object, image: object, parts: list, level: int) -> Scene:
    truth = [
        (label, number)
        for label, part in parts
        for number, skip in zip(part['gtIds'], part['gtIgnore'], strict=True)
        if not skip
    ]
    places = {number: place for place, (_, number) in enumerate(truth)}
    found = [
        (label, number, score, places.get(match, -1) if match else -1)
        for label, part in parts
        for number, score, match, skip in zip(
            *(part['dtIds'], part['dtScores']),
            *(part['dtMatches'][level], part['dtIgnore'][level]),
            strict=True,
        )
        if not skip
    ]
    found.sort(key=lambda one: -one[2])
    labels, numbers, scores, matches = zip(*found, strict=True) if found else [()] * 4
    seen = [evaluation.cocoDt.anns[number] for number in numbers]
    there = [evaluation.cocoGt.anns[number] for _, number in truth]
    return Scene(
        image=image,
        scores=np.array(scores, dtype=float),
        labels=np.array(labels, dtype=int),
        matches=np.array(matches, dtype=int),
        objects=np.array([label for label, _ in truth], dtype=int),
        overlaps=_overlaps(evaluation, seen, there),
        found=seen,
        truth=there,
    )


def _overlaps(evaluation: object, found: list[dict], truth: list[dict]) -> ndarray:
    if not found or not truth:
        return np.zeros((len(found), len(truth)))
    if evaluation.params.iouType == 'segm':
        sides = (
            [evaluation.cocoDt.annToRLE(one) for one in found],
            [evaluation.cocoGt.annToRLE(one) for one in truth],
        )
    else:
        sides = ([one['bbox'] for one in side] for side in (found, truth))
    return np.asarray(coco_masks.iou(*sides, [0] * len(truth)))


def confusion(scenes: Sequence[Scene], classes: int, threshold: float) -> ndarray:
    """Count which classes objects are taken for, at a score threshold.

    What pycocotools has matched is on the diagonal. Of the rest, detections and objects
    of different classes are paired by falling IoU, from 0.5.

    Returns:
        Counts (classes + 1, classes + 1), by true and found class. The last ones are
        the background: objects that were missed, and detections of nothing.
    """
    counts = np.zeros((classes + 1, classes + 1), dtype=int)
    for scene in (one.above(threshold) for one in scenes):
        used, hits = scene.used(), scene.hits
        np.add.at(counts, (scene.labels[hits], scene.labels[hits]), 1)
        free = np.array(scene.overlaps)
        free[hits] = free[:, used] = 0
        # What is left of one class are duplicates: no confusion.
        free[scene.labels[:, None] == scene.objects[None]] = 0
        lost, wrong = ~used, ~hits
        while free.size and free.max() >= LEAST_OVERLAP:
            i, j = np.unravel_index(free.argmax(), free.shape)
            counts[scene.objects[j], scene.labels[i]] += 1
            free[i], free[:, j], wrong[i], lost[j] = 0, 0, False, False
        np.add.at(counts, (scene.objects[lost], classes), 1)
        np.add.at(counts, (classes, scene.labels[wrong]), 1)
    return counts
