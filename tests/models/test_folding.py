"""The optimized models against those that they were made from."""

import io
from collections.abc import Callable
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
from torch.nn import functional as F

from mmpoolformer.models import (
    MetaFormer,
    MetaFormerClassifier,
    create_model,
    folding,
    optimize_for_inference,
)
from mmpoolformer.models.folding import FoldedBlock
from mmpoolformer.ops.products import can_pack
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


def test_packed_weights_follow_the_models_own() -> None:
    arch = dict(shallow('poolformer_s12'), depths=(1, 1, 1, 1))
    models = [randomised(MetaFormer(arch, out_indices=(0,)), seed) for seed in (0, 1)]
    one, other = map(optimize_for_inference, models)
    x = image(2, 3, 64, 64)
    with torch.no_grad():
        assert difference(one(x)[0], other(x)[0]) > 0.1
        for block in one.modules():
            if type(block) is FoldedBlock:
                assert bool(block._packed) == can_pack(torch.ones(9, 1), block.weight1)
        buffer = io.BytesIO()
        torch.save(one, buffer)
        buffer.seek(0)
        for again in (deepcopy(one), torch.load(buffer, weights_only=False)):
            assert torch.equal(again(x)[0], one(x)[0])
        exact = one.double()(x.double())[0]
        assert difference(exact, models[0].double().eval()(x.double())[0]) < 1e-6
        one.float().load_state_dict(other.state_dict())
        assert torch.equal(one(x)[0], other(x)[0])


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
    monkeypatch.setattr(faster, '_gains', lambda x: True)  # whatever is faster here
    graphs = []
    with torch.no_grad():
        for size in ((2, 3, 96, 64), (2, 3, 64, 160), (2, 3, 97, 131)):
            x = image(*size)
            pairs = zip(faster(x), model(x), strict=True)
            assert all(difference(found, other) < 1e-5 for found, other in pairs)
            graphs.append(counters['stats']['unique_graphs'])
    assert graphs[0] > 0
    assert graphs[2] == graphs[1]


@pytest.mark.parametrize('name', ['poolformer_s12', 'poolformerv2_s12', 'caformer_s18'])
def test_weights_are_constants_of_the_compiled_code(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    graphs = []

    def keep(module: torch.fx.GraphModule, _: list) -> Callable:
        graphs.append(module.graph)
        return module.forward

    monkeypatch.setattr(torch, 'compile', partial(torch.compile, backend=keep))
    model = randomised(MetaFormer(shallow(name))).eval()
    faster = optimize_for_inference(model, compiled='fixed')
    with torch.no_grad():
        found, expected = (run(image(1, 3, 64, 96)) for run in (faster.compiled, model))
    for one, other in zip(found, expected, strict=True):
        assert difference(one, other) < 1e-5
    [graph] = graphs
    inputs = [node for node in graph.nodes if node.op == 'placeholder']
    assert len(inputs) == 1  # the images; weights would follow, if they might change
    called = {node.target for node in graph.nodes if node.op == 'call_function'}
    # As products of four dimensions they would be slower than without compiling.
    assert torch.conv2d in called
    assert F.linear not in called or name == 'caformer_s18'  # its attention has some
    if (
        name == 'poolformer_s12'
    ):  # of GroupNorm Inductor turns the layout: outputs alone
        norms = [node for node in graph.nodes if node.target == F.group_norm]
        assert len(norms) == len(found)


@pytest.mark.parametrize(
    ('way', 'count'), [('fixed', [1, 1, 2]), ('dynamic', [1, 1, 1])]
)
def test_what_is_slower_compiled_is_not_used(
    monkeypatch: pytest.MonkeyPatch, way: str, count: list[int]
) -> None:
    told = []
    monkeypatch.setattr(folding, 'warn', told.append)
    monkeypatch.setattr(torch, 'compile', partial(torch.compile, backend='eager'))
    model = MetaFormer(shallow('poolformer_s12'), out_indices=(0,)).eval()
    faster = optimize_for_inference(model, compiled=way)
    monkeypatch.setattr(
        folding, '_seconds', lambda run, x: 2.0 if run == faster.compiled else 1.0
    )
    sizes = (1, 3, 64, 64), (1, 3, 64, 64), (1, 3, 32, 96)
    for size, expected_count in zip(sizes, count, strict=True):
        with torch.no_grad():
            (found,), (expected,) = faster(image(*size)), model(image(*size))
        assert difference(found, expected) < 1e-5
        assert len(told) == expected_count
        assert told[-1].endswith('not compiled 1000.0 ms: it is not used')
    with pytest.raises(ValueError, match="compiled='once': give 'fixed'"):
        optimize_for_inference(model, compiled='once')


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


def build(name: str, **changes: dict) -> nn.Module:
    from mmengine.config import Config

    config = Config.fromfile(config_path(name))
    config.model.backbone.arch = shallow('s12')
    config.model.backbone.init_cfg = None
    config.merge_from_dict({'model': changes})
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        model = revert_sync_batchnorm(MODELS.build(config.model)).eval()
    for part in model.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
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
    norms = nn.modules.batchnorm._BatchNorm
    assert not any(isinstance(part, norms) for part in faster.modules())
    x = image(1, 3, 96, 128)
    with torch.no_grad():
        found, expected = (flat(m.forward(x, mode='tensor')) for m in (faster, model))
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        assert difference(ours, theirs) < 1e-5


RETINANET = 'detection/retinanet_poolformer_s12_fpn_1x_coco.py'
MASK_RCNN = 'detection/mask_rcnn_poolformer_s12_fpn_1x_coco.py'
SEMANTIC_FPN = 'segmentation/fpn_poolformer_s12_ade20k_40k.py'
DENSE = dict(
    _delete_=True, num_classes=80, in_channels=256, feat_channels=64, stacked_convs=1
)
ANCHOR = dict(
    type='AnchorGenerator',
    ratios=[1.0],
    octave_base_scale=8,
    scales_per_octave=1,
    strides=[8, 16, 32, 64, 128],
)
HEADS = {
    'fcos': dict(DENSE, type='FCOSHead', strides=[8, 16, 32, 64, 128]),
    'atss': dict(DENSE, type='ATSSHead', anchor_generator=ANCHOR),
    'gfl': dict(DENSE, type='GFLHead', anchor_generator=ANCHOR),
}


@pytest.fixture
def takes_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        'mmpoolformer.models.folding.computes_bfloat16', lambda model: True
    )


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect what is logged of necks and heads."""
    lines = []
    monkeypatch.setattr('mmpoolformer.models.neck_and_heads.warn', lines.append)
    return lines


def typed_outputs(model: nn.Module, *names: str) -> dict[str, set[torch.dtype]]:
    """Note in what types parts of a model give out what they find, once it runs."""
    types = {name: set() for name in names}
    for name in names:
        model.get_submodule(name).register_forward_hook(
            lambda _, __, found, name=name: types[name].update(
                {tensor.dtype for tensor in flat(found)}
            )
        )
    return types


@pytest.mark.slow
@pytest.mark.parametrize('head', ['retina', *HEADS])
def test_a_dense_detector_computes_in_bfloat16(
    head: str, takes_bfloat16: None, said: list[str]
) -> None:
    changes = {'bbox_head': HEADS[head]} if head in HEADS else {}
    model = build(RETINANET, **changes)
    faster = optimize_for_inference(model, torch.bfloat16)
    layers = [m for m in faster.modules() if isinstance(m, (nn.Conv2d, nn.GroupNorm))]
    assert {p.dtype for m in layers for p in m.parameters()} == {torch.bfloat16}
    # What decodes keeps its numbers: of GFL's integral, of the factors of each level.
    assert {b.dtype for b in faster.bbox_head.buffers()} <= {torch.float32}
    types = typed_outputs(faster, 'backbone', 'neck')
    x = image(1, 3, 96, 128)
    with torch.no_grad():
        found, expected = flat(faster(x)), flat(model(x))
        again = flat(deepcopy(faster)(x))
    assert types == {'backbone': {torch.bfloat16}, 'neck': {torch.bfloat16}}
    for ours, theirs, copied in zip(found, expected, again, strict=True):
        assert ours.dtype == torch.float32
        assert 0 < difference(ours, theirs) < 0.05
        assert torch.equal(ours, copied)
    assert said == []


@pytest.mark.slow
def test_a_segmentor_computes_in_bfloat16(takes_bfloat16: None) -> None:
    model = build(SEMANTIC_FPN)
    faster = optimize_for_inference(model, torch.bfloat16)
    assert {p.dtype for p in faster.decode_head.parameters()} == {torch.bfloat16}
    types = typed_outputs(faster, 'backbone', 'neck')
    x = image(1, 3, 96, 128)
    with torch.no_grad():
        found, expected = faster(x), model(x)
    assert types == {'backbone': {torch.bfloat16}, 'neck': {torch.bfloat16}}
    assert found.dtype == torch.float32
    assert 0 < difference(found, expected) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_features_of_regions_are_torchvisions(
    dtype: torch.dtype, takes_bfloat16: None
) -> None:
    from torchvision.ops import roi_align

    faster = optimize_for_inference(build(MASK_RCNN), dtype)
    rois = torch.tensor([[0, 1.0, 2, 30, 25], [0, 8, 5, 40, 44]])  # of the finest map
    with torch.no_grad():
        maps = faster.extract_feat(image(1, 3, 96, 128))
        assert {m.dtype for m in maps} == {dtype}
        found = faster.roi_head.bbox_roi_extractor(maps[:4], rois)
        expected = roi_align(maps[0].float(), rois, (7, 7), 0.25, -1, True)
        scores, deltas = faster.roi_head.bbox_head(found)
        masks = faster.roi_head.mask_head(found[:0].new_zeros(0, 256, 14, 14))
    assert difference(found, expected) < 1e-5
    assert {t.dtype for t in (found, scores, deltas, masks)} == {torch.float32}
    assert {p.dtype for p in faster.roi_head.parameters()} == {dtype}


@pytest.mark.slow
def test_a_head_that_may_not_be_safe_keeps_float32(
    takes_bfloat16: None, said: list[str]
) -> None:
    head = dict(
        DENSE,
        type='VFNetHead',
        strides=[8, 16, 32, 64, 128],
        center_sampling=False,
        use_atss=True,
    )
    model = build(RETINANET, bbox_head=head)
    faster = optimize_for_inference(model, torch.bfloat16)
    assert said == ['bfloat16 is not known to be safe in bbox_head: kept in float32']
    assert {p.dtype for p in faster.bbox_head.parameters()} == {torch.float32}
    assert {p.dtype for p in faster.neck.parameters()} == {torch.bfloat16}
    types = typed_outputs(faster, 'backbone', 'neck')
    x = image(1, 3, 96, 128)
    with torch.no_grad():
        # Deformable convolutions refuse other maps than plain ones.
        found, expected = flat(faster(x)), flat(model(x))
    assert types == {'backbone': {torch.bfloat16}, 'neck': {torch.float32}}
    for ours, theirs in zip(found, expected, strict=True):
        assert 0 < difference(ours, theirs) < 0.05


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


@pytest.mark.slow
def test_levels_that_share_convolutions_keep_their_own_norms() -> None:
    head = dict(
        type='RetinaSepBNHead',
        num_ins=5,
        stacked_convs=1,
        norm_cfg=dict(type='BN'),
        feat_channels=64,
    )
    model = build(RETINANET, bbox_head=head)
    x = image(1, 3, 96, 128)
    with torch.no_grad():
        found, expected = (flat(m(x)) for m in (optimize_for_inference(model), model))
    for ours, theirs in zip(found, expected, strict=True):
        assert difference(ours, theirs) < 1e-5


def flat(outputs: Tensor | list | tuple) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs]
    return [tensor for part in outputs for tensor in flat(part)]


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r'dtype=torch.float16: give torch.float32 or'):
        optimize_for_inference(create_model('poolformer_s12'), torch.float16)
    with pytest.raises(ValueError, match='Linear holds no model of this family'):
        optimize_for_inference(nn.Linear(1, 1))
