"""The optimized models against those that they were made from."""

from copy import deepcopy
from functools import partial

import pytest
import torch
from compared import ARCHITECTURES, difference, image, shallow
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from random_weights import randomised
from torch import Tensor, nn
from torch._dynamo.utils import counters

from mmpoolformer.models import (
    MetaFormer,
    MetaFormerClassifier,
    create_model,
    optimize_for_inference,
)
from mmpoolformer.models.folding import FoldedBlock
from mmpoolformer.registry import MODELS
from mmpoolformer.utils.paths import config_path


@pytest.mark.parametrize('name', ARCHITECTURES)
def test_backbone_gives_the_same_maps_at_any_size(name: str) -> None:
    model = randomised(MetaFormer(shallow(name))).eval()
    before = deepcopy(model.state_dict())
    faster = optimize_for_inference(model)
    blocks = [part for part in faster.modules() if isinstance(part, FoldedBlock)]
    assert len(blocks) == 5
    # In float64 only a mistake makes a difference, in float32 rounding does, too.
    for dtype, allowed in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        model.to(dtype)
        model.load_state_dict(before)
        faster = optimize_for_inference(model, torch.float32)
        for size in ((1, 3, 64, 64), (2, 3, 97, 131)):
            x = image(*size).to(dtype)
            with torch.no_grad():
                pairs = zip(faster(x), model(x), strict=True)
                for found, expected in pairs:
                    assert found.dtype == dtype
                    assert difference(found, expected) < allowed
    after = model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert not any(isinstance(part, FoldedBlock) for part in model.modules())


@pytest.mark.slow
def test_compiled_once_for_all_sizes(
    monkeypatch: pytest.MonkeyPatch, long_mode: bool
) -> None:
    if not long_mode:  # Inductor's C++ takes a minute; what is traced is the same
        traced = partial(torch.compile, backend='eager')
        monkeypatch.setattr(torch, 'compile', traced)
    arch = dict(shallow('poolformer_s12'), depths=(1, 1, 1, 1))
    model = randomised(MetaFormer(arch, out_indices=(0,))).eval()
    faster = optimize_for_inference(model, compiled=True)
    graphs = []
    with torch.no_grad():
        for size in ((2, 3, 96, 64), (2, 3, 64, 160), (2, 3, 97, 131)):
            x = image(*size)
            pairs = zip(faster(x), model(x), strict=True)
            assert all(difference(found, other) < 1e-5 for found, other in pairs)
            graphs.append(counters['stats']['unique_graphs'])
    assert graphs[0] > 0
    assert graphs[2] == graphs[1]


@pytest.mark.parametrize('name', ['poolformer_s12', 'caformer_s18'])
def test_bfloat16_is_near(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        'mmpoolformer.models.folding.computes_bfloat16', lambda model: True
    )
    model = MetaFormerClassifier(shallow(name), num_classes=10).eval()
    x = image(2, 3, 64, 96)
    faster = optimize_for_inference(model, torch.bfloat16)
    with torch.no_grad():
        found, expected = faster(x), model(x)
    assert found.dtype == torch.float32
    assert 0 < difference(found, expected) < 0.05


def test_a_cpu_without_bfloat16_keeps_float32(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        'mmpoolformer.models.folding.computes_bfloat16', lambda model: False
    )
    model = MetaFormer(shallow('poolformer_s12'), out_indices=(0,)).eval()
    x = image(1, 3, 32, 32)
    with torch.no_grad():
        (found,) = optimize_for_inference(model, torch.bfloat16)(x)
        (expected,) = model(x)
    assert difference(found, expected) < 1e-5


def build(name: str) -> nn.Module:
    from mmengine.config import Config

    config = Config.fromfile(config_path(name))
    config.model.backbone.arch = shallow('s12')
    config.model.backbone.init_cfg = None
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        model = revert_sync_batchnorm(MODELS.build(config.model)).eval()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    'name',
    [
        'detection/retinanet_poolformer_s12_fpn_1x_coco.py',
        'segmentation/fpn_poolformer_s12_ade20k_40k.py',
    ],
)
def test_whole_model_gives_the_same_outputs(name: str) -> None:
    model = build(name)
    faster = optimize_for_inference(model)
    x = image(1, 3, 96, 128)
    with torch.no_grad():
        found, expected = (flat(m.forward(x, mode='tensor')) for m in (faster, model))
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        assert difference(ours, theirs) < 1e-5


def test_batch_norm_behind_a_mixer_is_not_taken_for_its_own() -> None:
    pytest.importorskip('mmcv')
    arch = dict(
        shallow('poolformer_s12'), token_mixers='depthwise_conv', norm='batch_norm'
    )
    model = randomised(MetaFormer(arch)).eval()
    x = image(2, 3, 64, 64)
    with torch.no_grad():
        pairs = zip(optimize_for_inference(model)(x), model(x), strict=True)
        assert all(difference(found, expected) < 1e-5 for found, expected in pairs)


def flat(outputs: Tensor | list | tuple) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs]
    return [tensor for part in outputs for tensor in flat(part)]


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r'dtype=torch.float16: give torch.float32 or'):
        optimize_for_inference(create_model('poolformer_s12'), torch.float16)
    with pytest.raises(ValueError, match='Linear holds no model of this family'):
        optimize_for_inference(nn.Linear(1, 1))
