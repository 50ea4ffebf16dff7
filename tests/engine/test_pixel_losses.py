"""Losses pixel by pixel are mmseg's own, and so are their gradients."""

import copy

import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData

from mmpoolformer.engine.pixel_losses import lay_out_losses

pytest.importorskip('mmseg')
from mmseg.models import EncoderDecoder
from mmseg.structures import SegDataSample

CROSS_ENTROPY = dict(type='CrossEntropyLoss', loss_weight=0.7)


def segmentor(loss=CROSS_ENTROPY, **changes):
    torch.manual_seed(0)
    head = dict(type='FCNHead', num_convs=1, channels=8, num_classes=5, in_index=0)
    head |= dict(norm_cfg=dict(type='BN'), align_corners=False, dropout_ratio=0.0)
    head |= dict(loss_decode=loss, in_channels=64, **changes)
    other = dict(head, in_channels=128, in_index=1, loss_decode=CROSS_ENTROPY)
    with DefaultScope.overwrite_default_scope('mmseg'):
        return EncoderDecoder(
            backbone=dict(type='ResNet', depth=18),
            decode_head=head,
            auxiliary_head=other,
            test_cfg=dict(mode='whole'),
        )


@pytest.mark.parametrize(
    'changes',
    [
        {},
        dict(loss=dict(CROSS_ENTROPY, avg_non_ignore=True)),
        dict(loss=dict(CROSS_ENTROPY, class_weight=[1.0, 2.0, 0.5, 1.0, 3.0])),
        dict(loss=[CROSS_ENTROPY, dict(type='DiceLoss', loss_name='loss_dice')]),
        dict(loss=dict(CROSS_ENTROPY, use_sigmoid=True)),
        dict(sampler=dict(type='OHEMPixelSampler', thresh=0.3, min_kept=200)),
    ],
    ids=['mean', 'not ignored', 'class weights', 'two', 'sigmoid', 'sampled'],
)
def test_losses_are_mmsegs(changes):
    model = segmentor(**changes)
    faster = copy.deepcopy(model)
    lay_out_losses(faster)
    assert 'loss_by_feat' in vars(faster.decode_head)
    assert 'loss_by_feat' in vars(faster.auxiliary_head)
    images = torch.randn(2, 3, 64, 96)
    labels = torch.randint(0, 5, (2, 1, 64, 96))
    labels[:, :, :20, 10:] = 255
    samples = [SegDataSample() for _ in labels]
    for sample, one in zip(samples, labels, strict=True):
        sample.gt_sem_seg = PixelData(data=one)
    losses = [one.loss(images, samples) for one in (model, faster)]
    assert losses[0].keys() == losses[1].keys() >= {'decode.acc_seg'}
    for name, value in losses[0].items():
        assert value.ndim == losses[1][name].ndim
        torch.testing.assert_close(losses[1][name], value, rtol=1e-5, atol=1e-6)
    for values in losses:
        sum(v.sum() for k, v in values.items() if 'loss' in k).backward()
    pairs = zip(model.named_parameters(), faster.parameters(), strict=True)
    compared = 0
    for (name, one), other in pairs:
        if one.grad is None:  # stages behind those that the heads take
            assert other.grad is None
            continue
        scale = one.grad.abs().max().item()
        difference = (one.grad - other.grad).abs().max().item()
        assert difference <= 1e-3 * scale + 1e-7, name
        compared += 1
    assert compared > 20


def test_losses_without_a_reduction_keep_their_maps():
    model = segmentor(dict(CROSS_ENTROPY, reduction='none'))
    logits = torch.randn(2, 5, 8, 6)
    labels = torch.randint(0, 5, (2, 8, 6))
    expected = model.decode_head.loss_decode(logits, labels)
    lay_out_losses(model)
    found = model.decode_head.loss_decode(logits, labels)
    assert found.shape == expected.shape == (2, 8, 6)
    assert torch.equal(found, expected)


def test_rows_reach_the_criterion():
    model = segmentor()
    seen = []
    criterion = model.decode_head.loss_decode.cls_criterion

    def cross_entropy(logits, *rest, **options):
        seen.append(tuple(logits.shape))
        return criterion(logits, *rest, **options)

    model.decode_head.loss_decode.cls_criterion = cross_entropy
    lay_out_losses(model)
    model.decode_head.loss_by_feat(
        torch.randn(2, 5, 8, 6),
        [
            SegDataSample(gt_sem_seg=PixelData(data=torch.zeros(1, 16, 12).long()))
            for _ in range(2)
        ],
    )
    assert seen == [(2 * 16 * 12, 5)]
