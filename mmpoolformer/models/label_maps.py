"""Label maps of mmseg's segmentors, without logits of the pictures' size.

mmseg resizes the logits of all classes to the network's input, then to the picture, and
takes each pixel's best class last. For 150 classes and 640 x 480 pixels these are 184
MB, which take a CPU longer than a small network. Here classes that can't be the best
anywhere, mostly nine of ten, are left out first, and then bands of rows go through the
same steps one by one, so that only labels leave the processor's cache.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from mmengine.structures import PixelData
from torch import Tensor, nn
from torch.nn import functional as F

BAND = 2**20  # elements of a band, about what a core's cache holds
# Where mmseg's steps are, by class; models that have others keep them.
STEPS = {'EncoderDecoder': ('predict',), 'BaseSegmentor': ('postprocess_result',)}
WHOLE = {'EncoderDecoder': ('inference', 'whole_inference', 'encode_decode')}
HEAD = {'BaseDecodeHead': ('predict', 'predict_by_feat')}


def predict_labels_only(model: nn.Module) -> None:
    """Let a segmentor predict label maps alone, in place; on GPUs it stays as it is.

    Its data samples then have `pred_sem_seg` as before, up to ties within rounding, and
    no `seg_logits`.

    Args:
        model: A segmentor of mmseg; other models stay as they are, as do segmentors
            with a single class or steps of their own.
    """
    has_steps = hasattr(model, 'decode_head') and inherits(model, STEPS)
    if has_steps and model.out_channels > 1:
        model.predict = partial(_predict, model)


def inherits(part: object, methods: Mapping[str, Sequence[str]]) -> bool:
    """Tell whether methods are those of base classes, and not overridden.

    Args:
        part: An object.
        methods: Their names by the name of the class.
    """
    return all(
        getattr(getattr(type(part), name, None), '__qualname__', '') == f'{kind}.{name}'
        for kind, names in methods.items()
        for name in names
    )


def _predict(model: nn.Module, images: Tensor, samples: Sequence | None = None) -> Any:
    """Do what mmseg's `EncoderDecoder.predict` does, but for the logits."""
    if samples is None or images.device.type != 'cpu':
        return type(model).predict(model, images, samples)
    metas = [sample.metainfo for sample in samples]
    logits, size = _logits(model, images, metas)
    for sample, own, meta in zip(samples, logits, metas, strict=True):
        classes = _possible(own, size)
        rows = _Rows.of(own[classes], model.align_corners).resized(size)
        left, right, top, bottom = meta.get(
            'img_padding_size', meta.get('padding_size', (0, 0, 0, 0))
        )
        rows = rows.cropped(left, right, top, bottom)
        if meta.get('flip'):
            rows = rows.flipped(meta['flip_direction'])
        best = rows.resized(meta['ori_shape'][:2]).best(len(classes))
        labels = classes[best]
        sample.set_data({'pred_sem_seg': PixelData(data=labels[None])})
    return samples


def _logits(
    model: nn.Module, images: Tensor, metas: list[dict]
) -> tuple[Tensor, tuple[int, int]]:
    """Return logits (B, K, h, w), and the size to which mmseg resizes them first."""
    head, mode = model.decode_head, model.test_cfg.get('mode', 'whole')
    if mode == 'whole' and inherits(model, WHOLE) and inherits(head, HEAD):
        logits = head.forward(model.extract_feat(images))
        # mmseg's own rule, by one class of one image.
        resized = head.predict_by_feat(logits[:1, :1], metas)
    else:
        logits = resized = model.inference(images, metas)
    return logits, tuple(resized.shape[2:])


def _possible(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the classes that may be the best of a pixel.

    Enlarged logits are means of neighbours, of three in a row or column at most even if
    they are resized twice. A class is out where its largest of these is below the least
    of another.

    Args:
        logits: (K, h, w).
        size: To which they are resized first.
    """
    if size[0] < logits.shape[1] or size[1] < logits.shape[2]:
        return torch.arange(len(logits))
    maps = logits[None].contiguous(memory_format=torch.channels_last)
    largest, least = F.max_pool2d(maps, 3, 1, 1), -F.max_pool2d(-maps, 3, 1, 1)
    out = largest < least.amax(1, keepdim=True)  # never where there are NaN
    return out[0].flatten(1).all(1).logical_not().nonzero().flatten()


@dataclass(frozen=True)
class _Rows:
    """Logits that are computed by bands of rows.

    Attributes:
        height: Rows.
        width: Cells of a row.
        align_corners: See `torch.nn.functional.interpolate`.
        band: Number of the first row and of the one after the last to (rows, width, K).
    """

    height: int
    width: int
    align_corners: bool
    band: Callable[[int, int], Tensor]

    @classmethod
    def of(cls, logits: Tensor, align_corners: bool) -> '_Rows':
        cells = logits.permute(1, 2, 0).contiguous()  # (K, h, w) -> (h, w, K)
        height, width = cells.shape[:2]
        return cls(height, width, align_corners, lambda first, end: cells[first:end])

    def resized(self, size: tuple[int, int]) -> '_Rows':
        if size == (self.height, self.width):
            return self
        height, width = size
        above, share = _sources(self.height, height, self.align_corners)
        below = (above + 1).clamp(max=self.height - 1)

        def band(first: int, end: int) -> Tensor:
            start = int(above[first])
            rows = self.band(start, int(below[end - 1]) + 1)
            upper, lower = (rows[part[first:end] - start] for part in (above, below))
            mixed = torch.lerp(upper, lower, share[first:end, None, None].to(rows))
            maps = F.interpolate(
                mixed[None].permute(0, 3, 1, 2),
                (end - first, width),
                mode='bilinear',
                align_corners=self.align_corners,
            )
            return maps[0].permute(1, 2, 0)

        return _Rows(height, width, self.align_corners, band)

    def cropped(self, left: int, right: int, top: int, bottom: int) -> '_Rows':
        height, width = self.height - top - bottom, self.width - left - right

        def band(first: int, end: int) -> Tensor:
            return self.band(first + top, end + top)[:, left : left + width]

        return _Rows(height, width, self.align_corners, band)

    def flipped(self, direction: str) -> '_Rows':
        def band(first: int, end: int) -> Tensor:
            if direction == 'horizontal':
                return self.band(first, end).flip(1)
            return self.band(self.height - end, self.height - first).flip(0)

        return _Rows(self.height, self.width, self.align_corners, band)

    def best(self, classes: int) -> Tensor:
        """Return the class of the largest logit of each cell, (height, width)."""
        step = max(BAND // (classes * self.width), 1)
        bands = (
            self.band(first, min(first + step, self.height))
            for first in range(0, self.height, step)
        )
        return torch.cat([band.max(-1).indices for band in bands])


def _sources(given: int, wanted: int, align_corners: bool) -> tuple[Tensor, Tensor]:
    """Return the row above each wanted one, and the share of the row below it.

    As torch has them in its bilinear interpolation, digit by digit.
    """
    rows = torch.arange(wanted, dtype=torch.float32)
    if align_corners:
        places = rows * ((given - 1) / max(wanted - 1, 1))
    else:
        places = ((rows + 0.5) * (given / wanted) - 0.5).clamp(min=0)
    above = places.long().clamp(max=given - 1)
    return above, places - above
