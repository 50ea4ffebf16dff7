"""Whole detectors and segmentors as they were released, before OpenMMLab 2."""

import collections
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import load_checkpoint
from torch import nn

from mmpoolformer.checkpoints import convert_state_dict

from .weights import numbered

CONFIGS = Path(__file__).parents[2] / 'configs'
BACKBONE = 'poolformer_s12_feat'

# Names in the released files, one of each part.
RELEASED = {
    'detection/retinanet_poolformer_s12_fpn_1x_coco': (
        'neck.lateral_convs.2.conv.weight',
        'neck.fpn_convs.4.conv.bias',
        'bbox_head.cls_convs.0.conv.weight',
        'bbox_head.retina_reg.bias',
    ),
    'detection/mask_rcnn_poolformer_s12_fpn_1x_coco': (
        'neck.lateral_convs.3.conv.weight',
        'rpn_head.rpn_conv.weight',
        'roi_head.bbox_head.shared_fcs.0.weight',
        'roi_head.mask_head.conv_logits.weight',
    ),
    'segmentation/fpn_poolformer_s12_ade20k_40k': (
        'neck.fpn_convs.3.conv.weight',
        'decode_head.scale_heads.3.4.bn.running_mean',
        'decode_head.conv_seg.weight',
    ),
}


def build(name: str) -> nn.Module:
    config = Config.fromfile(CONFIGS / f'{name}.py')
    config.model.backbone.init_cfg = None
    with DefaultScope.overwrite_default_scope(config.default_scope):
        return MODELS.build(config.model)


@pytest.mark.slow
@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('name', RELEASED)
def test_released_file_fills_the_model(name, zipped, tmp_path) -> None:
    pytest.importorskip('mmdet' if name.startswith('detection') else 'mmseg')
    model = build(name)
    generator = torch.Generator().manual_seed(0)
    others = {
        key: torch.rand(value.shape, generator=generator).to(value.dtype)
        for key, value in model.state_dict().items()
        if not key.startswith('backbone.')
    }
    assert set(RELEASED[name]) <= set(others)
    backbone = {key: value.clone() for key, value in numbered(BACKBONE).items()}
    weights = collections.OrderedDict(
        {**{f'backbone.{key}': value for key, value in backbone.items()}, **others}
    )
    weights._metadata = collections.OrderedDict({'': {'version': 1}})
    content = {'meta': {'CLASSES': ('a', 'b'), 'epoch': 12}, 'state_dict': weights}
    path = tmp_path / 'released.pth'
    torch.save(content, path, _use_new_zipfile_serialization=zipped)

    load_checkpoint(model, str(path), map_location='cpu')

    native = convert_state_dict(backbone, 'native')
    expected = {**{f'backbone.{k}': v for k, v in native.items()}, **others}
    found = model.state_dict()
    assert set(found) <= set(expected)
    assert set(expected) - set(found) <= {
        'backbone.norm0.weight',
        'backbone.norm0.bias',
    }
    assert all(torch.equal(found[key], expected[key]) for key in found)
