"""Pages of class-activation maps, pictures by models, for tools/gradcam.py."""

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from numpy import ndarray
from PIL import Image
from torch import Tensor

from mmpoolformer.analysis.gradcam import box_map, classifier_map, region_map
from mmpoolformer.inference.classifiers import KnownClassifier
from mmpoolformer.inference.openmmlab import OpenMMLabModel
from mmpoolformer.utils.results import Detections
from mmpoolformer.utils.text import did_you_mean
from mmpoolformer.visual.drawing import (
    arrange,
    caption,
    detections_from_instances,
    draw_detections,
    draw_segmentation,
    fitted_map,
    heat_legend,
    overlay_heat,
)

Adapter = KnownClassifier | OpenMMLabModel
# Widths of the columns, in pixels.
CLASSIFIED_WIDTH, WHOLE_WIDTH = 256, 360
LEGEND = heat_legend('no evidence', 'strongest evidence')


@dataclass(frozen=True)
class Settings:
    """What to draw.

    Attributes:
        method: A key of `gradcam.METHODS`; `None` is LayerCAM for boxes, which keeps to
            each box's place, and GradCAM for all else.
        category: Number or name of the class to look at; `None` is the most likely
            class, boxes of all classes, or the largest regions.
        layer: Module to look at, see `gradcam.find_layers`; `None` is the usual one.
        score_thr: Boxes that are less sure are left out.
        top: Most boxes or regions of each picture.
    """

    method: str | None = None
    category: int | str | None = None
    layer: str | None = None
    score_thr: float = 0.3
    top: int = 3


@dataclass(frozen=True)
class Picture:
    """A picture under its name.

    Attributes:
        name: The file's.
        pixels: As a model reads them.
        shown: As they are looked at: RGB, uint8 (H, W, 3).
    """

    name: str
    pixels: ndarray
    shown: ndarray


def read_picture(path: str | PathLike, model: Adapter) -> Picture:
    """Read a picture as a model does.

    Raises:
        ValueError: If it can't be read.
    """
    pixels = model.read(str(path))
    return Picture(Path(path).name, pixels, model.shown(pixels))


def page_of(
    paths: Sequence[str | PathLike],
    adapters: Sequence[Adapter],
    settings: Settings,
    step: Callable[[], object] = lambda: None,
) -> ndarray:
    """Draw a page of picture files, see `classification_page` and `config_page`.

    Raises:
        ValueError: If classifiers and other models are mixed, a picture can't be read,
            or a model has no such class or layer.
    """
    whole = [one for one in adapters if isinstance(one, OpenMMLabModel)]
    if not whole:
        pictures = [read_picture(path, adapters[0]) for path in paths]
        return classification_page(pictures, adapters, settings, step)
    if len(whole) < len(adapters):
        raise ValueError(
            'classifiers, and detectors or segmentors, do not share a page; draw them '
            'one after the other'
        )
    rows = [(read_picture(path, model), model) for path in paths for model in whole]
    return config_page(rows, settings, step)


def classification_page(
    pictures: Sequence[Picture],
    classifiers: Sequence[KnownClassifier],
    settings: Settings,
    step: Callable[[], object] = lambda: None,
) -> ndarray:
    """Draw a row for each picture and a column for each classifier.

    Args:
        pictures: The pictures.
        classifiers: The models.
        settings: What to draw.
        step: Called after each map.

    Returns:
        The page, uint8 (H, W, 3).

    Raises:
        ValueError: If a model has no such class or layer.
    """
    rows = []
    for picture in pictures:
        row = [caption(_to_width(picture.shown, CLASSIFIED_WIDTH), picture.name)]
        for classifier in classifiers:
            row.append(_classified(picture, classifier, settings))
            step()
        rows.append(row)
    headings = ['picture', *(_titled(classifier) for classifier in classifiers)]
    return arrange(rows, headings, settings.method or 'GradCAM', LEGEND)


def config_page(
    read: Sequence[tuple[Picture, OpenMMLabModel]],
    settings: Settings,
    step: Callable[[], object] = lambda: None,
) -> ndarray:
    """Draw a row for each picture and model: what it found, and why.

    Args:
        read: Each picture with the detector or segmentor that has read it.
        settings: What to draw.
        step: Called after each row.

    Returns:
        The page, uint8 (H, W, 3).

    Raises:
        ValueError: If a model has no such class or layer.
    """
    rows = []
    for picture, model in read:
        rows.append(list(_explained(picture, model, settings)))
        step()
    columns = max(map(len, rows))
    for row in rows:
        row += [np.full_like(row[0], 255)] * (columns - len(row))
    headings = ['found', *(f'evidence {i}' for i in range(1, columns))]
    title = settings.method or 'LayerCAM of boxes, GradCAM of regions'
    return arrange(rows, headings, title, LEGEND)


def _classified(
    picture: Picture, classifier: KnownClassifier, settings: Settings
) -> ndarray:
    """Draw the map over the part of the picture that the model sees."""
    image = classifier.prepare(picture.pixels)
    with torch.no_grad():
        chances = classifier.network(image[None])[0].softmax(-1)
    category = _class_number(settings.category, classifier.classes)
    if category is None:
        category = int(chances.argmax())
    how = settings.method or 'GradCAM', settings.layer
    heat = classifier_map(classifier.network, image[None], category, *how)
    drawing = overlay_heat(classifier.seen(image), heat)
    text = f'{classifier.classes[category]}, {chances[category]:.1%}'
    return caption(_to_width(drawing, CLASSIFIED_WIDTH), text)


def _explained(
    picture: Picture, whole: OpenMMLabModel, settings: Settings
) -> Iterator[ndarray]:
    """Draw what a model finds in a picture, then a map for each of the first finds."""
    images, sample = _prepare(picture, whole)
    category = _class_number(settings.category, whole.classes)
    explain = _regions if hasattr(whole.network, 'decode_head') else _boxes
    yield from explain(picture, whole, images, sample, category, settings)


def _boxes(
    picture: Picture,
    whole: OpenMMLabModel,
    images: Tensor,
    sample: BaseDataElement,
    category: int | None,
    settings: Settings,
) -> Iterator[ndarray]:
    with torch.no_grad():
        found = whole.network.predict(images, [copy.deepcopy(sample)], rescale=True)
    instances = found[0].pred_instances
    keep = instances.scores >= settings.score_thr
    if category is not None:
        keep &= instances.labels == category
    kept = instances[keep]
    best = kept[kept.scores.argsort(descending=True)[: settings.top]]
    small = _to_width(picture.shown, WHOLE_WIDTH)
    boxes = _scaled(best, small.shape[1] / picture.shown.shape[1])
    text = f'{picture.name}, {_titled(whole)}'
    if not len(best):
        text = f'{picture.name}: nothing of at least {settings.score_thr:g}'
    yield caption(draw_detections(small, boxes, whole.classes), text)
    how = settings.method or 'LayerCAM', settings.layer
    for i in range(len(best)):
        box, label = best.bboxes[i], int(best.labels[i])
        heat = box_map(whole.network, images, sample, box, label, *how)
        drawing = overlay_heat(small, _fitted(heat, sample, small))
        one = Detections(boxes.boxes[i : i + 1], boxes.labels[i : i + 1])
        text = f'{whole.classes[label]} {best.scores[i]:.2f}'
        yield caption(draw_detections(drawing, one, whole.classes), text)


def _regions(
    picture: Picture,
    whole: OpenMMLabModel,
    images: Tensor,
    sample: BaseDataElement,
    category: int | None,
    settings: Settings,
) -> Iterator[ndarray]:
    with torch.no_grad():
        logits = whole.network.encode_decode(images, [sample.metainfo])[0]
    height, width = sample.img_shape[:2]
    labels = logits.argmax(0)[:height, :width].numpy()
    small = _to_width(picture.shown, WHOLE_WIDTH)
    shown = fitted_map(labels, small.shape)
    drawing = draw_segmentation(small, shown, whole.colours)
    yield caption(drawing, f'{picture.name}, {_titled(whole)}')
    numbers, areas = np.unique(labels, return_counts=True)
    largest = numbers[np.argsort(-areas)][: settings.top].tolist()
    how = settings.method or 'GradCAM', settings.layer
    for label in largest if category is None else [category]:
        heat = region_map(whole.network, images, sample, label, *how)
        share = (labels == label).mean()
        text = f'{whole.classes[label]}, {share:.0%} of the picture'
        yield caption(overlay_heat(small, _fitted(heat, sample, small)), text)


def _prepare(picture: Picture, whole: OpenMMLabModel) -> tuple[Tensor, BaseDataElement]:
    """Return what the data preprocessor makes of a picture: (1, 3, H, W), sample."""
    batch = {key: [value] for key, value in whole.prepare(picture.pixels).items()}
    with torch.no_grad():
        ready = whole.network.data_preprocessor(batch, False)
    return ready['inputs'], ready['data_samples'][0]


def _fitted(heat: ndarray, sample: BaseDataElement, picture: ndarray) -> ndarray:
    """Cut off the padding of a map and bring it to the size of a picture."""
    height, width = sample.img_shape[:2]
    fitted = Image.fromarray(heat[:height, :width]).resize(
        picture.shape[1::-1], Image.Resampling.BILINEAR
    )
    return np.array(fitted)


def _scaled(instances: BaseDataElement, scale: float) -> Detections:
    """Return the boxes on a picture of another size."""
    found = detections_from_instances(instances)
    return Detections(found.boxes * scale, found.labels, found.scores)


def _to_width(pixels: ndarray, width: int) -> ndarray:
    height = max(1, round(pixels.shape[0] * width / pixels.shape[1]))
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
    return np.array(resized)


def _titled(model: Adapter) -> str:
    return f'{model.title} (random)' if model.unfilled else model.title


def _class_number(wanted: int | str | None, names: Sequence[str]) -> int | None:
    if wanted is None:
        return None
    if isinstance(wanted, str) and re.fullmatch(r'\d+', wanted):
        wanted = int(wanted)
    # ImageNet's names are lists of synonyms.
    for known in (names, [name.split(', ')[0] for name in names]):
        if wanted in known:
            return list(known).index(wanted)
    if isinstance(wanted, int) and 0 <= wanted < len(names):
        return wanted
    hint = did_you_mean(str(wanted), names)
    raise ValueError(
        f'class {wanted!r}: give a name or a number from 0 to {len(names) - 1}{hint}'
    )
