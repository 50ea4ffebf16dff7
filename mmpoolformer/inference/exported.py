"""Exported files in place of the networks of configs' models.

What comes before and after the network stays the model's own: its data preprocessor,
the resizing of logits, the scaling of boxes, the pasting of masks.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from os import PathLike

import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmpoolformer.classification.classifier import ImageClassifier
from mmpoolformer.inference.engines import Engine
from mmpoolformer.inference.weights import Weights, fill_from_config
from mmpoolformer.utils.errors import UserError

BOXES = {'boxes', 'scores', 'labels'}
BYTE = 255


class ExportedNetwork(nn.Module):
    """A file that stands for a network.

    Args:
        engine: The file.
        in_channels: Channels of its images.
        num_classes: Of a classifier.
    """

    def __init__(
        self, engine: Engine, in_channels: int = 3, num_classes: int | None = None
    ) -> None:
        super().__init__()
        self.engine = engine
        self.in_channels, self.num_classes = in_channels, num_classes
        # Tells where images are expected, as the weights of other networks do.
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        """Return the outputs for images (B, C, H, W) by name; logits as they are."""
        found = self.engine(images.cpu().numpy())
        tensors = {
            name: torch.from_numpy(value).to(images.device)
            for name, value in found.items()
        }
        return tensors['logits'] if tensors.keys() == {'logits'} else tensors


def run_exported(model: nn.Module, engine: Engine) -> None:
    """Let a file compute in place of a model's network; the model moves to the CPU.

    Args:
        model: A model of a config: a classifier of this package, a detector of mmdet or
            a segmentor of mmseg.
        engine: A file that was exported of such a model.

    Raises:
        UserError: If it holds another kind of model, for other classes, or takes images
            that are normalised in another way.
    """
    _check(model, engine)
    channels = getattr(model.backbone, 'in_channels', 3)
    classes = getattr(model.backbone, 'num_classes', None)
    model.backbone = ExportedNetwork(engine, channels, classes)
    if hasattr(model, 'decode_head'):
        model.neck, model.decode_head.forward = None, _unchanged
    elif not isinstance(model, ImageClassifier):
        model.predict = partial(_detect, model)
    model.cpu().eval()


def weights_or_exported(
    model: nn.Module,
    config: Config,
    checkpoint: str | PathLike | Engine | None,
    trust: bool = False,
    may_be_random: bool = False,
) -> Weights:
    """Fill the model of a config, or let an exported file run in its place.

    Args:
        model: What `build_from_config` has made of the config.
        config: The config.
        checkpoint: The file, or else weights, see `fill_from_config`, as the next two.
        trust: Whether weights may hold more than data.
        may_be_random: Whether the config may leave them random.
    """
    if not isinstance(checkpoint, Engine):
        return fill_from_config(model, config, checkpoint, trust, may_be_random)
    run_exported(model, checkpoint)
    return recorded(checkpoint)


def exported_classifier(engine: Engine) -> tuple[nn.Module, Weights]:
    """Return the network in a file, and what the file tells of it.

    Raises:
        UserError: If it is no classifier.
    """
    info = engine.info
    if info['kind'] != 'classifier' or not info.get('classes'):
        raise UserError(
            f'{engine.path}: kind {info["kind"]}; only classifiers with the names of '
            'their classes run without a config'
        )
    network = ExportedNetwork(engine, num_classes=len(info['classes']))
    return network.eval(), recorded(engine)


def recorded(engine: Engine) -> Weights:
    """Return what a file tells of classes and pictures, as a checkpoint has it."""
    info = engine.info
    preparation = {
        name: [value / BYTE for value in info[name]]
        for name in ('mean', 'std')
        if name in info
    }
    seen = ('crop_pct', 'interpolation')
    preparation |= {name: info[name] for name in seen if name in info}
    if 'picture_size' in info:
        preparation['input_size'] = [3, *info['picture_size']]
    classes = {'classes': info.get('classes')}
    meta = {'dataset_meta': classes, 'preparation': preparation}
    return Weights(str(engine.path), {'meta': meta})


def _check(model: nn.Module, engine: Engine) -> None:
    info = engine.info
    if isinstance(model, ImageClassifier):
        kind, outputs = 'classifier', {'logits'}
    elif hasattr(model, 'decode_head'):
        kind, outputs = 'segmentor', {'logits'}
    else:
        kind, outputs = 'detector', BOXES | ({'masks'} if model.with_mask else set())
    others = {'classifier', 'segmentor', 'backbone'} - {kind}
    if info['kind'] in others or set(info['outputs']) != outputs:
        raise UserError(
            f'{engine.path}: kind {info["kind"]}, gives {", ".join(info["outputs"])}; '
            f"the config's {type(model).__name__} needs {', '.join(sorted(outputs))}"
        )
    count, classes = num_classes(model), info.get('classes')
    if classes and len(classes) != count:
        raise UserError(
            f"{engine.path}: for {len(classes)} classes, but the config's model is for "
            f'{count}'
        )
    for name in ('mean', 'std'):
        own = getattr(model.data_preprocessor, name, None)
        if own is None or name not in info:
            continue
        own = own.flatten().numpy()
        if not np.array_equal(own, np.float32(info[name])):
            raise UserError(
                f'{engine.path}: for images with {name}={info[name]}, but the config '
                f'says data_preprocessor.{name}={own.tolist()}'
            )


def _unchanged(logits: Tensor) -> Tensor:
    """Stand for a head whose work is done; resizing is left."""
    return logits


def num_classes(model: nn.Module) -> int:
    """Return the number of classes of a config's model."""
    if isinstance(model, ImageClassifier):
        return model.num_classes
    head = getattr(model, 'decode_head', None) or getattr(model, 'bbox_head', None)
    head = head or model.roi_head.bbox_head
    return (head[-1] if isinstance(head, nn.ModuleList) else head).num_classes


def _detect(
    model: nn.Module, images: Tensor, samples: Sequence, rescale: bool = True
) -> Sequence:
    """Do what `predict` of mmdet's detectors does, the network in a file.

    Args:
        model: The detector; its `backbone` is the file.
        images: Normalised and padded, (B, C, H, W).
        samples: mmdet's data samples.
        rescale: Whether boxes and masks are those of the original pictures.

    Returns:
        The samples with `pred_instances`.
    """
    outputs = model.backbone(images)
    found = []
    for i, sample in enumerate(samples):
        one = {name: values[i] for name, values in outputs.items()}
        found.append(_instances(model, one, sample.metainfo, rescale))
    return model.add_pred_to_datasample(samples, found)


def _instances(
    model: nn.Module, found: Mapping[str, Tensor], meta: Mapping, rescale: bool
) -> InstanceData:
    """Return what was found in one picture, as mmdet does.

    Args:
        model: The detector.
        found: `boxes` (N, 4), `scores` (N), `labels` (N), by falling score, and perhaps
            `masks` (N, h, w), the probabilities of what is in each box.
        meta: What the picture's data sample says of its size.
        rescale: See `_detect`.
    """
    from mmcv.ops import batched_nms  # only there for detection

    settings = model.test_cfg.get('rcnn', model.test_cfg)
    height, width = meta['img_shape'][:2]
    limits = found['boxes'].new_tensor((width, height, width, height))
    # The file knows no padding: boxes in it may reach beyond the picture, and overlap
    # too much only once they are cut.
    boxes = torch.minimum(found['boxes'], limits)
    kept = (found['scores'] > settings.score_thr) & (boxes[:, 2:] > boxes[:, :2]).all(1)
    one = {**found, 'boxes': boxes, 'labels': found['labels'].long()}
    one = {name: values[kept] for name, values in one.items()}
    if kept.any():  # mmcv's fails without a box
        _, best = batched_nms(one['boxes'], one['scores'], one['labels'], settings.nms)
        one = {name: x[best[: settings.max_per_img]] for name, x in one.items()}
    result = InstanceData(bboxes=one['boxes'])
    result.scores, result.labels = one['scores'], one['labels']
    if 'masks' in found:
        return _with_masks(model, result, one['masks'], meta, rescale)
    if rescale:
        result.bboxes /= limits.new_tensor(meta['scale_factor']).repeat(2)
    return result


def _with_masks(
    model: nn.Module, result: InstanceData, masks: Tensor, meta: Mapping, rescale: bool
) -> InstanceData:
    """Paste masks (N, h, w) into the picture; this also rescales the boxes."""
    labels, result.labels = result.labels, torch.zeros_like(result.labels)
    head, settings = model.roi_head.mask_head, model.test_cfg.rcnn
    logits = masks[:, None].logit()  # of one class, as there are only each box's own
    [result] = head.predict_by_feat([logits], [result], [meta], settings, rescale)
    result.labels = labels
    return result
