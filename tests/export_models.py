"""Tiny models to export."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from tiny_data import write_detection_config
from torch import nn

from mmpoolformer.models import MetaFormer, MetaFormerClassifier, PiT, PiTClassifier
from mmpoolformer.models.from_config import build_from_config

TINY = dict(depths=(1, 1, 1, 1), dims=(16, 32, 64, 64))
FAMILIES = {
    'poolformer_s12': {},
    'identityformer_s12': {},
    'randformer_s12': {},
    'poolformerv2_s12': {},
    'convformer_s18': {},
    'caformer_s18': {},
    'metaformer_pppa_s12_224': {},
    'metaformer_ppff_s12_224': {},
    # Block 1 of 3 has windows; 14x14 and 7x7 cells, and others.
    'caformer_s18_384': dict(attention_window=3),
    'poolformer_s24': dict(pool_size=4, norm='batch_norm', activation='silu'),
}
INFO_FOR_EXAMPLE = dict(
    mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], channel_order='RGB'
)


def randomised(model: nn.Module) -> nn.Module:
    """Make every parameter count."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data += 0.05 * noise
    return model


def backbone(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == 'pit':
        return randomised(PiT(dict(base='ti', depths=(1, 1, 1))))
    return randomised(MetaFormer(dict(base=name, **TINY, **FAMILIES[name])))


def classifier(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == 'pit':
        arch = dict(base='ti', depths=(1, 1, 1))
        return randomised(PiTClassifier(arch, num_classes=5, distilled=True))
    arch = dict(base=name, **TINY, **FAMILIES[name])
    return randomised(MetaFormerClassifier(arch, num_classes=5))


def detector(tmp_path: Path, masks: bool = False) -> nn.Module:
    """Build a tiny detector that finds very many boxes."""
    pytest.importorskip('mmdet')
    path = tmp_path / 'config.py'
    write_detection_config(path, tmp_path, masks)
    torch.manual_seed(0)
    model = build_from_config(Config.fromfile(path))
    head = model.rpn_head if masks else model.bbox_head
    layers = (
        (head.rpn_cls, head.rpn_reg) if masks else (head.retina_cls, head.retina_reg)
    )
    with torch.no_grad():
        found = head(model.neck(model.backbone(torch.randn(1, 3, 128, 128))))
        for layer, maps, spread in zip(layers, found, (1.0, 0.3), strict=True):
            layer.weight.mul_(spread / maps[0].std())
        layers[0].bias.fill_(-3)
    return model
