"""Mask R-CNN and Faster R-CNN of mmdet in an exported file, from images to masks."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from mmpoolformer.export.boxes import (
    BoxDecoder,
    BoxGraph,
    BoxSettings,
    refuse,
    suppressed,
    wrong_boxes,
)


class TwoStageGraph(nn.Module):
    """A two-stage detector, to its detections and their masks.

    As `StandardRoIHead.predict` of mmdet does it, except that every image has
    the same number of proposals and detections, the rest filled up with score 0.

    Args:
        model: A Faster R-CNN or Mask R-CNN; it is copied.
        proposals: How proposals are chosen.
        settings: How detections are chosen.
    """

    def __init__(
        self, model: nn.Module, proposals: BoxSettings, settings: BoxSettings
    ) -> None:
        super().__init__()
        self.first = BoxGraph(model, model.rpn_head, proposals.per_level, True)
        self.second = copy.deepcopy(model.roi_head)
        self.decoder = BoxDecoder(self.second.bbox_head.bbox_coder)
        self.proposals, self.settings = proposals, settings

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Find what is in images (B, C, H, W).

        Returns:
            Boxes (B, M, 4), scores (B, M) and labels (B, M) as `suppressed` gives them
            and, if the model has masks, the mask of each box (B, M, h, w), from 0 to 1.
        """
        maps = self.first.maps(images)
        found = suppressed(*self.first.candidates(images, maps), self.proposals)
        found = suppressed(*self._moved(images, maps, *found[:2]), self.settings)
        return (*found, self._masks(maps, *found)) if self.second.with_mask else found

    def _moved(
        self, images: Tensor, maps: Sequence[Tensor], boxes: Tensor, scores: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return a candidate for each pair of a proposal and a class."""
        batch, head = images.shape[0], self.second.bbox_head
        cut = _cut_out(self.second.bbox_roi_extractor, maps, boxes)
        logits, deltas = head(cut)
        # What fills up the proposals is nothing.
        chances = logits.softmax(1)[:, :-1] * (scores.reshape(-1, 1) > 0)
        classes = chances.shape[1]
        deltas = deltas.reshape(-1, 1 if head.reg_class_agnostic else classes, 4)
        deltas = deltas.expand(-1, classes, 4).reshape(batch, -1, 4)
        boxes = boxes.unsqueeze(2).expand(-1, -1, classes, 4).reshape(batch, -1, 4)
        chances = chances.reshape(batch, -1)
        labels = torch.arange(classes).repeat(batch, scores.shape[1])
        return self.decoder(boxes, deltas, images), chances, labels

    def _masks(
        self, maps: Sequence[Tensor], boxes: Tensor, scores: Tensor, labels: Tensor
    ) -> Tensor:
        """Return the mask of each box for its own class (B, M, h, w)."""
        head = self.second.mask_head
        masks = head(_cut_out(self.second.mask_roi_extractor, maps, boxes)).sigmoid()
        own = labels.clamp(min=0) * (0 if head.class_agnostic else 1)
        own = own.reshape(-1, 1, 1, 1).expand(-1, 1, masks.shape[2], masks.shape[3])
        masks = masks.gather(1, own).reshape(*labels.shape, *masks.shape[2:])
        return masks * (scores > 0)[:, :, None, None]


def two_stage_settings(model: nn.Module) -> BoxSettings:
    """Read how a two-stage detector chooses its detections.

    Raises:
        ValueError: If the graph can't do what the model does.
    """
    second = model.roi_head
    kind = type(second).__name__
    if kind != 'StandardRoIHead':
        raise ValueError(f'{kind}: boxes are exported for StandardRoIHead only')
    head, settings = second.bbox_head, second.test_cfg
    wrong = {
        'shared_head': second.with_shared_head,
        'bbox_head.with_reg=False': not head.with_reg,
        f'loss_cls={type(head.loss_cls).__name__}': head.custom_cls_channels,
        **wrong_boxes(head.bbox_coder, settings),
        **_wrong_extractor(second.bbox_roi_extractor),
    }
    if second.with_mask:
        name = type(second.mask_head).__name__
        wrong[f'mask_head={name}'] = name != 'FCNMaskHead'
        wrong |= _wrong_extractor(second.mask_roi_extractor)
    refuse(second, wrong)
    return BoxSettings(
        score_threshold=float(settings.score_thr),
        iou_threshold=float(settings.nms['iou_threshold']),
        max_boxes=int(settings.max_per_img),
        mask_threshold=float(settings.mask_thr_binary) if second.with_mask else None,
    )


def _wrong_extractor(extractor: nn.Module) -> dict[str, bool]:
    kind = type(extractor).__name__
    layers = [(type(one).__name__, one.pool_mode) for one in extractor.roi_layers]
    return {
        f'roi_extractor={kind}': kind != 'SingleRoIExtractor',
        f'roi_layer={layers[0]}': set(layers) != {('RoIAlign', 'avg')},
    }


def _cut_out(extractor: nn.Module, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """Cut boxes (B, M, 4) out of the maps of the levels that fit their sizes.

    Returns:
        The cut-outs (B * M, C, h, w).
    """
    batch, count = boxes.shape[:2]
    images = torch.arange(batch).to(boxes).reshape(-1, 1, 1).expand(batch, count, 1)
    rois = torch.cat((images, boxes), 2).reshape(-1, 5)
    levels = extractor.map_roi_levels(rois, extractor.num_inputs)
    places, parts = [], []
    for i, layer in enumerate(extractor.roi_layers):
        places.append((levels == i).nonzero().squeeze(1))
        # Not mmcv's operator: this one the exporter knows.
        parts.append(
            roi_align(
                maps[i],
                rois[places[i]],
                layer.output_size,
                layer.spatial_scale,
                max(layer.sampling_ratio, 0),
                layer.aligned,
            )
        )
    return torch.cat(parts)[torch.cat(places).argsort()]
