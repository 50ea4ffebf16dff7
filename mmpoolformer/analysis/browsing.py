"""Pictures of what a config feeds its model: after augmentation, with annotations."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import set_random_seed
from numpy import ndarray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from mmpoolformer.classification.preprocessing import normalisation
from mmpoolformer.data.checks.built import check_dataset
from mmpoolformer.engine.config import task_scope
from mmpoolformer.registry import scope_of
from mmpoolformer.utils.nested import leaf_datasets
from mmpoolformer.utils.results import Detections
from mmpoolformer.utils.text import type_name
from mmpoolformer.visual.drawing import (
    IGNORED,
    arrange,
    caption,
    detections_from_instances,
    draw_detections,
    draw_segmentation,
    labels_from_sample,
    region_colours,
    shown_bands,
)

SPLITS = ('train', 'val', 'test')
PIPELINES = {'mmdet': 'detection', 'mmseg': 'segmentation'}
MOST_LEGEND = 30


@dataclass(frozen=True)
class FedPicture:
    """A picture as the model gets it, but not normalised.

    Attributes:
        name: The file's name.
        pixels: RGB, uint8 (H, W, 3).
        boxes: Its annotated boxes, perhaps with masks, or None.
        labels: The class of each pixel, (H, W), 255 where none counts, or None.
        category: Number of its class, or None.
    """

    name: str
    pixels: ndarray
    boxes: Detections | None = None
    labels: ndarray | None = None
    category: int | None = None


@dataclass(frozen=True)
class FedData:
    """The data of one split of a config.

    Attributes:
        dataset: Gives what `read` takes.
        read: From an item of the data set to its picture.
        classes: Names of the classes.
        colours: A colour for each, uint8 (K, 3).
    """

    dataset: Dataset
    read: Callable[[dict], FedPicture]
    classes: Sequence[str]
    colours: ndarray

    def pictures(self, number: int, seed: int) -> Iterator[FedPicture]:
        """Yield pictures drawn at random.

        Args:
            number: How many, at most all.
            seed: Of the choice and of the augmentation.
        """
        set_random_seed(seed)
        order = np.random.default_rng(seed).permutation(len(self.dataset))
        for index in order[:number]:
            yield self.read(self.dataset[int(index)])


def open_data(config: Config, split: str) -> FedData:
    """Open the data of a config.

    Args:
        config: A config of detection, segmentation or classification.
        split: One of `SPLITS`.

    Raises:
        ValueError: If the config has no such split, or is of another kind.
        UserError: If files are missing.
    """
    loader = config.get(f'{split}_dataloader')
    if split not in SPLITS or not loader:
        there = [name for name in SPLITS if config.get(f'{name}_dataloader')]
        raise ValueError(f'no {split} data in the config: choose {", ".join(there)}')
    scope = task_scope(config)
    with scope_of(config):
        dataset = DATASETS.build(loader.dataset)
        if hasattr(dataset, 'full_init'):
            dataset.full_init()
        check_dataset(dataset)
        read = _reader(config, dataset, split, loader.dataset)
    meta = getattr(dataset, 'metainfo', {})
    classes = tuple(map(str, meta.get('classes') or ()))
    # Boxes have colours that all eyes can tell, not mmdet's.
    colours = region_colours(meta if scope == 'mmseg' else {}, len(classes))
    return FedData(dataset, read, classes, colours)


def draw_fed(picture: FedPicture, data: FedData, side: int | None = None) -> ndarray:
    """Draw a picture with its annotation, and its name and size below.

    Args:
        picture: The picture.
        data: Where it is from.
        side: Pixels of its longer side on the drawing, by default its own.

    Returns:
        The drawing, uint8 (H, W, 3).
    """
    height, width = picture.pixels.shape[:2]
    scale = 1 if side is None else side / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    drawing = np.array(Image.fromarray(picture.pixels).resize(size))
    text = f'{picture.name}  {width} x {height}'
    if picture.labels is not None:
        labels = _nearest(picture.labels, size)
        drawing = draw_segmentation(drawing, labels, data.colours, 0.5)
    if picture.boxes is not None:
        boxes = _scaled(picture.boxes, scale, size)
        drawing = draw_detections(drawing, boxes, data.classes)
        count = len(boxes.labels)
        text += f'  {count} object{"s" * (count != 1)}'
    if picture.category is not None:
        number, names = picture.category, data.classes
        name = names[number] if number < len(names) else f'class {number}'
        text = f'{name}  ({text})'
    return caption(drawing, text)


def draw_page(
    pictures: Sequence[FedPicture], data: FedData, title: str, columns: int, side: int
) -> ndarray:
    """Draw pictures in a grid.

    Args:
        pictures: The pictures, one or more.
        data: Where they are from.
        title: Printed above.
        columns: Pictures in a row.
        side: Pixels of their longer sides on the page.

    Returns:
        The page, uint8 (H, W, 3).
    """
    tiles = [_padded(draw_fed(picture, data, side), side) for picture in pictures]
    columns = min(columns, len(tiles))
    blank = np.full((1, side, 3), 255, np.uint8)
    tiles += [blank] * (-len(tiles) % columns)
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    return arrange(rows, None, title, _legend(pictures, data))


def _legend(pictures: Sequence[FedPicture], data: FedData) -> dict[str, ndarray]:
    """Return the colours of the classes that are there, if they are drawn."""
    found: set[int] = set()
    for picture in pictures:
        if picture.boxes is not None:
            found.update(np.asarray(picture.boxes.labels).tolist())
        if picture.labels is not None:
            found.update(np.unique(picture.labels).tolist())
    shown = sorted(found - {IGNORED})[:MOST_LEGEND]
    return {data.classes[i]: data.colours[i] for i in shown}


def _reader(
    config: Config, dataset: Dataset, split: str, settings: Mapping
) -> Callable[[dict], FedPicture]:
    """Return what makes a picture of an item of the data set."""
    scope = task_scope(config)
    if scope not in PIPELINES:
        mean, std = (
            255 * torch.tensor(values)
            for values in normalisation(settings.get('transform') or {})
        )
        return lambda item: _classified(item, mean, std)
    prepare = MODELS.build(config.model.data_preprocessor)
    training = split == 'train'
    late = _annotated_late(settings)

    def read(item: dict) -> FedPicture:
        batch = {key: [value] for key, value in item.items()}
        fed = prepare(batch, training)
        image, sample = fed['inputs'][0], fed['data_samples'][0]
        pixels = _pixels(image, *_normalisation(prepare, image))
        picture = FedPicture(Path(sample.img_path).name, pixels)
        if scope == 'mmseg':
            labels = labels_from_sample(sample, 'gt_sem_seg')
            return replace(picture, labels=_nearest(labels, pixels.shape[1::-1]))
        boxes = detections_from_instances(sample.gt_instances)
        return replace(picture, boxes=_at_size(boxes, sample, late, pixels.shape[:2]))

    return read


def _classified(item: dict, mean: Tensor, std: Tensor) -> FedPicture:
    category = int(item['targets'])
    name = Path(item['img_path']).name
    return FedPicture(name, _pixels(item['inputs'], mean, std), category=category)


def _normalisation(prepare: object, image: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a data preprocessor of OpenMMLab subtracts and divides by."""
    channels = len(image)
    mean = getattr(prepare, 'mean', torch.zeros(channels))
    std = getattr(prepare, 'std', torch.ones(channels))
    return mean.flatten(), std.flatten()


def _pixels(image: Tensor, mean: Tensor, std: Tensor) -> ndarray:
    """Undo the normalisation of an image (C, H, W), and return it as RGB."""
    image = image.float() * std[:, None, None] + mean[:, None, None]
    return shown_bands(image.permute(1, 2, 0).numpy())  # (C, H, W) -> (H, W, C)


def _annotated_late(settings: Mapping) -> bool:
    """Tell whether annotations are read after resizing, so at the file's own size."""
    dataset = next(leaf_datasets(settings))
    names = [type_name(step['type']) for step in dataset.get('pipeline', ())]
    if 'Resize' not in names or 'LoadAnnotations' not in names:
        return False
    return names.index('Resize') < names.index('LoadAnnotations')


def _at_size(
    boxes: Detections, sample: object, late: bool, shape: tuple[int, int]
) -> Detections:
    """Bring annotations to the picture's size, padding included."""
    if late:
        width, height = sample.scale_factor
        scaled = boxes.boxes * np.array([width, height, width, height])
        boxes = replace(boxes, boxes=scaled)
    if boxes.masks is None or not len(boxes.masks):
        return replace(boxes, masks=None)
    height, width = sample.img_shape[:2]
    masks = np.zeros((len(boxes.masks), *shape), bool)
    for mask, canvas in zip(boxes.masks, masks, strict=True):
        inner = _nearest(mask, (width, height)) if late else mask[:height, :width]
        canvas[:height, :width] = inner
    return replace(boxes, masks=masks)


def _scaled(boxes: Detections, scale: float, size: tuple[int, int]) -> Detections:
    masks = boxes.masks
    if masks is not None:
        masks = np.stack([_nearest(mask, size) for mask in masks])
    return replace(boxes, boxes=boxes.boxes * scale, masks=masks)


def _nearest(values: ndarray, size: tuple[int, int]) -> ndarray:
    """Resize a map (H, W) to (width, height) by taking the nearest values."""
    if values.shape[::-1] == tuple(size):
        return values
    kind = np.uint8 if values.dtype == bool else values.dtype
    image = Image.fromarray(values.astype(np.int32 if kind != np.uint8 else np.uint8))
    resized = image.resize(size, Image.Resampling.NEAREST)
    return np.array(resized).astype(values.dtype)


def _padded(tile: ndarray, width: int) -> ndarray:
    """Put a drawing into the middle of a column."""
    left = (width - tile.shape[1]) // 2
    right = width - tile.shape[1] - left
    return np.pad(tile, ((0, 0), (left, right), (0, 0)), constant_values=255)
