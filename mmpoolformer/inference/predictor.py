"""One way to ask any model about pictures: classifier, detector or segmentor.

    predictor = Predictor('configs/detection/NAME.py', 'work_dirs/NAME/epoch_12.pth')
    found = predictor('street.jpg').found
    for result in predictor.stream(paths, batch_size=8):
        ...

Pictures are prepared by the config's own test pipeline (detectors and segmentors), or
as in the training (classifiers), and models run as in tools/test.py.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from mmengine.config import Config
from numpy import ndarray
from PIL import Image
from torch import Tensor

from mmpoolformer.inference.adapters import load_adapter
from mmpoolformer.inference.engines import load_engine
from mmpoolformer.models.folding import DTYPES, optimize_for_inference
from mmpoolformer.utils.images import PictureError, convert_picture
from mmpoolformer.utils.paths import is_exported
from mmpoolformer.utils.results import CLASSIFICATION, Result

Source = str | os.PathLike | Image.Image | ndarray
Item, Found = TypeVar('Item'), TypeVar('Found')


class Predictor:
    """A model that is ready for pictures.

    Several threads may use one predictor: the model runs for one of them at a time.

    A picture is a path, a PIL picture, or an array: RGB (not BGR), uint8 (H, W, 3), or
    grey (H, W). Files are read as the config does; for classifiers, and where the
    config could not, by `open_picture`: turned as their camera says (EXIF), and grey,
    palette, CMYK and 16-bit ones as RGB. Where the config reads other bands, more bits
    or a format of its own, arrays are taken as its loader makes them.

    Args:
        model: A config (its file, or what is in it) of a detector, segmentor or
            classifier; or the name of a classifier, see `load_classifier`.
        checkpoint: The weights: a path, a URL, `zoo://NAME`, `timm://NAME`, perhaps
            with `#ENTRY`, or `'random'`. None stands for a name's published weights,
            which are downloaded, and for what a config names, see `fill_from_config`.
            Or a file of `mmpoolformer export`, `.onnx` or `.xml` (OpenVINO), which runs
            on the CPU.
        device: Where to compute.
        trust: See `read_checkpoint`.
        classes: Names of the classes in the order of the labels, in place of those in
            the checkpoint or config.
        dtype: What the model computes in: `fp32` or `bf16`. Checkpoints: see
            `optimize_for_inference`; of exported files OpenVINO's can.

    Attributes:
        task: `'classification'`, `'detection'`, `'instance segmentation'` or
            `'semantic segmentation'`.
        takes_bands: Whether the config reads other pictures than RGB of 8 bits.
        title: The config's or model's name.
        classes: Names of the classes.
        unfilled: Which weights are random, in words; empty if none.
        colours: Of the classes, uint8 (K, 3).
        network: The model, or of classifiers the network from images (B, 3, H, W) to
            logits.
        lock: Held while the model runs; for those who use `network` themselves.

    Raises:
        ValueError: If the name is unknown, or the checkpoint can't be used.
        UserError: If the config can't be used, or the checkpoint does not fill it.
    """

    def __init__(
        self,
        model: str | os.PathLike | Config,
        checkpoint: str | os.PathLike | None = None,
        device: str | torch.device = 'cpu',
        trust: bool = False,
        classes: Sequence[str] = (),
        dtype: str = 'fp32',
    ) -> None:
        exported = is_exported(checkpoint)
        if exported:
            checkpoint, device = load_engine(checkpoint, dtype), 'cpu'
        self._adapter = load_adapter(model, checkpoint, trust, classes)
        self.network = self._adapter.network.to(device).eval()
        if dtype != 'fp32' and not exported:
            self.network = optimize_for_inference(self.network, DTYPES[dtype])
            self._adapter = replace(self._adapter, network=self.network)
        self.task = self._adapter.task
        self.takes_bands = self._adapter.takes_bands
        self.title = self._adapter.title
        self.unfilled = self._adapter.unfilled
        self.classes = tuple(self._adapter.classes)
        self.colours = self._adapter.colours
        self.lock = threading.RLock()

    def __call__(self, picture: Source) -> Result:
        """Return what the model sees in a picture.

        Raises:
            PictureError: If it can't be read.
            TypeError: If it is none.
            ValueError: If it is an array of another kind, or a classifier's scores are
                not finite.
        """
        return next(self.stream([picture]))

    def batch(self, pictures: Iterable[Source], batch_size: int = 8) -> list[Result]:
        """Return what the model sees in some pictures, see `stream`."""
        return list(self.stream(pictures, batch_size))

    def stream(
        self,
        pictures: Iterable[Source],
        batch_size: int = 1,
        skip_unreadable: bool = False,
    ) -> Iterator[Result]:
        """Say what the model sees, picture by picture.

        Args:
            pictures: Any number of them, also without end: no more than a batch is
                held.
            batch_size: Pictures at a time, from 1. Those that come to the same size
                share a run of the model. Others do not, because padding would change
                what PoolFormer sees: it normalises over the whole picture.
            skip_unreadable: Whether to give a result with a `problem` in place of an
                error.

        Yields:
            One result for each picture, in their order.

        Raises:
            PictureError: If a picture can't be read and is not to be skipped.
            TypeError: If it is none.
            ValueError: If it is an array of another kind, or a classifier's scores are
                not finite; or if `batch_size` is below 1.
        """
        if batch_size < 1:
            raise ValueError(f'batch_size={batch_size!r}: give a number from 1')
        pictures = iter(pictures)
        while taken := list(islice(pictures, batch_size)):
            read = [self._read(picture, skip_unreadable) for picture in taken]
            yield from self._see_all(read, skip_unreadable)

    def see(self, picture: Source) -> tuple[Tensor, ndarray]:
        """Return what a classifier's network gets of a picture.

        Returns:
            The network's input (1, 3, H, W), and the same as a picture, RGB, uint8
            (H, W, 3).

        Raises:
            PictureError: If the picture can't be read.
            ValueError: If this is no classifier.
        """
        if self.task != CLASSIFICATION:
            raise ValueError(f'{self.title} is for {self.task}, no classifier')
        image = self._adapter.prepare(self._read(picture, skip=False)[1])
        device = next(self.network.parameters()).device
        return image[None].to(device), self._adapter.seen(image)

    def _read(self, picture: Source, skip: bool) -> tuple[Result, ndarray | None]:
        """Read a picture: the result to fill in, and what the adapter prepares."""
        is_path = isinstance(picture, (str, os.PathLike))
        name = str(picture) if is_path else ''
        try:
            if is_path:
                pixels = self._adapter.read(name)
            elif self.takes_bands and isinstance(picture, ndarray):
                pixels = picture
            elif self.takes_bands:
                raise PictureError(
                    f'the config of {self.title} reads other pictures than RGB of 8 '
                    'bits: give a path, or an array as its loader makes them'
                )
            else:
                pixels = _as_colours(picture)
        except PictureError as error:
            if not skip:
                raise
            return Result(name, problem=str(error)), None
        return Result(name, self._adapter.shown(pixels)), pixels

    def _see_all(
        self, read: Sequence[tuple[Result, ndarray | None]], skip: bool
    ) -> list[Result]:
        """Return results of pictures with what is found in them."""
        seen, items = [result for result, _ in read], {}
        # Steps of pipelines may keep notes, so they run under the lock too.
        with self.lock, torch.no_grad():
            for place, (result, pixels) in enumerate(read):
                if result.problem:
                    continue
                try:
                    items[place] = self._adapter.prepare(pixels)
                except PictureError as error:
                    problem = f'{result.name}: {error}'.removeprefix(': ')
                    if not skip:
                        raise PictureError(problem) from error
                    seen[place] = Result(result.name, problem=problem)
            found = _by_size(items, self._adapter.size_of, self._adapter.run)
        for place, what in found.items():
            seen[place] = replace(seen[place], found=what)
        return seen


def _as_colours(picture: Image.Image | ndarray) -> ndarray:
    """Return a picture that is no file as RGB, uint8 (H, W, 3)."""
    if isinstance(picture, ndarray):
        return _checked(picture)
    if not isinstance(picture, Image.Image):
        raise TypeError(
            f'{type(picture).__name__} is no picture: give a path, a PIL picture or a '
            'numpy array'
        )
    return np.array(convert_picture(picture))


def _checked(pixels: ndarray) -> ndarray:
    is_grey = pixels.ndim == 2
    if pixels.dtype != np.uint8 or not (is_grey or pixels.shape[2:] == (3,)):
        raise ValueError(
            f'an array {pixels.shape} of {pixels.dtype} is no picture: give uint8, '
            'RGB (H, W, 3) or grey (H, W)'
        )
    if not pixels.size:
        raise ValueError(f'an array {pixels.shape} has no pixels')
    return np.repeat(pixels[..., None], 3, axis=2) if is_grey else pixels


def _by_size(
    items: Mapping[int, Item],
    size_of: Callable[[Item], tuple[int, ...]],
    run: Callable[[Sequence[Item]], Sequence[Found]],
) -> dict[int, Found]:
    """Run items of one size together, and return what is found under their numbers."""
    places: dict[tuple[int, ...], list[int]] = {}
    for place, item in items.items():
        places.setdefault(size_of(item), []).append(place)
    found = {}
    for group in places.values():
        found |= zip(group, run([items[place] for place in group]), strict=True)
    return found
