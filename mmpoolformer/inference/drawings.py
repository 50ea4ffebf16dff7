"""Pictures of what models see."""

from collections.abc import Sequence

import numpy as np
from numpy import ndarray

from mmpoolformer.inference.predictor import Predictor
from mmpoolformer.utils.results import Classes, Detections, Result
from mmpoolformer.visual.drawing import (
    caption,
    draw_detections,
    draw_legend,
    draw_segmentation,
    enlarge,
)


def draw_result(
    predictor: Predictor,
    result: Result,
    score_thr: float = 0.3,
    topk: int = 5,
    scale: int = 1,
) -> ndarray:
    """Draw what a model sees in a picture.

    Args:
        predictor: Where the result is from.
        result: The result, of a picture that could be read.
        score_thr: Score threshold of boxes.
        topk: Most classes below the picture, for classifiers.
        scale: Times that the picture is enlarged, for letters that can be read.

    Returns:
        RGB, uint8 (H, W, 3): the picture with boxes, masks or the classes' colours; or
        above a line for each of the likeliest classes.
    """
    found, picture = result.found, result.picture
    if isinstance(found, Detections):
        # The surest ones last, on top of the others.
        shown = found.above(score_thr)
        shown = shown.ordered(np.argsort(shown.scores, kind='stable'))
        return draw_detections(picture, shown, predictor.classes, scale)
    picture = enlarge(picture, scale)
    if isinstance(found, Classes):
        for line in _top_lines(found, predictor.classes, topk):
            picture = caption(picture, line)
        return picture
    labels = enlarge(found.labels, scale)
    return draw_segmentation(picture, labels, predictor.colours)


def region_legend(predictor: Predictor, result: Result) -> ndarray:
    """Return a legend of the classes in a segmented picture, as wide as it."""
    present = np.unique(result.found.labels).tolist()
    legend = {predictor.classes[i]: predictor.colours[i] for i in present}
    return draw_legend(legend, result.picture.shape[1])


def _top_lines(found: Classes, classes: Sequence[str], topk: int) -> list[str]:
    pairs = zip(found.labels[:topk], found.scores[:topk], strict=True)
    return [f'{100 * score:5.1f} %  {classes[label]}' for label, score in pairs]
