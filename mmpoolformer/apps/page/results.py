"""What the page of tools/demo.py says to a picture, without the page."""

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy import ndarray
from PIL import Image

from mmpoolformer.analysis.gradcam import UnknownLayerError, classifier_map
from mmpoolformer.inference.drawings import draw_result
from mmpoolformer.inference.predictor import Predictor
from mmpoolformer.utils.images import PictureError, open_picture
from mmpoolformer.utils.results import Classes, Detections, Result
from mmpoolformer.visual.drawing import class_colours, overlay_heat

TOPK = 5
# Drawings are shown with a longer side between these, in pixels.
SMALLEST_SHOWN, LARGEST_SHOWN = 512, 1280
# How many times longer than the other one side may be.
NARROWEST = 50


@dataclass(frozen=True)
class Place:
    """An object or region of the picture.

    Attributes:
        name: Its class.
        colour: Its colour in the drawing.
        share: The object's confidence, or the region's share of the picture, 0 to 1.
    """

    name: str
    colour: tuple[int, ...]
    share: float


@dataclass(frozen=True)
class PageResult:
    """What is to be shown for a picture.

    Attributes:
        message: One line: what was found, or what is wrong with the picture.
        is_problem: Whether it is the latter.
        drawing: What was found, drawn on the picture, or for classifiers where they
            saw it (Grad-CAM); RGB, uint8 (H, W, 3).
        shares: Probabilities of the likeliest classes, by name.
        places: Objects or regions, the surest or largest first.
    """

    message: str
    is_problem: bool = False
    drawing: ndarray | None = None
    shares: Mapping[str, float] | None = None
    places: Sequence[Place] = ()


def run_on_file(
    predictor: Predictor, path: str | os.PathLike, score_thr: float, max_pixels: int
) -> PageResult:
    """Ask a model about a picture file of anybody's.

    Large pictures are made smaller for the model, too: to what is shown.

    Args:
        predictor: The model.
        path: The file.
        score_thr: Score threshold of boxes.
        max_pixels: Larger pictures are refused before they are decoded.
    """
    name = Path(path).name
    try:
        picture = open_picture(path, name=name, max_pixels=max_pixels)
        return _run(predictor, picture, name, score_thr)
    except PictureError as error:
        return PageResult(str(error), is_problem=True)


def _run(
    predictor: Predictor, picture: Image.Image, name: str, score_thr: float
) -> PageResult:
    width, height = picture.size
    if max(width, height) > NARROWEST * min(width, height):
        return PageResult(f'{name}: {width} x {height} is too narrow', is_problem=True)
    # Segmentors hold the scores of all classes for every pixel.
    picture.thumbnail((LARGEST_SHOWN, LARGEST_SHOWN))
    start = time.perf_counter()
    result = predictor(picture)
    seconds = time.perf_counter() - start
    how = f'in a picture of {width} x {height}, {seconds:.2f} s'
    if isinstance(result.found, Classes):
        return _of_classes(predictor, result, how)
    return _of_places(predictor, result, score_thr, how)


def _of_classes(predictor: Predictor, result: Result, how: str) -> PageResult:
    best = result.found.labels[:TOPK].tolist()
    names = _distinct([predictor.classes[label] for label in best], best)
    image, seen = predictor.see(result.picture)
    message, drawing = f'{names[0]} {how}', seen
    with predictor.lock, suppress(UnknownLayerError):
        heat = classifier_map(predictor.network, image, best[0])
        message += '; evidence for it is red (Grad-CAM)'
        drawing = overlay_heat(seen, heat)
    return PageResult(
        message,
        drawing=_shown(drawing),
        shares=dict(zip(names, result.found.scores[:TOPK].tolist(), strict=True)),
    )


def _distinct(names: Sequence[str], labels: Sequence[int]) -> list[str]:
    """Return names with numbers where they are equal, as some of ImageNet's are."""
    count = Counter(names)
    pairs = zip(names, labels, strict=True)
    return [name if count[name] == 1 else f'{name} ({i})' for name, i in pairs]


def _of_places(
    predictor: Predictor, result: Result, score_thr: float, how: str
) -> PageResult:
    scale = max(1, round(SMALLEST_SHOWN / max(result.picture.shape)))
    drawing = _shown(draw_result(predictor, result, score_thr, scale=scale))
    if isinstance(result.found, Detections):
        found = result.found.above(score_thr)
        colours = class_colours(len(predictor.classes))
        places = _places(predictor.classes, colours, found.labels, found.scores)
        kinds = 'object' if len(places) == 1 else 'objects'
        text = f'{len(places)} {kinds} of at least {score_thr:.2f} {how}'
    else:
        labels, areas = np.unique(result.found.labels, return_counts=True)
        shares = areas / result.found.labels.size
        places = _places(predictor.classes, predictor.colours, labels, shares)
        kinds = 'class' if len(places) == 1 else 'classes'
        text = f'{len(places)} {kinds} {how}'
    return PageResult(text, drawing=drawing, places=places)


def _places(
    names: Sequence[str], colours: ndarray, labels: ndarray, shares: ndarray
) -> list[Place]:
    """Return places of some classes, those with the largest shares first."""
    places = [
        Place(names[label], tuple(colours[label].tolist()), float(share))
        for label, share in zip(labels, shares, strict=True)
    ]
    return sorted(places, key=lambda place: -place.share)


def _shown(drawing: ndarray) -> ndarray:
    """Bring a drawing to a size that is good to look at."""
    longer = max(drawing.shape[:2])
    if longer >= SMALLEST_SHOWN:
        return drawing
    scale = SMALLEST_SHOWN / longer
    size = [max(1, round(side * scale)) for side in drawing.shape[1::-1]]
    return np.array(Image.fromarray(drawing).resize(size, Image.Resampling.BICUBIC))
