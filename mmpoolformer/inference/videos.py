"""Reading and writing videos, with OpenCV."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from numpy import ndarray

from mmpoolformer.utils.files import atomic_path

SUFFIXES = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.webm', '.wmv')
CODEC = 'mp4v'
# For videos that do not tell, or nonsense.
USUAL_FPS, HIGHEST_FPS = 25.0, 1000.0
# Of some kinds of files the number of frames is estimated; if more than this part of
# them is missing, the file is cut short.
MISSING = 0.05


class VideoError(ValueError):
    """A video that can't be read; the message names the file."""


class Video:
    """A video's frames, one after another.

    Args:
        path: The file.

    Attributes:
        fps: Frames a second.
        announced: Number of frames by the file's own account, 0 if it has none.

    Raises:
        VideoError: If it can't be opened.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = str(path)
        capture = self._open()
        self.fps = capture.get(cv2.CAP_PROP_FPS)
        self.announced = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        capture.release()
        if not 0 < self.fps <= HIGHEST_FPS:
            self.fps = USUAL_FPS

    def __iter__(self) -> Iterator[ndarray]:
        """Read the frames, RGB, uint8 (H, W, 3).

        Raises:
            VideoError: After the last frame that can be read, if there are none or
                clearly more were announced.
        """
        capture, count = self._open(), 0
        try:
            while True:
                there, frame = capture.read()
                if not there:
                    break
                count += 1
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        finally:
            capture.release()
        if not count or count < (1 - MISSING) * self.announced:
            raise VideoError(
                f'{self.path}: only {count} of {self.announced} frames can be read'
            )

    def _open(self) -> cv2.VideoCapture:
        if not Path(self.path).is_file():
            raise VideoError(f'{self.path}: no such video')
        capture = cv2.VideoCapture(self.path)
        if not capture.isOpened():
            raise VideoError(f'{self.path}: can not be read as a video')
        return capture


@contextmanager
def written_video(
    path: str | os.PathLike, fps: float
) -> Iterator[Callable[[ndarray], None]]:
    """Write a video, whole or not at all.

    Args:
        path: The file, `.mp4`.
        fps: Frames a second.

    Yields:
        What takes the frames, RGB, uint8 (H, W, 3), all of one size.

    Raises:
        OSError: If OpenCV can't write videos here.
    """
    writer = cv2.VideoWriter()
    with atomic_path(path) as part:

        def add(frame: ndarray) -> None:
            if not writer.isOpened():
                code = cv2.VideoWriter_fourcc(*CODEC)
                writer.open(str(part), code, fps, frame.shape[1::-1])
            if not writer.isOpened():
                raise OSError(f'{path}: OpenCV can not write {CODEC} videos here')
            writer.write(np.ascontiguousarray(frame[..., ::-1]))

        try:
            yield add
        finally:
            writer.release()
