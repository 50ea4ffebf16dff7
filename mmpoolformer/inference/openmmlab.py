"""Detectors and segmentors of configs, ready for pictures."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DATASETS, TRANSFORMS
from numpy import ndarray
from PIL import Image
from torch import nn

from mmpoolformer.checkpoints.errors import shown
from mmpoolformer.engine.config import task_scope
from mmpoolformer.inference.engines import Engine
from mmpoolformer.inference.exported import num_classes, weights_or_exported
from mmpoolformer.models.from_config import build_from_config
from mmpoolformer.models.label_maps import predict_labels_only
from mmpoolformer.registry import scope_of
from mmpoolformer.utils.images import (
    DEEP_MODES,
    FORMATS,
    PictureError,
    as_picture_error,
    open_picture,
)
from mmpoolformer.utils.nested import leaf_datasets
from mmpoolformer.utils.results import (
    DETECTION,
    INSTANCES,
    SEGMENTATION,
    Detections,
    Regions,
)
from mmpoolformer.utils.text import type_name
from mmpoolformer.visual.drawing import (
    class_colours,
    detections_from_instances,
    labels_from_sample,
    shown_bands,
)

COLOURS = ('color', 'color_ignore_orientation')  # of mmcv's color_type
# Steps of test pipelines that pictures without annotations do without.
ANNOTATION_STEPS = ('LoadAnnotations', 'LoadPanopticAnnotations', 'MapLabels')


@dataclass(frozen=True)
class OpenMMLabModel:
    """A detector or segmentor that is ready to use.

    Attributes:
        title: The config's name.
        network: The model of mmdet or mmseg, in evaluation mode.
        pipeline: Turns `dict(img=...)`, BGR, into its inputs and data sample.
        classes: Their names.
        colours: Of the classes, uint8 (K, 3).
        loader: The step of the config that reads its pictures.
        takes_bands: Whether it does not read RGB of 8 bits, but other bands, more bits
            or a format of its own.
        unfilled: Which weights are random, in words; empty if none.
    """

    title: str
    network: nn.Module
    pipeline: Compose
    classes: Sequence[str]
    colours: ndarray
    loader: BaseTransform
    takes_bands: bool = False
    unfilled: str = ''

    @property
    def task(self) -> str:
        """What the model does."""
        if hasattr(self.network, 'decode_head'):
            return SEGMENTATION
        return INSTANCES if self.network.with_mask else DETECTION

    def read(self, path: str) -> ndarray:
        """Read a picture file as the config does, for `prepare`.

        Raises:
            PictureError: If it can't be read.
        """
        if self.takes_bands:
            return self._loaded(path)
        pixels = np.array(open_picture(path))  # refuses also what is damaged
        if self.loader.color_type == 'color' and not _differs(path):
            return pixels
        try:
            return np.ascontiguousarray(self._loaded(path)[..., ::-1])  # from BGR
        except PictureError:  # no training could read it
            return pixels

    def _loaded(self, path: str) -> ndarray:
        with as_picture_error(path, cv2.error):
            return self.loader(dict(img_path=path, img_id=0))['img']

    def shown(self, pixels: ndarray) -> ndarray:
        """Return a picture of `read` to be looked at: RGB, uint8 (H, W, 3)."""
        if not self.takes_bands:
            return pixels
        shown = shown_bands(pixels)
        turned = getattr(self.network.data_preprocessor, '_channel_conversion', False)
        return shown[..., ::-1].copy() if turned else shown

    def prepare(self, pixels: ndarray) -> dict:
        """Return inputs and data sample, as the pipeline makes them of a picture.

        Args:
            pixels: RGB, uint8 (H, W, 3); with `takes_bands` what the `loader` gives.

        Raises:
            PictureError: If the model takes another number of bands, or if OpenCV
                can't resize it: one side comes to no pixel at all.
        """
        bands = pixels.shape[2] if pixels.ndim > 2 else 1
        wanted = getattr(self.network.backbone, 'in_channels', bands)
        if bands != wanted:
            raise PictureError(
                f'a picture of {bands} bands, but the model takes {wanted}'
            )
        if not self.takes_bands:
            pixels = np.ascontiguousarray(pixels[..., ::-1])  # BGR
        try:
            return self.pipeline(dict(img=pixels, img_id=0))
        except cv2.error as error:
            height, width = pixels.shape[:2]
            raise PictureError(
                f"{width} x {height} pixels can't be resized as the config says "
                f'({error.err})'
            ) from error

    @staticmethod
    def size_of(item: Mapping) -> tuple[int, ...]:
        """Return the shape of what the model gets."""
        return tuple(item['inputs'].shape)

    def run(self, items: Sequence[Mapping]) -> list[Detections] | list[Regions]:
        """Return what the model sees."""
        batch = {key: [item[key] for item in items] for key in items[0]}
        samples = self.network.test_step(batch)
        if self.task == SEGMENTATION:
            kind = np.min_scalar_type(len(self.classes))
            return [Regions(labels_from_sample(one).astype(kind)) for one in samples]
        return [detections_from_instances(one.pred_instances) for one in samples]


def load_openmmlab(
    config: Config,
    checkpoint: str | os.PathLike | Engine | None = None,
    trust: bool = False,
    classes: Sequence[str] = (),
    may_be_random: bool = False,
) -> OpenMMLabModel:
    """Make the model of a config ready.

    Args:
        config: A config of mmdet's or mmseg's, with `test_dataloader`.
        checkpoint: See `weights_or_exported`.
        trust: See `read_checkpoint`.
        classes: Names of the classes, in place of those in the checkpoint or config.
        may_be_random: See `fill_from_config`.

    Raises:
        ValueError: If the checkpoint can't be read, or the classes are of another
            number.
        UserError: If the checkpoint does not fill the model.
    """
    model = build_from_config(config)
    weights = weights_or_exported(model, config, checkpoint, trust, may_be_random)
    predict_labels_only(model)
    dataset = next(leaf_datasets(config.test_dataloader.dataset))
    steps = [
        dict(step)
        for step in dataset.pipeline
        if type_name(step['type']) not in ANNOTATION_STEPS
    ]
    scope = task_scope(config)
    first, steps[0] = steps[0], dict(type=f'{scope}.LoadImageFromNDArray')
    takes_bands = not _reads_colours(first)
    steps[0]['to_float32'] = first.get('to_float32', False)
    if not takes_bands:
        first.pop('to_float32', None)  # drawings take 8 bits
    title = Path(config.filename or 'config').stem
    with scope_of(config):
        loader = TRANSFORMS.build(first)
        pipeline = Compose(steps)
        names, colours = _class_names(weights.content, dataset, model)
    if classes and len(classes) != len(names):
        raise ValueError(
            f'{len(classes)} class names, but {title} has {len(names)} classes; give '
            'one name for each'
        )
    names = tuple(classes) or names
    unfilled = weights.unfilled
    return OpenMMLabModel(
        title, model, pipeline, names, colours, loader, takes_bands, unfilled
    )


def _differs(path: str) -> bool:
    """Tell whether OpenCV may make other pixels of a file than Pillow does.

    WebP it does not turn, TIFF's colours it multiplies by their opacity, and CMYK and
    16 bits it rounds otherwise; all else came out alike to the last bit.
    """
    with Image.open(path, formats=FORMATS) as picture:
        is_deep = picture.mode in ('CMYK', *DEEP_MODES)
        return is_deep or picture.format in ('TIFF', 'WEBP')


def _reads_colours(step: Mapping) -> bool:
    """Tell whether a step reads pictures as colours of 8 bits, BGR.

    The backends of mmcv do, but for tifffile, which gives what is in the file.
    """
    return (
        type_name(step['type']) == 'LoadImageFromFile'
        and step.get('color_type', 'color') in COLOURS
        and step.get('imdecode_backend') != 'tifffile'
    )


def _class_of(kind: str | type) -> type:
    return DATASETS.get(kind) if isinstance(kind, str) else kind


def _class_names(
    content: Mapping, dataset: Mapping, model: nn.Module
) -> tuple[tuple[str, ...], ndarray]:
    """Find names and colours in the checkpoint, the config, or the data set's class."""
    count = num_classes(model)
    meta = content.get('meta') if isinstance(content.get('meta'), Mapping) else {}
    old = {'classes': meta.get('CLASSES'), 'palette': meta.get('PALETTE')}
    given = (
        meta.get('dataset_meta') or old,
        dataset.get('metainfo') or {},
        getattr(_class_of(dataset['type']), 'METAINFO', {}),
    )
    names = _first_of_length(count, [about.get('classes') for about in given])
    palette = _first_of_length(count, [about.get('palette') for about in given])
    colours = class_colours(count) if palette is None else palette
    names = names or [f'class {i}' for i in range(count)]
    return (
        tuple(shown(str(name)) for name in names),
        np.array(colours, dtype=np.uint8).reshape(count, 3),
    )


def _first_of_length(count: int, lists: Sequence[object]) -> Sequence | None:
    """Return the first list that long; among them may be None and words ('random')."""
    fitting = (x for x in lists if isinstance(x, (list, tuple)) and len(x) == count)
    return next(fitting, None)
