"""Drawings of the tested images."""

from collections.abc import Sequence
from pathlib import Path

import mmcv
import mmengine.fileio
from mmengine.hooks import Hook
from mmengine.runner import Runner


class DrawPictures(Hook):
    """Draw truth beside prediction of each tested image.

    Args:
        folder: Where the pictures go, as PNG under the image's name; None for none.
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
            runner.visualizer.add_datasample(
                Path(sample.img_path).name,
                mmcv.imfrombytes(content, channel_order='rgb'),
                data_sample=sample,
                show=self.show,
                wait_time=self.wait_time,
                out_file=self._file(sample.img_path),
                step=batch_idx,
                **self.drawing,
            )

    def _file(self, image: str) -> str | None:
        """Name the picture of an image; equal names get a number."""
        if self.folder is None:
            return None
        stem = Path(image).stem
        self.names[stem] = self.names.get(stem, 0) + 1
        number = f'_{self.names[stem]}' if self.names[stem] > 1 else ''
        return str(self.folder / f'{stem}{number}.png')
