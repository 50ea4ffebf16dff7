"""Drawings of the tested images."""

from collections.abc import Sequence
from pathlib import Path

import mmcv
import mmengine.fileio
import numpy as np
from mmengine.dist import get_dist_info
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from numpy import ndarray

from mmpoolformer.visual.drawing import (
    detections_from_instances,
    draw_detections,
    save_picture,
)

BOXES, PANOPTIC = {'gt_instances', 'pred_instances'}, 'pred_panoptic_seg'


class DrawPictures(Hook):
    """Draw truth beside prediction of each tested image.

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

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence | None = None,
    ) -> None:
        """Draw the images of a batch."""
        for sample in outputs or ():
            content = mmengine.fileio.get(sample.img_path)
            image = mmcv.imfrombytes(content, channel_order='rgb')
            name, file = Path(sample.img_path).name, self._file(sample.img_path)
            classes = runner.visualizer.dataset_meta.get('classes')
            if classes and {*sample.keys()} >= BOXES and PANOPTIC not in sample:
                drawing = self._boxes(image, sample, classes)
                if file:
                    save_picture(drawing, file)
                if self.show:
                    runner.visualizer.show(drawing, name, self.wait_time)
                continue
            runner.visualizer.add_datasample(
                name,
                image,
                data_sample=sample,
                show=self.show,
                wait_time=self.wait_time,
                out_file=file,
                step=batch_idx,
                **self.drawing,
            )

    def _boxes(
        self, image: ndarray, sample: BaseDataElement, classes: Sequence[str]
    ) -> ndarray:
        """Draw a detector's truth and prediction as all other commands do."""
        truth = detections_from_instances(sample.gt_instances)
        found = detections_from_instances(sample.pred_instances)
        found = found.above(self.drawing.get('pred_score_thr', 0.3))
        sides = [draw_detections(image, side, classes) for side in (truth, found)]
        return np.concatenate(sides, axis=1)

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
