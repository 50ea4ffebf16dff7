"""Label maps by bands are those of mmseg, whose logits are as large as the pictures."""

import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope

from mmpoolformer.models import label_maps
from mmpoolformer.models.label_maps import predict_labels_only

pytest.importorskip('mmseg')
from mmseg.models import EncoderDecoder
from mmseg.structures import SegDataSample


class Picture(torch.nn.Module):
    """A backbone that passes a quarter of the picture on."""

    def forward(self, images):
        return [images[:, :, ::4, ::4]]


@pytest.fixture(scope='module')
def make():
    def build(align_corners=False, classes=5, **changes):
        torch.manual_seed(0)
        head = dict(type='FCNHead', num_convs=1, in_channels=3, channels=8)
        head |= dict(num_classes=classes, align_corners=align_corners)
        head |= dict(in_index=0, norm_cfg=dict(type='BN'))
        parts = dict(backbone=dict(type='ResNet', depth=18), decode_head=head)
        with DefaultScope.overwrite_default_scope('mmseg'):
            model = EncoderDecoder(**parts, test_cfg=ConfigDict(mode='whole'))
        model.backbone = Picture()
        model.test_cfg.update(changes)
        return model.eval()

    return build


def sample_of(size, **meta):
    return SegDataSample(metainfo=dict(ori_shape=size, img_shape=size, **meta))


def compare(model, images, metas):
    """Predict in both ways; return the label maps of the last."""
    faster = copy.deepcopy(model)
    predict_labels_only(faster)
    faster = copy.deepcopy(faster)
    assert faster.predict.args == (faster,)  # not those of what was copied
    samples = [[sample_of(**meta) for meta in metas] for _ in range(2)]
    with torch.no_grad():
        theirs = model.predict(images, samples[0])
        ours = faster.predict(images, samples[1])
    for one, other in zip(theirs, ours, strict=True):
        expected, found = one.pred_sem_seg.data, other.pred_sem_seg.data
        assert found.dtype == expected.dtype and found.shape == expected.shape
        different = (found != expected).nonzero()
        # Where two classes are equal but for rounding, either is right.
        for _, y, x in different.tolist():
            best = one.seg_logits.data[:, y, x].sort().values
            assert best[-1] - best[-2] < 1e-5
        assert len(different) < 1e-3 * found.numel()
        assert 'seg_logits' not in other
    return ours


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('size', [(97, 130), (64, 48), (20, 300), (1, 7)])
@pytest.mark.parametrize('band', [2**20, 500])
def test_labels_are_mmsegs(make, align_corners, size, band, monkeypatch):
    monkeypatch.setattr(label_maps, 'BAND', band)
    images = torch.randn(2, 3, 64, 48)
    meta = dict(size=size, pad_shape=(64, 48))
    found = compare(make(align_corners), images, [meta, meta])
    assert len(found[0].pred_sem_seg.data.unique()) > 2
    different = found[0].pred_sem_seg.data != found[1].pred_sem_seg.data
    assert different.any()


@pytest.mark.parametrize(
    'meta',
    [
        dict(padding_size=(3, 5, 0, 7)),
        dict(img_padding_size=(0, 9, 2, 0), padding_size=(1, 1, 1, 1)),
        dict(flip=True, flip_direction='horizontal', padding_size=(0, 4, 0, 0)),
        dict(flip=True, flip_direction='vertical', padding_size=(0, 0, 0, 6)),
        dict(flip=False, flip_direction=None),
        dict(pad_shape=(80, 96)),
        dict(pad_shape=(9, 130)),  # less than the head's 16 x 24
    ],
)
def test_padding_and_flips_are_undone(make, meta, monkeypatch):
    monkeypatch.setattr(label_maps, 'BAND', 3000)
    images = torch.randn(1, 3, 64, 96)
    compare(make(), images, [dict(size=(100, 131), pad_shape=(64, 96)) | meta])


@pytest.mark.parametrize('size', [(150, 201), (64, 96), (30, 11)])
@pytest.mark.parametrize('seed', range(5))
def test_classes_that_cannot_win_are_left_out(make, size, seed, monkeypatch):
    model, kept = make(classes=12), []
    torch.manual_seed(seed)
    logits = torch.randn(1, 12, 16, 24) ** 3 + 30 * torch.randn(12, 1, 1)
    model.decode_head.forward = lambda maps: logits

    def spy(*arguments):
        kept.append(possible(*arguments))
        return kept[-1]

    possible = label_maps._possible
    monkeypatch.setattr(label_maps, '_possible', spy)
    meta = dict(size=size, pad_shape=(64, 96))
    [found] = compare(model, torch.randn(1, 3, 64, 96), [meta])
    assert 1 < len(kept[0]) < 12
    assert set(found.pred_sem_seg.data.unique().tolist()) <= set(kept[0].tolist())


def test_logits_that_are_no_numbers_end_nothing(make):
    model = make()
    logits = torch.randn(1, 5, 16, 24)
    logits[0, :, 3] = torch.nan
    model.decode_head.forward = lambda maps: logits
    predict_labels_only(model)
    sample = sample_of((100, 80), pad_shape=(64, 96))
    model.predict(torch.randn(1, 3, 64, 96), [sample])
    assert sample.pred_sem_seg.data.shape == (1, 100, 80)


def test_windows_that_slide(make):
    images = torch.randn(1, 3, 64, 96)
    model = make(mode='slide', crop_size=(32, 48), stride=(20, 30))
    compare(model, images, [dict(size=(70, 101), pad_shape=(64, 96))])


class OtherSteps(EncoderDecoder):
    def postprocess_result(self, seg_logits, data_samples=None):
        return 'its own'


def test_who_stays_as_it_is(make):
    one_class = make(classes=2, align_corners=False)
    one_class.out_channels = 1
    other = make()
    other.__class__ = OtherSteps
    detector = SimpleNamespace(bbox_head=None, predict=None)
    for model in (one_class, other, detector):
        before = model.predict
        predict_labels_only(model)
        assert model.predict == before
    model = make()
    predict_labels_only(model)
    without = model.predict(torch.randn(1, 3, 32, 32))
    assert without[0].seg_logits.data.shape == (5, 32, 32)


def test_heads_with_steps_of_their_own(make):
    model = make()

    class Twice(type(model.decode_head)):
        def predict_by_feat(self, seg_logits, batch_img_metas):
            return -super().predict_by_feat(seg_logits, batch_img_metas)

    model.decode_head.__class__ = Twice
    images = torch.randn(1, 3, 64, 96)
    compare(model, images, [dict(size=(70, 101), pad_shape=(64, 96))])
