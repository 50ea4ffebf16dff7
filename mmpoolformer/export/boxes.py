"""Boxes in an exported file: candidates of an anchor head, and what is left of them.

The suppression of overlapping boxes is an operator of ONNX; files of other formats
can't hold it.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import nms

# mmdet's clip of how much a box may differ in size from its anchor.
WIDEST = abs(math.log(16 / 1000))


@dataclass(frozen=True)
class BoxSettings:
    """How a detector's candidates become detections.

    Attributes:
        score_threshold: Least score, exclusive.
        iou_threshold: Overlap from which the weaker of two boxes with one label goes.
        max_boxes: Boxes kept for one image.
        per_level: Candidates of each level of the pyramid, for an anchor head.
        mask_threshold: From which a mask's values are inside, if there are masks.
    """

    score_threshold: float
    iou_threshold: float
    max_boxes: int
    per_level: int | None = None
    mask_threshold: float | None = None


class BoxDecoder(nn.Module):
    """From anchors or proposals to the boxes that a head moves them to.

    Args:
        coder: A `DeltaXYWHBBoxCoder` of mmdet.
    """

    def __init__(self, coder: object) -> None:
        super().__init__()
        for name in ('means', 'stds'):
            values = getattr(coder, name)
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))

    def forward(self, anchors: Tensor, deltas: Tensor, images: Tensor) -> Tensor:
        """Move and resize anchors (B, N, 4), and clip them to the images."""
        deltas = deltas * self.stds + self.means
        sizes = anchors[..., 2:] - anchors[..., :2]
        centres = (anchors[..., 2:] + anchors[..., :2]) / 2 + sizes * deltas[..., :2]
        half = sizes * deltas[..., 2:].clamp(-WIDEST, WIDEST).exp() / 2
        corners = torch.cat((centres - half, centres + half), 2)
        height, width = _numbers(images)
        limits = torch.stack((width, height, width, height)).to(corners.dtype)
        return torch.minimum(corners.clamp(min=0), limits)


class BoxGraph(nn.Module):
    """Backbone, neck and anchor head of mmdet, to candidates for boxes.

    As `BaseDenseHead.predict_by_feat` of mmdet does it: of every level of the pyramid
    the candidates of the highest scores, each a pair of an anchor and a class, with the
    box that the anchor is moved to. What follows there, the threshold and the
    suppression of overlapping boxes (NMS), is not in here.

    Args:
        model: A detector; it is copied.
        head: Its `bbox_head` or `rpn_head`.
        per_level: Candidates of each level. Levels with fewer fill up with score 0.
        label_levels: Whether labels are levels of the pyramid, not classes.
    """

    def __init__(
        self, model: nn.Module, head: nn.Module, per_level: int, label_levels: bool
    ) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(model.backbone)
        self.neck = copy.deepcopy(model.neck)
        self.head = copy.deepcopy(head)
        self.per_level = per_level
        self.label_levels = label_levels
        self.min_size = head.test_cfg.get('min_bbox_size', -1)
        self.decoder = BoxDecoder(head.bbox_coder)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Find candidates in images (B, C, H, W)."""
        return self.candidates(images, self.maps(images))

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of the pyramid."""
        return self.neck(self.backbone(images))

    def candidates(
        self, images: Tensor, pyramid: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Find candidates in the maps of images.

        Returns:
            Boxes (B, N, 4) as left, top, right, bottom in pixels of the input, clipped
            to it; scores (B, N), falling within each level; labels (B, N). N is the
            number of levels times `per_level`.
        """
        maps = zip(*self.head(pyramid), strict=True)
        found = [self._level(i, images, *pair) for i, pair in enumerate(maps)]
        # Of every level a triple -> of every output all levels.
        parts = zip(*found, strict=True)
        boxes, scores, labels = (torch.cat(levels, 1) for levels in parts)
        return boxes, scores, labels

    def _level(
        self, level: int, images: Tensor, logits: Tensor, deltas: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the best candidates of one level of the pyramid."""
        batch, classes = images.shape[0], self.head.cls_out_channels
        # (B, A * K, H, W) -> (B, H * W * A * K)
        scores = logits.permute(0, 2, 3, 1).reshape(batch, -1).sigmoid()
        anchors = self.head.prior_generator.single_level_grid_priors(
            (logits.shape[2], logits.shape[3]), level, device=logits.device
        )
        deltas = deltas.permute(0, 2, 3, 1).reshape(batch, -1, 4)  # (B, H * W * A, 4)
        # So that there are enough to take, whatever the size of the map is.
        scores = F.pad(scores, (0, self.per_level))
        more = -(-self.per_level // classes)
        anchors, deltas = (F.pad(x, (0, 0, 0, more)) for x in (anchors, deltas))
        scores, places = scores.topk(self.per_level, dim=1)
        labels = places % classes
        places = torch.div(places, classes, rounding_mode='floor')
        index = places.unsqueeze(2).expand(-1, -1, 4)
        boxes = self.decoder(anchors[places], deltas.gather(1, index), images)
        if self.min_size >= 0:
            sizes = boxes[..., 2:] - boxes[..., :2]
            scores = scores * (sizes > self.min_size).all(2).to(scores.dtype)
        if self.label_levels:
            labels = torch.zeros_like(labels) + level
        return boxes, scores, labels


def _numbers(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return height and width of images as tensors that the graph computes."""
    # A sum of ones, because no other way is known to all kinds of graphs.
    height, width = (images.new_ones(images.shape[i]).sum() for i in (2, 3))
    return height, width


class NonMaxSuppression(torch.autograd.Function):
    """ONNX's operator of this name: the best boxes, without those that overlap."""

    @staticmethod
    def forward(
        ctx: object,
        boxes: Tensor,
        scores: Tensor,
        max_boxes: int,
        iou_threshold: float,
        score_threshold: float,
    ) -> Tensor:
        """Choose among boxes (B, N, 4) by scores (B, 1, N).

        Returns:
            Image, 0 and box of those that stay (F, 3).
        """
        found = []
        for i, (box, score) in enumerate(zip(boxes, scores[:, 0], strict=True)):
            order = score.argsort(descending=True)[: (score > score_threshold).sum()]
            # The strongest first: mostly they are enough, and all of them take long.
            for size in (10 * max_boxes, len(order)):
                top = order[:size]
                kept = top[nms(box[top], score[top], iou_threshold)[:max_boxes]]
                if len(kept) == max_boxes:
                    break
            found.append(torch.stack((torch.full_like(kept, i), kept * 0, kept), 1))
        return torch.cat(found)

    @staticmethod
    def symbolic(
        g: object,
        boxes: object,
        scores: object,
        max_boxes: int,
        iou_threshold: float,
        score_threshold: float,
    ) -> object:
        """Return the operator for torch's exporter."""
        numbers = [
            g.op('Constant', value_t=torch.tensor([value]))
            for value in (max_boxes, iou_threshold, score_threshold)
        ]
        return g.op('NonMaxSuppression', boxes, scores, *numbers)


def suppressed(
    boxes: Tensor, scores: Tensor, labels: Tensor, settings: BoxSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose detections among candidates.

    Of overlapping boxes with one label the weaker ones go, as in mmcv's `batched_nms`:
    boxes are moved so far apart by label that those of two labels never meet.

    Args:
        boxes: Candidates (B, N, 4).
        scores: Theirs (B, N).
        labels: Theirs (B, N).
        settings: How boxes are chosen.

    Returns:
        Boxes (B, M, 4), scores (B, M), falling, and labels (B, M), with
        M = `settings.max_boxes`. Where fewer are found, the rest has score 0 and
        label -1.
    """
    shift = labels.to(boxes.dtype) * (boxes.max() + 1)
    found = NonMaxSuppression.apply(
        boxes + shift.unsqueeze(2),
        scores.unsqueeze(1),
        settings.max_boxes,
        settings.iou_threshold,
        settings.score_threshold,
    )
    places = found[:, 0] * scores.shape[1] + found[:, 2]
    flat = scores.flatten()
    kept = torch.zeros_like(flat).scatter(0, places, flat.gather(0, places))
    scores, order = kept.reshape(scores.shape).topk(settings.max_boxes, dim=1)
    none = torch.full_like(order, -1)
    labels = torch.where(scores > 0, labels.gather(1, order), none)
    return boxes.gather(1, order.unsqueeze(2).expand(-1, -1, 4)), scores, labels


class Detections(nn.Module):
    """A `BoxGraph` to its end, the suppression of overlapping boxes.

    Args:
        graph: It gives the candidates.
        settings: How boxes are chosen.
    """

    def __init__(self, graph: BoxGraph, settings: BoxSettings) -> None:
        super().__init__()
        self.graph, self.settings = graph, settings

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Find boxes, scores and labels in images (B, C, H, W)."""
        return suppressed(*self.graph(images), self.settings)


def box_settings(head: nn.Module) -> BoxSettings:
    """Read how boxes of an anchor head are chosen.

    Raises:
        ValueError: If the graph or its NMS would choose in another way.
    """
    known = ('RetinaHead', 'RPNHead')
    if type(head).__name__ not in known:
        raise ValueError(
            f'{type(head).__name__}: boxes are exported for {" and ".join(known)} only'
        )
    settings = head.test_cfg
    wrong = {
        'loss_cls.use_sigmoid=False': not head.use_sigmoid_cls,
        'test_cfg.nms_pre': settings.get('nms_pre', -1) < 1,
    }
    refuse(head, wrong | wrong_boxes(head.bbox_coder, settings))
    return BoxSettings(
        score_threshold=float(settings.get('score_thr', 0.0)),
        iou_threshold=float(settings.nms['iou_threshold']),
        max_boxes=int(settings.max_per_img),
        per_level=int(settings.nms_pre),
    )


def wrong_boxes(coder: object, settings: Mapping) -> dict[str, bool]:
    """Name what is decoded or suppressed in another way, each with whether it is."""
    suppression = dict(settings['nms'])
    kind = type(coder).__name__
    return {
        f'bbox_coder={kind}': kind != 'DeltaXYWHBBoxCoder',
        'bbox_coder.add_ctr_clamp=True': getattr(coder, 'add_ctr_clamp', False),
        'bbox_coder.clip_border=False': not getattr(coder, 'clip_border', True),
        f'test_cfg.nms={suppression}': suppression.get('type', 'nms') != 'nms',
    }


def refuse(part: nn.Module, wrong: Mapping[str, bool]) -> None:
    """Refuse a part of a model with settings that are not exported.

    Raises:
        ValueError: If one of them is true.
    """
    found = [name for name, is_wrong in wrong.items() if is_wrong]
    if found:
        raise ValueError(f'{type(part).__name__} with {", ".join(found)}: not exported')
