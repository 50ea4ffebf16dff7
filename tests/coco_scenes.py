"""Objects and detections, as pycocotools evaluates them."""

import contextlib
import io
from collections.abc import Sequence

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SIDE = 200


def evaluate(
    objects: Sequence[tuple], detections: Sequence[tuple], classes: Sequence[str]
) -> COCOeval:
    """Evaluate boxes.

    Args:
        objects: (picture, class number, (left, top, width, height)).
        detections: The same, with a score.
        classes: Names.
    """
    pictures = sorted({one[0] for one in (*objects, *detections)})
    truth = COCO()
    truth.dataset = dict(
        images=[dict(id=i, width=SIDE, height=SIDE) for i in pictures],
        categories=[dict(id=10 * k, name=name) for k, name in enumerate(classes, 1)],
        annotations=[
            dict(
                id=number,
                image_id=image,
                category_id=10 * (label + 1),
                bbox=list(box),
                area=box[2] * box[3],
                iscrowd=0,
            )
            for number, (image, label, box) in enumerate(objects, 1)
        ],
    )
    found = [
        dict(image_id=i, category_id=10 * (k + 1), bbox=list(box), score=score)
        for i, k, box, score in detections
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found), 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def shaken(seed: int, classes: int = 4, pictures: int = 30) -> tuple[list, list]:
    """Draw objects and detections of all kinds of errors."""
    rng = np.random.default_rng(seed)
    objects, detections = [], []
    for image in range(pictures):
        for _ in range(rng.integers(0, 6)):
            box = np.array([*rng.uniform(0, 140, 2), *rng.uniform(20, 60, 2)])
            objects.append((image, int(rng.integers(classes)), tuple(box)))
            for _ in range(rng.integers(0, 4)):
                near = box + rng.normal(0, rng.choice([2, 10, 25]), 4)
                near[2:] = near[2:].clip(min=5)
                is_right = rng.random() < 0.7
                label = objects[-1][1] if is_right else int(rng.integers(classes))
                score = round(float(rng.uniform()), 2)  # some are equal
                detections.append((image, label, tuple(near), score))
        for _ in range(rng.integers(0, 3)):
            box = (*rng.uniform(0, 140, 2), *rng.uniform(20, 60, 2))
            detections.append((image, int(rng.integers(classes)), box, rng.uniform()))
    return objects, detections
