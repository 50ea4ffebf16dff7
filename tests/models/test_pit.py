"""PiT against timm, the published counts and the contract of backbones."""

import copy
import itertools
from pathlib import Path

import pytest
import timm
import torch
from compared import difference, image
from mmengine.config import Config
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from random_weights import randomised
from timm.layers import resample_abs_pos_embed
from torch import nn
from torch.nn import functional as F

from mmpoolformer import create_model, list_models
from mmpoolformer.checkpoints import (
    CheckpointError,
    convert_file,
    convert_state_dict,
    load_weights,
)
from mmpoolformer.classification.optim import TimmOptimizer
from mmpoolformer.models import PIT, PiT, PiTClassifier

CONFIGS = Path(__file__).parents[2] / 'configs' / 'detection'

# arXiv 2103.16302, table 3, with 1000 classes.
PARAMETERS = {
    'ti': 4_847_272,
    'xs': 10_618_888,
    's': 23_461_912,
    'b': 73_764_840,
}
TINY = dict(
    patch_size=4, stride=2, head_dim=4, depths=(1, 2, 1), heads=(1, 2, 4), image_size=16
)
NAMES = [f'pit_{arch}{kind}' for arch in PARAMETERS for kind in ('', '_distilled')]


def timm_name(name: str) -> str:
    return f'{name}_224'


def reference(name: str, **options) -> nn.Module:
    return randomised(timm.create_model(timm_name(name), **options)).eval()


# -- against timm ---------------------------------------------------------------


@pytest.mark.parametrize('name', NAMES)
def test_names_and_shapes_are_timms(name) -> None:
    with torch.device('meta'):
        expected = timm.create_model(timm_name(name)).state_dict()
        found = create_model(name).state_dict()
    assert {k: v.shape for k, v in found.items()} == {
        k: v.shape for k, v in expected.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize('name', ['pit_ti', 'pit_b', 'pit_ti_distilled'])
def test_logits_equal_timm(name) -> None:
    expected = reference(name)
    model = create_model(name).eval()
    model.load_state_dict(expected.state_dict())
    x = image(2, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(model(x), expected(x))


def test_logits_of_another_size_equal_timm_with_a_resampled_embedding() -> None:
    plain = reference('pit_ti')
    other = timm.create_model('pit_ti_224', img_size=(160, 256))
    weights = plain.state_dict()
    grid = other.pos_embed.shape[2:]
    assert tuple(grid) == (19, 31)
    tokens = weights['pos_embed'].flatten(2).transpose(1, 2)  # (1, 27 * 27, C)
    tokens = resample_abs_pos_embed(
        tokens, list(grid), [27, 27], num_prefix_tokens=0, antialias=False
    )
    weights['pos_embed'] = tokens.transpose(1, 2).reshape(1, -1, *grid)
    other.load_state_dict(weights)
    model = create_model('pit_ti').eval()
    model.load_state_dict(plain.state_dict())
    x = image(1, 3, 160, 256)
    with torch.no_grad():
        assert difference(model(x), other.eval()(x)) < 1e-5


@pytest.mark.parametrize('name', ['pit_ti', 'pit_ti_distilled', 'pit_b'])
def test_maps_come_from_those_of_timm(name) -> None:
    expected = reference(name)
    model = create_model(name, features_only=True).eval()
    found = model.load_state_dict(expected.state_dict(), strict=False)
    assert all(key.startswith('norm') for key in found.missing_keys)
    x = image(1, 3, 224, 224)
    with torch.no_grad():
        theirs = expected.forward_intermediates(x, intermediates_only=True)
        ours = model(x)
    for own, other, cells in zip(ours, theirs, (28, 14, 7), strict=True):
        # bilinear: each new cell's centre in units of the old cells
        other = F.interpolate(other, (cells, cells), mode='bilinear')
        other = F.layer_norm(other.movedim(1, -1), other.shape[1:2], eps=1e-6)
        assert difference(own, other.movedim(-1, 1)) < 1e-5


def test_maps_that_have_their_size_are_left_alone() -> None:
    expected = reference('pit_ti', img_size=(64, 96))
    model = create_model('pit_ti', features_only=True).eval()
    weights = expected.state_dict()
    model.pos_embed = nn.Parameter(weights['pos_embed'])
    model.load_state_dict(weights, strict=False)
    for i in range(3):
        setattr(model, f'norm{i}', nn.Identity())
    x = image(2, 3, 64, 96)
    with torch.no_grad():
        theirs = expected.forward_intermediates(x, intermediates_only=True)
        ours = model(x)
    assert torch.equal(ours[1], theirs[1]) and torch.equal(ours[2], theirs[2])
    assert ours[1].shape == (1 + 1, 128, 4, 6)


def test_distilled_training_gives_both_heads_as_timm() -> None:
    expected = reference('pit_ti_distilled', num_classes=7).train()
    model = create_model('pit_ti_distilled', num_classes=7).train()
    model.load_state_dict(expected.state_dict())
    x = image(2, 3, 224, 224)
    mean = model(x)
    for classifier in (model, expected):
        classifier.set_distilled_training(True)
    both = model(x)
    for ours, theirs in zip(both, expected(x), strict=True):
        assert difference(ours, theirs) < 1e-5
    assert difference(sum(both) / 2, mean) < 1e-5
    assert difference(model.eval()(x), mean) < 1e-5


def test_one_head_gives_one_answer() -> None:
    model = PiTClassifier(TINY).train()
    model.set_distilled_training()
    assert model(image(2, 3, 16, 16)).shape == (2, 1000)


@pytest.mark.parametrize('arch', PIT)
def test_parameters_equal_the_published_count(arch) -> None:
    with torch.device('meta'):
        model = create_model(f'pit_{arch}')
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[arch]


def test_names() -> None:
    assert list_models('pit_*') == NAMES


# -- the contract -----------------------------------------------------------------


@pytest.mark.parametrize('distilled', [False, True])
@pytest.mark.parametrize('arch', PIT)
def test_declared_channels_and_strides_are_the_real_ones(arch, distilled) -> None:
    model = PiT(arch, distilled).eval()
    assert model.out_strides == (8, 16, 32)
    with torch.no_grad():
        maps = model(image(1, 3, 64, 96))
    shapes = [tuple(m.shape) for m in maps]
    declared = zip(model.out_channels, model.out_strides, strict=True)
    assert shapes == [(1, c, 64 // s, 96 // s) for c, s in declared]


@pytest.mark.parametrize('size', [(33, 47), (224, 100), (7, 130), (1, 1), (16, 17)])
@pytest.mark.parametrize('arch', ['ti', 'b'])
def test_any_image_size_gives_maps_that_halve(arch, size) -> None:
    maps = PiT(arch).eval()(image(1, 3, *size))
    height, width = (-(-n // 8) for n in size)
    for found in maps:
        assert found.shape[2:] == (height, width)
        assert found.isfinite().all()
        height, width = -(-height // 2), -(-width // 2)


def test_every_pixel_is_seen() -> None:
    model = randomised(PiT(TINY)).eval()
    x = image(1, 3, 19, 22).requires_grad_()
    model(x)[0].square().sum().backward()
    assert (x.grad.abs().sum((0, 1)) > 0).all()


def test_another_trained_size() -> None:
    model = PiT(dict(base='ti', image_size=384))
    assert model.pos_embed.shape == (1, 64, 47, 47)
    assert [m.shape[2] for m in model(image(1, 3, 64, 64))] == [8, 4, 2]


def test_class_tokens_reach_the_maps() -> None:
    model = randomised(PiT(TINY)).eval()
    x = image(1, 3, 16, 16)
    before = model(x)
    model.cls_token.data += image(1, 1, 4)
    for a, b in zip(before, model(x), strict=True):
        assert not torch.allclose(a, b)


@pytest.mark.parametrize('channels', [1, 4])
def test_in_channels(channels) -> None:
    model = PiT(TINY, in_channels=channels)
    assert model(image(1, channels, 16, 16))[0].shape == (1, 4, 8, 8)
    with pytest.raises(ValueError, match=rf'expected \(B, {channels}, H, W\)'):
        model(image(1, 3, 16, 16))


@pytest.mark.parametrize('distilled', [False, True])
@pytest.mark.parametrize(
    'indices', [c for n in range(1, 4) for c in itertools.combinations(range(3), n)]
)
def test_out_indices_are_stages_and_every_parameter_gets_a_gradient(
    indices, distilled
) -> None:
    everything = randomised(PiT(TINY, distilled))
    model = PiT(TINY, distilled, out_indices=indices)
    part = {k: v for k, v in everything.state_dict().items() if k in model.state_dict()}
    model.load_state_dict(part)
    x = image(2, 3, 16, 24)
    maps = model(x)
    for found, i in zip(maps, indices, strict=True):
        torch.testing.assert_close(found, everything(x)[i], rtol=0, atol=0)
        assert found.is_contiguous()
    sum((m * torch.randn_like(m)).sum() for m in maps).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize('name', NAMES)
def test_every_size_gives_every_parameter_a_gradient(name) -> None:
    model = create_model(name, features_only=True)
    sum(m.square().sum() for m in model(image(1, 3, 24, 32))).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize('distilled', [False, True])
def test_classifier_gives_every_parameter_a_gradient(distilled) -> None:
    model = PiTClassifier(TINY, num_classes=7, distilled=distilled)
    logits = model(image(2, 3, 20, 16))
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize('frozen_stages', range(-1, 4))
def test_freezing(frozen_stages) -> None:
    model = PiT(TINY, frozen_stages=frozen_stages, drop_path_rate=0.5)
    parts = [model.patch_embed, *model.transformers]
    for _ in range(2):  # after __init__, and again after train()
        for i, part in enumerate(parts):
            frozen = i <= frozen_stages
            assert all(p.requires_grad != frozen for p in part.parameters()), i
        for parameter in (model.pos_embed, model.cls_token):
            assert parameter.requires_grad == (frozen_stages < 0)
        model.train()
    assert [part.training for part in parts] == [i > frozen_stages for i in range(4)]
    assert model.norm0.weight.requires_grad and model.norm2.training


def test_frozen_parts_do_not_move_and_the_others_do() -> None:
    model = randomised(PiT(TINY, frozen_stages=1)).train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1)
    maps = model(image(2, 3, 16, 16))
    sum((m * image(*m.shape)).sum() for m in maps).backward()
    optimizer.step()
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    frozen = ('patch_embed.', 'pos_embed', 'cls_token', 'transformers.0.')
    assert not any(key.startswith(frozen) for key in moved)
    assert {'transformers.1.pool.fc.weight', 'norm0.weight', 'norm2.bias'} <= moved


def test_activation_checkpointing_changes_nothing() -> None:
    x = image(2, 3, 16, 24)
    plain = randomised(PiT(TINY, drop_path_rate=0.3)).train()
    saving = PiT(TINY, drop_path_rate=0.3, with_cp=True).train()
    saving.load_state_dict(plain.state_dict())
    saved = []
    results = []
    for model in (plain, saving):
        torch.manual_seed(7)  # the same paths are dropped
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: (saved[-1].append(t.numel()), t)[1], lambda t: t
        ):
            saved.append([])
            maps = model(x)
        sum(m.square().sum() for m in maps).backward()
        results.append([*maps, *(p.grad for p in model.parameters())])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert sum(saved[1]) < sum(saved[0]) / 2


def test_drop_path_grows_linearly_over_all_blocks() -> None:
    model = PiT('ti', drop_path_rate=0.1)
    rates = [
        getattr(block.drop_path1, 'drop_prob', 0.0)
        for stage in model.transformers
        for block in stage.blocks
    ]
    assert rates == pytest.approx([0.1 * i / 11 for i in range(12)])


def test_position_and_tokens_do_not_decay() -> None:
    model = PiTClassifier(TINY)
    wrapper = TimmOptimizer(dict(optimizer=dict(type='adamw', weight_decay=0.1)))(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decaying, others = (
        {
            names[id(p)]
            for group in wrapper.optimizer.param_groups
            for p in group['params']
            if bool(group['weight_decay']) == decays
        }
        for decays in (True, False)
    )
    assert {'pos_embed', 'cls_token', 'head.bias'} <= others
    assert {'head.weight', 'transformers.1.pool.fc.weight'} <= decaying


def test_dropout_of_the_head() -> None:
    model = PiTClassifier(TINY, drop_rate=0.9).train()
    x = image(1, 3, 16, 16)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_bf16_autocast_is_finite_and_near_float32() -> None:
    model = randomised(PiT(TINY)).eval()
    x = 40 * image(1, 3, 24, 24)
    with torch.no_grad():
        expected = model(x)
        with torch.autocast('cpu', torch.bfloat16):
            found = model(x)
    for half, full in zip(found, expected, strict=True):
        assert half.isfinite().all()
        assert (half.float() - full).norm() / full.norm() < 0.05


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(arch='l'), "arch='l' is not known: choose from"),
        (dict(arch=dict(depths=(1,))), r'lacks .*heads'),
        (dict(arch=dict(TINY, heads=(1, 2))), 'different number of stages'),
        (dict(arch=dict(TINY, width=3)), r"unknown fields \['width'\]"),
        (dict(arch=dict(TINY, stride=0)), 'stride=0'),
        (dict(arch=dict(TINY, image_size=3)), 'image_size=3.* patch_size=4'),
        (dict(arch=dict(TINY, depths=(0, 1, 1))), r'depths=\(0, 1, 1\)'),
        (dict(out_indices=(0, 3)), r'out_indices=\(0, 3\).* 0 to 2'),
        (dict(out_indices=()), r'out_indices=\(\)'),
        (dict(frozen_stages=4), 'frozen_stages=4: choose from -1'),
        (dict(drop_path_rate=1.0), r'drop_path_rate=1.0: must be in \[0, 1\)'),
        (dict(in_channels=0), 'in_channels=0'),
    ],
)
def test_bad_options_are_named(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        PiT(**{'arch': TINY, **options})


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(num_classes=0), 'num_classes=0'),
        (dict(drop_rate=1), r'drop_rate=1: must be in \[0, 1\)'),
    ],
)
def test_bad_options_of_the_classifier_are_named(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        PiTClassifier(TINY, **options)


def test_image_smaller_than_a_patch() -> None:
    with pytest.raises(ValueError, match=r'3 x 9 pixels: PiT needs .* 4 x 4'):
        PiTClassifier(TINY)(image(1, 3, 3, 9))


# -- weights and detectors ----------------------------------------------------------


@pytest.mark.parametrize('format', ['native', 'timm', 'pit', 'paddle'])
def test_pretrained_weights_of_every_format(format, tmp_path) -> None:
    weights = reference('pit_ti').state_dict()
    torch.save(convert_state_dict(weights, format), tmp_path / 'a.pth')
    checkpoint = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'))
    model = MMENGINE_MODELS.build(dict(type='mmpoolformer.PiT', init_cfg=checkpoint))
    model.init_weights()
    own = model.state_dict()
    norms = {f'norm{i}.{p}' for i in range(3) for p in ('weight', 'bias')}
    left = {'norm.weight', 'norm.bias', 'head.weight', 'head.bias'}
    assert own.keys() - weights.keys() == norms
    assert weights.keys() - own.keys() == left
    for key in own.keys() - norms:
        assert torch.equal(own[key], weights[key]), key


@pytest.mark.parametrize('suffix', ['.pth', '.pdparams'])
def test_zoo_names_and_paddles_files_as_init_cfg(suffix, tmp_path, monkeypatch) -> None:
    weights = reference('pit_ti_distilled').state_dict()
    torch.save(convert_state_dict(weights, 'pit'), tmp_path / 'pit_ti_distill_746.pth')
    source = 'zoo://pit_ti_distilled'
    monkeypatch.setattr(
        'mmpoolformer.checkpoints.zoo.fetch', lambda url, _: tmp_path / Path(url).name
    )
    if suffix == '.pdparams':
        convert_file(source, tmp_path / 'a.pdparams', 'paddle')
        source = str(tmp_path / 'a.pdparams')
    checkpoint = dict(type='Pretrained', checkpoint=source)
    model = PiT('ti', distilled=True, init_cfg=checkpoint)
    model.init_weights()
    assert torch.equal(model.cls_token, weights['cls_token'])
    fc = 'transformers.2.blocks.3.mlp.fc1.weight'
    assert torch.equal(model.state_dict()[fc], weights[fc])


@pytest.mark.parametrize(
    ('model', 'cure'),
    [
        (dict(arch=TINY, distilled=True), 'change the option distilled'),
        (dict(arch=dict(TINY, image_size=32)), 'another image size: .*image_size=...'),
        (dict(arch=TINY, num_classes=5), r"classes differs: .*fresh=\('head',\)"),
        (dict(arch=dict(TINY, depths=(1, 3, 1))), 'same architecture and size'),
    ],
)
def test_weights_that_do_not_fit(model, cure) -> None:
    weights = PiTClassifier(TINY).state_dict()
    with pytest.raises(CheckpointError, match=cure):
        load_weights(PiTClassifier(**model), weights)


def test_other_classes_start_anew() -> None:
    weights = randomised(PiTClassifier(TINY, distilled=True)).state_dict()
    model = PiTClassifier(TINY, num_classes=5, distilled=True)
    report = load_weights(model, weights, fresh=('head', 'head_dist'))
    assert set(report.new) == {
        f'{head}.{p}' for head in ('head', 'head_dist') for p in ('weight', 'bias')
    }
    assert torch.equal(model.norm.bias, weights['norm.bias'])


def test_retinanet_takes_it_as_backbone() -> None:
    pytest.importorskip('mmdet')
    from mmdet.structures import DetDataSample

    config = Config.fromfile(CONFIGS / 'retinanet_poolformer_s12_fpn_1x_coco.py')
    config.model.backbone = dict(type='mmpoolformer.PiT', arch='ti')
    config.model.neck.in_channels = [64, 128, 256]
    with DefaultScope.overwrite_default_scope('mmdet'):
        detector = MMENGINE_MODELS.build(config.model).train()
    truth = InstanceData(
        bboxes=torch.tensor([[10.0, 10, 90, 90]]), labels=torch.tensor([2])
    )
    sample = DetDataSample(gt_instances=truth)
    shapes = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape'), (96, 128))
    sample.set_metainfo(dict(shapes, scale_factor=(1.0, 1.0)))
    x = image(1, 3, 96, 128)
    losses = detector.loss(x, [sample])
    total = sum(sum(v) if isinstance(v, list) else v for v in losses.values())
    total.backward()
    backbone = dict(detector.backbone.named_parameters())
    assert [n for n, p in backbone.items() if p.grad is None] == []
    (found,) = detector.eval().predict(x, [sample])
    assert found.pred_instances.bboxes.shape[1] == 4
