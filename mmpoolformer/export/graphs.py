"""What an exported file computes: backbones, classifiers, detectors, segmentors.

Every graph takes normalised images (B, C, H, W) and is a copy, so that the model it was
made of stays as it is. What follows the network of mmdet's and mmseg's models in their
own code to the boxes and masks is part of the graph, written so that image sizes may
change; `Graph.eager` runs their own code for comparison.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from mmengine.config import ConfigDict
from torch import Tensor, nn
from torch.nn import functional as F

from mmpoolformer.export.boxes import BoxGraph, BoxSettings, Detections, box_settings
from mmpoolformer.export.two_stage import TwoStageGraph, two_stage_settings
from mmpoolformer.models import (
    MetaFormer,
    MetaFormerClassifier,
    PiT,
    PiTClassifier,
)
from mmpoolformer.models.token_mixers import Attention, GridMixing

BACKBONES = (MetaFormer, PiT)
CLASSIFIERS = (MetaFormerClassifier, PiTClassifier)


@dataclass(frozen=True)
class Graph:
    """A module to export, and what to compare it with.

    Attributes:
        kind: `'backbone'`, `'classifier'`, `'detector'` or `'segmentor'`.
        module: From images (B, C, H, W) to a tuple of tensors; in evaluation mode. For
            detectors of one stage these are candidates, for those of two detections
            of any score.
        outputs: A name and the names of the dimensions of each, such as
            `('batch', 'classes')`. Only dimensions that end in `batch`, `height` or
            `width` change with the input.
        eager: Images to the same outputs, for comparison: the model's own code, or the
            module where the model has none that ends there.
        in_channels: Channels of the images.
        align_corners: For segmentors, how the logits are resized bilinearly to the
            images' size, see `torch.nn.functional.interpolate`. A file leaves that to
            its user: it is most of what it would have to write.
        boxes: For detectors, how boxes are chosen.
        detect: For detectors, the module with the suppression of overlapping boxes.
        find: For detectors, the model's own code to the end: images and a score
            threshold to a `(boxes, scores, labels)` for each image, or
            `(boxes, scores, labels, masks)`, sorted by falling score.
    """

    kind: str
    module: nn.Module
    outputs: Mapping[str, Sequence[str]]
    eager: Callable[[Tensor], tuple[Tensor, ...]] | None
    in_channels: int = 3
    align_corners: bool | None = None
    boxes: BoxSettings | None = None
    detect: nn.Module | None = None
    find: Callable[[Tensor, float], list[tuple[Tensor, ...]]] | None = None


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
        return _two_stage_graph(model)
    if hasattr(model, 'bbox_head'):
        return _one_stage_graph(model)
    raise ValueError(
        f'{type(model).__name__}: not exported; known are backbones and classifiers of '
        'this package, RetinaNet, Mask R-CNN, Faster R-CNN and Semantic FPN'
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


class SegmentorGraph(nn.Module):
    """An encoder-decoder of mmseg, to the logits of its head.

    Args:
        model: The segmentor; it is copied.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        for part in list(self.model.modules()):
            for name, child in part.named_children():
                if type(child).__name__ == 'Upsample':
                    setattr(part, name, _upsample(child))

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Return logits (B, K, h, w) of images (B, C, H, W)."""
        return (self.model.decode_head(self.model.extract_feat(images)),)


def _upsample(layer: nn.Module) -> nn.Module:
    """Return torch's own layer for mmseg's, which makes numbers of the size."""
    return nn.Upsample(
        size=layer.size,
        scale_factor=layer.scale_factor,
        mode=layer.mode,
        align_corners=layer.align_corners,
    )


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
        return (model(images, mode='tensor'),)

    return Graph(
        kind='segmentor',
        module=SegmentorGraph(model).eval(),
        outputs={'logits': ('batch', 'classes', 'logits_height', 'logits_width')},
        eager=eager,
        in_channels=getattr(model.backbone, 'in_channels', 3),
        align_corners=model.align_corners,
    )


def _one_stage_graph(model: nn.Module) -> Graph:
    settings = box_settings(model.bbox_head)
    module = BoxGraph(model, model.bbox_head, settings.per_level, False).eval()

    def find(images: Tensor, threshold: float) -> list[tuple[Tensor, ...]]:
        maps = model.neck(model.backbone(images))
        found = _predict(model.bbox_head, images, maps, score_thr=threshold)
        return [(one.bboxes, one.scores, one.labels) for one in found]

    return Graph(
        kind='detector',
        module=module,
        outputs=_box_outputs('candidates'),
        eager=module,
        in_channels=getattr(model.backbone, 'in_channels', 3),
        boxes=settings,
        detect=Detections(module, settings),
        find=find,
    )


def _two_stage_graph(model: nn.Module) -> Graph:
    proposals, settings = box_settings(model.rpn_head), two_stage_settings(model)
    detect = TwoStageGraph(model, proposals, settings).eval()
    # A trained model finds nothing in noise, so there would be nothing to compare.
    everything = copy.copy(detect)
    everything.settings = replace(settings, score_threshold=0.0)

    def find(images: Tensor, threshold: float) -> list[tuple[Tensor, ...]]:
        maps = model.neck(model.backbone(images))
        boxes = _predict(model.rpn_head, images, maps)
        rule = {**model.roi_head.test_cfg, 'score_thr': threshold}
        found = model.roi_head.predict_bbox(
            maps, _metas(images), boxes, ConfigDict(rule), rescale=False
        )
        rows = [(one.bboxes, one.scores, one.labels) for one in found]
        if not model.roi_head.with_mask:
            return rows
        return [(*row, _masks(model, maps, i, *row)) for i, row in enumerate(rows)]

    outputs = _box_outputs('detections')
    if model.roi_head.with_mask:
        outputs['masks'] = ('batch', 'detections', 'rows', 'columns')
    return Graph(
        kind='detector',
        module=everything,
        outputs=outputs,
        eager=None,
        in_channels=getattr(model.backbone, 'in_channels', 3),
        boxes=settings,
        detect=detect,
        find=find,
    )


def _box_outputs(name: str) -> dict[str, tuple[str, ...]]:
    return {
        'boxes': ('batch', name, 'corners'),
        'scores': ('batch', name),
        'labels': ('batch', name),
    }


def _metas(images: Tensor) -> list[dict]:
    size = tuple(images.shape[2:])
    return [dict(img_shape=size, scale_factor=(1.0, 1.0))] * len(images)


def _predict(
    head: nn.Module, images: Tensor, maps: Sequence[Tensor], **changes: float
) -> list:
    """Run mmdet's own code of an anchor head to its boxes."""
    return head.predict_by_feat(
        *head(maps),
        batch_img_metas=_metas(images),
        cfg=ConfigDict({**head.test_cfg, **changes}),
        rescale=False,
    )


def _masks(
    model: nn.Module,
    maps: Sequence[Tensor],
    image: int,
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
) -> Tensor:
    """Run mmdet's own code to the masks (M, h, w) of an image's boxes."""
    rois = F.pad(boxes, (1, 0), value=float(image))
    masks = model.roi_head._mask_forward(maps, rois)['mask_preds'].sigmoid()
    if model.roi_head.mask_head.class_agnostic:
        return masks[:, 0]
    return masks[range(len(labels)), labels]
