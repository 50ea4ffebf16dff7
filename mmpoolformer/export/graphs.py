"""What an exported file computes: backbones, classifiers, detectors, segmentors.

Every graph takes normalised images (B, C, H, W) and is a copy, so that the model it was
made of stays as it is. What follows the network of mmdet's and mmseg's models in their
own code (decoding of boxes, resizing of logits) is part of the graph, written so that
image sizes may change; `Graph.eager` runs their own code for comparison.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmpoolformer.models import (
    MetaFormer,
    MetaFormerClassifier,
    PiT,
    PiTClassifier,
)
from mmpoolformer.models.token_mixers import Attention, GridMixing

BACKBONES = (MetaFormer, PiT)
CLASSIFIERS = (MetaFormerClassifier, PiTClassifier)
# mmdet's clip of how much a box may differ in size from its anchor.
WIDEST = abs(math.log(16 / 1000))


@dataclass(frozen=True)
class BoxSettings:
    """How a detector's candidates become detections.

    Attributes:
        score_threshold: Least score, exclusive.
        iou_threshold: Overlap from which the weaker of two boxes with one label goes.
        max_boxes: Boxes kept for one image.
        per_level: Candidates of each level of the pyramid.
    """

    score_threshold: float
    iou_threshold: float
    max_boxes: int
    per_level: int


@dataclass(frozen=True)
class Graph:
    """A module to export, and what to compare it with.

    Attributes:
        kind: `'backbone'`, `'classifier'`, `'detector'`, `'proposals'` (what the first
            half of a Mask R-CNN finds) or `'segmentor'`.
        module: From images (B, C, H, W) to a tuple of tensors; in evaluation mode.
        outputs: A name and the names of the dimensions of each, such as
            `('batch', 'classes')`. Only dimensions that end in `batch`, `height` or
            `width` change with the input.
        eager: Images to the same outputs, for comparison: the model's own code, or the
            module where the model has none that ends there.
        in_channels: Channels of the images.
        boxes: For kinds with boxes, how they are chosen.
        find: For kinds with boxes, the model's own code to the end: images to a
            `(boxes, scores, labels)` for each image, sorted by falling score.
    """

    kind: str
    module: nn.Module
    outputs: Mapping[str, Sequence[str]]
    eager: Callable[[Tensor], tuple[Tensor, ...]]
    in_channels: int = 3
    boxes: BoxSettings | None = None
    find: Callable[[Tensor], list[tuple[Tensor, ...]]] | None = None


def build_graph(model: nn.Module) -> Graph:
    """Return what to export of a model.

    Args:
        model: A backbone or classifier of this package, an `ImageClassifier`, or a
            RetinaNet, Mask R-CNN or Faster R-CNN of mmdet or encoder-decoder of mmseg.

    Raises:
        ValueError: If it is none of these, or has parts that can't be exported.
    """
    if isinstance(model, BACKBONES):
        return _backbone_graph(model)
    if isinstance(model, CLASSIFIERS):
        return _classifier_graph(model)
    if isinstance(getattr(model, 'backbone', None), CLASSIFIERS):
        return _classifier_graph(model.backbone)
    if hasattr(model, 'decode_head'):
        return _segmentor_graph(model)
    if hasattr(model, 'rpn_head'):
        return _box_graph(model, model.rpn_head, 'proposals')
    if hasattr(model, 'bbox_head'):
        return _box_graph(model, model.bbox_head, 'detector')
    raise ValueError(
        f'{type(model).__name__}: not exported; known are backbones and classifiers of '
        'this package, RetinaNet, Mask R-CNN (up to its proposals) and Semantic FPN'
    )


def fixed_parts(model: nn.Module) -> list[str]:
    """Name what takes images of one size only: mixers with `strict_size=True`."""
    return [
        f'{name} ({type(part).__name__}, strict_size=True)'
        for name, part in model.named_modules()
        if isinstance(part, GridMixing) and part.strict
    ]


def windowed_parts(model: nn.Module) -> list[str]:
    """Name what cuts maps into windows, or sizes up maps as PiT does."""
    found = []
    for name, part in model.named_modules():
        windows = isinstance(part, Attention) and part.window is not None
        if windows or isinstance(part, GridMixing | PiT):
            found.append(f'{name} ({type(part).__name__})'.strip())
    return found


class Tuple(nn.Module):
    """A network whose one output comes as a tuple.

    Args:
        network: The network.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Run the network on images (B, C, H, W)."""
        return (self.network(images),)


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
        for name in ('means', 'stds'):
            values = getattr(head.bbox_coder, name)
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Find candidates in images (B, C, H, W).

        Returns:
            Boxes (B, N, 4) as left, top, right, bottom in pixels of the input, clipped
            to it; scores (B, N), falling within each level; labels (B, N). N is the
            number of levels times `per_level`.
        """
        maps = zip(*self.head(self.neck(self.backbone(images))), strict=True)
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
        boxes = self._decoded(anchors[places], deltas.gather(1, index), images)
        if self.min_size >= 0:
            scores = scores * self._large_enough(boxes).to(scores.dtype)
        if self.label_levels:
            labels = torch.zeros_like(labels) + level
        return boxes, scores, labels

    def _decoded(self, anchors: Tensor, deltas: Tensor, images: Tensor) -> Tensor:
        """Move and resize anchors (B, N, 4), and clip them to the images."""
        deltas = deltas * self.stds + self.means
        sizes = anchors[..., 2:] - anchors[..., :2]
        centres = (anchors[..., 2:] + anchors[..., :2]) / 2 + sizes * deltas[..., :2]
        half = sizes * deltas[..., 2:].clamp(-WIDEST, WIDEST).exp() / 2
        corners = torch.cat((centres - half, centres + half), 2)
        height, width = _numbers(images)
        limits = torch.stack((width, height, width, height)).to(corners.dtype)
        return torch.minimum(corners.clamp(min=0), limits)

    def _large_enough(self, boxes: Tensor) -> Tensor:
        sizes = boxes[..., 2:] - boxes[..., :2]
        return (sizes > self.min_size).all(2)


class SegmentorGraph(nn.Module):
    """An encoder-decoder of mmseg, to logits of the images' size.

    Args:
        model: The segmentor; it is copied.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        self.align_corners = model.decode_head.align_corners
        for part in list(self.model.modules()):
            for name, child in part.named_children():
                if type(child).__name__ == 'Upsample':
                    setattr(part, name, _upsample(child))

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Return logits (B, K, H, W) of images (B, C, H, W)."""
        logits = self.model.decode_head(self.model.extract_feat(images))
        logits = F.interpolate(
            logits,
            (images.shape[2], images.shape[3]),
            mode='bilinear',
            align_corners=self.align_corners,
        )
        return (logits,)


def _upsample(layer: nn.Module) -> nn.Module:
    """Return torch's own layer for mmseg's, which makes numbers of the size."""
    return nn.Upsample(
        size=layer.size,
        scale_factor=layer.scale_factor,
        mode=layer.mode,
        align_corners=layer.align_corners,
    )


def _numbers(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return height and width of images as tensors that the graph computes."""
    # A sum of ones, because no other way is known to all kinds of graphs.
    height, width = (images.new_ones(images.shape[i]).sum() for i in (2, 3))
    return height, width


def _backbone_graph(model: nn.Module) -> Graph:
    return Graph(
        kind='backbone',
        module=copy.deepcopy(model).eval(),
        outputs={
            f'stage{i}': ('batch', 'channels', f'stage{i}_height', f'stage{i}_width')
            for i in model.out_indices
        },
        eager=model,
        in_channels=model.in_channels,
    )


def _classifier_graph(model: nn.Module) -> Graph:
    return Graph(
        kind='classifier',
        module=Tuple(copy.deepcopy(model)).eval(),
        outputs={'logits': ('batch', 'classes')},
        eager=Tuple(model),
        in_channels=model.in_channels,
    )


def _segmentor_graph(model: nn.Module) -> Graph:
    if model.test_cfg.get('mode', 'whole') != 'whole':
        raise ValueError(
            f'test_cfg.mode={model.test_cfg.mode}: only segmentors that see whole '
            'images are exported; change it by --cfg-options model.test_cfg.mode=whole'
        )

    def eager(images: Tensor) -> tuple[Tensor]:
        size = tuple(images.shape[2:])
        meta = dict(ori_shape=size, img_shape=size, pad_shape=size)
        return (model.encode_decode(images, [meta] * len(images)),)

    return Graph(
        kind='segmentor',
        module=SegmentorGraph(model).eval(),
        outputs={'logits': ('batch', 'classes', 'height', 'width')},
        eager=eager,
        in_channels=getattr(model.backbone, 'in_channels', 3),
    )


def _box_graph(model: nn.Module, head: nn.Module, kind: str) -> Graph:
    settings = _box_settings(head)
    module = BoxGraph(model, head, settings.per_level, kind == 'proposals').eval()

    def find(images: Tensor) -> list[tuple[Tensor, ...]]:
        size = tuple(images.shape[2:])
        metas = [dict(img_shape=size, scale_factor=(1.0, 1.0))] * len(images)
        maps = head(model.neck(model.backbone(images)))
        found = head.predict_by_feat(*maps, batch_img_metas=metas, rescale=False)
        if kind == 'proposals':  # mmdet forgets the levels
            labels = [torch.full_like(one.labels, -1) for one in found]
        else:
            labels = [one.labels for one in found]
        return [
            (one.bboxes, one.scores, label)
            for one, label in zip(found, labels, strict=True)
        ]

    return Graph(
        kind=kind,
        module=module,
        outputs={
            'boxes': ('batch', 'candidates', 'corners'),
            'scores': ('batch', 'candidates'),
            'labels': ('batch', 'candidates'),
        },
        eager=module,
        in_channels=getattr(model.backbone, 'in_channels', 3),
        boxes=settings,
        find=find,
    )


def _box_settings(head: nn.Module) -> BoxSettings:
    """Read how boxes are chosen.

    Raises:
        ValueError: If the graph or its NMS would choose in another way.
    """
    known = {'RetinaHead', 'RPNHead'}
    if type(head).__name__ not in known:
        raise ValueError(
            f'{type(head).__name__}: boxes are exported for {" and ".join(known)} only'
        )
    coder, settings = head.bbox_coder, head.test_cfg
    suppression = dict(settings.nms)
    wrong = {
        'loss_cls.use_sigmoid=False': not head.use_sigmoid_cls,
        f'bbox_coder={type(coder).__name__}': type(coder).__name__
        != 'DeltaXYWHBBoxCoder',
        'bbox_coder.add_ctr_clamp=True': coder.add_ctr_clamp,
        'bbox_coder.clip_border=False': not coder.clip_border,
        f'test_cfg.nms={suppression}': suppression.get('type', 'nms') != 'nms',
        'test_cfg.nms_pre': settings.get('nms_pre', -1) < 1,
    }
    found = [name for name, is_wrong in wrong.items() if is_wrong]
    if found:
        raise ValueError(f'{type(head).__name__} with {", ".join(found)}: not exported')
    return BoxSettings(
        score_threshold=float(settings.get('score_thr', 0.0)),
        iou_threshold=float(suppression['iou_threshold']),
        max_boxes=int(settings.max_per_img),
        per_level=int(settings.nms_pre),
    )
