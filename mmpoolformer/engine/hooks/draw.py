"""Drawings of the tested images."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import mmcv
import mmengine.fileio
import numpy as np
from mmengine.dist import get_dist_info
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from numpy import ndarray

from mmpoolformer.utils.results import Detections
from mmpoolformer.visual.drawing import (
    IGNORED,
    detections_from_instances,
    draw_detections,
    draw_legend,
    draw_segmentation,
    labels_from_sample,
    region_colours,
    save_picture,
)

BOXES, PANOPTIC = {'gt_instances', 'pred_instances'}, 'pred_panoptic_seg'
REGIONS = {'gt_sem_seg', 'pred_sem_seg'}
MOST_WAITING = 8  # pictures that are still to be drawn


class DrawPictures(Hook):
    """Draw truth beside prediction of each tested image, while the next ones are run.

    Boxes, masks and regions are drawn as all other commands do, others by the config's
    visualizer.

    Args:
        folder: Where the pictures go, as PNG under the image's name; None for none.
            With several processes the image's place in the data set is appended.
        show: Whether to show them in a window.
        wait_time: How long, in seconds.
        drawing: Further options of the visualizer's `add_datasample`.
    """

    def __init__(
        self,
        folder: str | Path | None,
        show: bool = False,
        wait_time: float = 2.0,
        drawing: dict | None = None,
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.show = show
        self.wait_time = wait_time
        self.drawing = drawing or {}
        self.names: dict[str, int] = {}
        self.taken: set[str] = set()
        self.drawn = 0
        self.painter = ThreadPoolExecutor(1)
        self.waiting: deque[Future] = deque()

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence | None = None,
    ) -> None:
        """Draw the images of a batch."""
        for sample in outputs or ():
            path, file = sample.img_path, self._file(sample.img_path)
            draw = self._painting(sample, runner.visualizer.dataset_meta or {})
            if draw is None:
                runner.visualizer.add_datasample(
                    Path(path).name,
                    _read(path),
                    data_sample=sample,
                    show=self.show,
                    wait_time=self.wait_time,
                    out_file=file,
                    step=batch_idx,
                    **self.drawing,
                )
                continue
            self.waiting.append(self.painter.submit(_paint, draw, path, file))
            if self.show:
                picture = self.waiting.pop().result()
                runner.visualizer.show(picture, Path(path).name, self.wait_time)
        self._wait(MOST_WAITING)

    def after_test(self, runner: Runner) -> None:
        """Wait for the last pictures."""
        self._wait(0)

    def _wait(self, most: int) -> None:
        """Wait until at most so many are to be drawn; raise what went wrong."""
        while len(self.waiting) > most:
            self.waiting.popleft().result()

    def _painting(
        self, sample: BaseDataElement, meta: dict
    ) -> Callable[[ndarray], ndarray] | None:
        """Return what draws on an image, or None where that is left to mmengine."""
        there, classes = {*sample.keys()}, meta.get('classes')
        if not classes or PANOPTIC in there:
            return None
        if there >= BOXES:
            truth = detections_from_instances(sample.gt_instances)
            found = detections_from_instances(sample.pred_instances)
            found = found.above(self.drawing.get('pred_score_thr', 0.3))
            return partial(_draw_boxes, sides=(truth, found), classes=classes)
        if there >= REGIONS:
            maps = [labels_from_sample(sample, name) for name in sorted(REGIONS)]
            colours = region_colours(meta, len(classes))
            return partial(_draw_regions, maps=maps, classes=classes, colours=colours)
        return None

    def _file(self, image: str) -> str | None:
        """Name the picture of an image; no two get the same name, over all ranks."""
        if self.folder is None:
            return None
        stem = Path(image).stem
        rank, world_size = get_dist_info()
        if world_size > 1:
            # No rank knows the names of the others. A sampler deals out the images.
            name = f'{stem}_{self.drawn * world_size + rank}'
        else:
            name = self._free(stem)
        self.drawn += 1
        return str(self.folder / f'{name}.png')

    def _free(self, stem: str) -> str:
        """Return the stem if no picture has it, else with the next free number."""
        name = stem
        number = self.names.get(stem, 1)
        while name in self.taken:
            number += 1
            name = f'{stem}_{number}'
        self.names[stem] = number
        self.taken.add(name)
        return name


def _read(path: str) -> ndarray:
    return mmcv.imfrombytes(mmengine.fileio.get(path), channel_order='rgb')


def _paint(draw: Callable[[ndarray], ndarray], path: str, file: str | None) -> ndarray:
    picture = draw(_read(path))
    if file:
        save_picture(picture, file)
    return picture


def _draw_boxes(
    image: ndarray, sides: Sequence[Detections], classes: Sequence[str]
) -> ndarray:
    drawn = [draw_detections(image, side, classes) for side in sides]
    return np.concatenate(drawn, axis=1)


def _draw_regions(
    image: ndarray,
    maps: Sequence[ndarray],
    classes: Sequence[str],
    colours: ndarray,
) -> ndarray:
    """Draw label maps side by side, and below the names of the classes that are there.

    Labels that are no class, which the metrics leave out, stay uncoloured.
    """
    count = len(classes)
    maps = [np.where(labels < count, labels, IGNORED) for labels in maps]
    drawn = [draw_segmentation(image, labels, colours) for labels in maps]
    picture = np.concatenate(drawn, axis=1)
    present = [number for number in np.unique(maps) if number < count]
    legend = {classes[number]: colours[number] for number in present}
    return np.concatenate([picture, draw_legend(legend, picture.shape[1])])
