"""PoolFormer against the original, timm, the published counts and its contract."""

import copy
import itertools
import warnings

import pytest
import timm
import torch
from golden_rule import golden_image, golden_output, golden_state_dict
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import nn

from mmpoolformer import PoolFormer, create_model, list_models
from mmpoolformer.models import POOLFORMER, MetaFormerClassifier
from mmpoolformer.models.base import RecomputedSequential

TINY = dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter a value away from its start, layer scales near 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 0
        is_factor = 'scale' in name or ('norm' in name and 'weight' in name)
        start = 1.0 if is_factor else 0.0
        value = noise / fan_in**0.5 if fan_in else start + 0.1 * noise
        parameter.data.copy_(value)
    return model


def test_stage_maps_equal_the_original() -> None:
    model = create_model('poolformer_s12', features_only=True).eval()
    model.load_state_dict(golden_state_dict('poolformer_s12_feat'))
    expected = golden_output('poolformer_s12_feat_64x96')
    with torch.no_grad():
        maps = model(golden_image(1, 3, 64, 96))
    assert len(maps) == len(expected) == 4
    for i, found in enumerate(maps):
        scale = expected[f'out{i}'].abs().max()
        torch.testing.assert_close(
            found / scale, expected[f'out{i}'] / scale, rtol=0, atol=1e-5
        )


def test_logits_equal_the_original() -> None:
    model = create_model('poolformer_s12').eval()
    model.load_state_dict(golden_state_dict('poolformer_s12'))
    expected = golden_output('poolformer_s12_logits')['logits']
    with torch.no_grad():
        found = model(golden_image(1, 3, 224, 224))
    scale = expected.abs().max()
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize('size', [(64, 64), (97, 131)])
@pytest.mark.parametrize('arch', ['s12', 'm36'])
def test_stage_maps_equal_timm(arch: str, size: tuple[int, int]) -> None:
    reference = timm.create_model(f'poolformer_{arch}', features_only=True).eval()
    randomised(reference)
    model = PoolFormer(arch).eval()
    weights = {
        key.replace('stages_', 'stages.'): value
        for key, value in reference.state_dict().items()
    }
    fresh = model.load_state_dict(weights, strict=False)
    assert not fresh.unexpected_keys
    assert all(key.startswith('norm') for key in fresh.missing_keys)
    for i in range(4):  # timm gives the maps before any output norm
        setattr(model, f'norm{i}', nn.Identity())
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for found, expected in zip(model(image), reference(image), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_models_are_those_of_the_paper() -> None:
    assert list_models('poolformer_*') == [f'poolformer_{arch}' for arch in POOLFORMER]
    assert list_models('pool*r_s?6') == ['poolformer_s36']
    assert list_models('resnet*') == []


@pytest.mark.parametrize('arch', POOLFORMER)
def test_declared_channels_and_strides_are_the_real_ones(arch: str) -> None:
    model = PoolFormer(arch).eval()
    with torch.no_grad():
        maps = model(torch.zeros(1, 3, 64, 128))
    shapes = [tuple(m.shape) for m in maps]
    declared = zip(model.out_channels, model.out_strides, strict=True)
    assert shapes == [(1, c, 64 // s, 128 // s) for c, s in declared]


@pytest.mark.parametrize('size', [(33, 47), (64, 65), (7, 200)])
def test_any_image_size_gives_maps(size: tuple[int, int]) -> None:
    maps = PoolFormer(TINY).eval()(torch.randn(1, 3, *size))
    # The closed form of a strided convolution's output size.
    height, width = ((n + 4 - 7) // 4 + 1 for n in size)
    for found in maps:
        assert found.shape[2:] == (height, width)
        assert found.isfinite().all()
        height, width = ((n + 2 - 3) // 2 + 1 for n in (height, width))


@pytest.mark.parametrize('channels', [1, 4])
def test_in_channels(channels: int) -> None:
    model = PoolFormer(TINY, in_channels=channels)
    assert model(torch.randn(1, channels, 64, 64))[0].shape == (1, 8, 16, 16)
    with pytest.raises(ValueError, match=rf'expected \(B, {channels}, H, W\)'):
        model(torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize(
    'indices', [c for n in range(1, 5) for c in itertools.combinations(range(4), n)]
)
def test_out_indices_are_stages_and_every_parameter_gets_a_gradient(
    indices: tuple[int, ...],
) -> None:
    torch.manual_seed(0)
    everything = PoolFormer(TINY)
    model = PoolFormer(TINY, out_indices=indices)
    part = {k: v for k, v in everything.state_dict().items() if k in model.state_dict()}
    model.load_state_dict(part)
    image = torch.randn(2, 3, 64, 64)
    maps = model(image)
    for found, i in zip(maps, indices, strict=True):
        torch.testing.assert_close(found, everything(image)[i], rtol=0, atol=0)
    sum((m * torch.randn_like(m)).sum() for m in maps).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_classifier_gives_every_parameter_a_gradient() -> None:
    model = MetaFormerClassifier(POOLFORMER['s12'], num_classes=7)
    logits = model(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_classifier_from_a_config() -> None:
    config = dict(type='mmpoolformer.MetaFormerClassifier', num_classes=7)
    options = dict(drop_path_rate=0.2, drop_rate=0.3, in_channels=1)
    for arch in ('poolformer_s12', TINY):
        model = MMENGINE_MODELS.build(dict(config, arch=arch, **options))
        assert model.eval()(torch.randn(2, 1, 32, 32)).shape == (2, 7)
        assert model.head.drop.p == 0.3
        assert model.stages[3].blocks[-1].drop_path.drop_prob == pytest.approx(0.2)
    with pytest.raises(ValueError, match=r'drop_rate=1: must be in \[0, 1\)'):
        MetaFormerClassifier(TINY, drop_rate=1)


def test_options_of_create_model_reach_the_model() -> None:
    options = dict(in_channels=1, drop_path_rate=0.5, with_cp=True)
    dense = create_model('poolformer_s12', features_only=True, **options)
    classifier = create_model('poolformer_s12', num_classes=7, drop_rate=0.4, **options)
    for model in (dense, classifier):
        assert model.in_channels == 1
        assert model.stages[3].blocks[-1].drop_path.drop_prob == pytest.approx(0.5)
        rows = [stage.blocks for stage in model.stages]
        assert all(isinstance(row, RecomputedSequential) for row in rows)
    assert (classifier.num_classes, classifier.head.drop.p) == (7, 0.4)


@pytest.mark.parametrize('frozen_stages', range(-1, 5))
def test_freezing(frozen_stages: int) -> None:
    model = PoolFormer(TINY, frozen_stages=frozen_stages, drop_path_rate=0.5)
    parts = [model.stem, *model.stages]
    for _ in range(2):  # after __init__, and again after train()
        for i, part in enumerate(parts):
            frozen = i <= frozen_stages
            assert all(p.requires_grad != frozen for p in part.parameters()), i
        model.train()
    training = [part.training for part in parts]
    assert training == [i > frozen_stages for i in range(5)]
    assert model.norm0.weight.requires_grad and model.norm3.training


def test_frozen_parts_do_not_move_and_the_others_do() -> None:
    torch.manual_seed(0)
    model = PoolFormer(TINY, frozen_stages=2).train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1)
    loss = sum(
        (m * torch.randn_like(m)).sum() for m in model(torch.randn(2, 3, 64, 64))
    )
    loss.backward()
    optimizer.step()
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    frozen = ('stem.', 'stages.0.', 'stages.1.')
    assert not any(key.startswith(frozen) for key in moved)
    assert {'stages.2.downsample.conv.weight', 'norm3.weight'} <= moved


def test_eval_and_train_return_the_model() -> None:
    model = PoolFormer(TINY)
    assert model.eval() is model and not model.stages[0].training
    assert model.train() is model and model.stages[0].training


def test_activation_checkpointing_changes_nothing() -> None:
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    plain = randomised(PoolFormer(TINY, drop_path_rate=0.3)).train()
    saving = PoolFormer(TINY, drop_path_rate=0.3, with_cp=True).train()
    saving.load_state_dict(plain.state_dict())
    results = []
    for model in (plain, saving):
        torch.manual_seed(7)  # the same paths are dropped
        maps = model(image)
        sum(m.square().sum() for m in maps).backward()
        results.append([*maps, *(p.grad for p in model.parameters())])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_drop_path_grows_linearly_over_all_blocks() -> None:
    model = PoolFormer('s12', drop_path_rate=0.1)
    rates = [
        getattr(m.drop_path, 'drop_prob', 0.0) for s in model.stages for m in s.blocks
    ]
    assert rates == pytest.approx([0.1 * i / 11 for i in range(12)])


def test_initialisation_follows_the_paper() -> None:
    torch.manual_seed(0)
    model = create_model('poolformer_s24')
    block = model.stages[2].blocks[0]
    assert block.mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert block.mlp.fc1.bias.abs().max() == 0
    assert model.head.fc.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert torch.equal(block.layer_scale1.scale, torch.full((320,), 1e-5))
    # PyTorch's own start of a convolution is uniform within 1 / sqrt(fan in).
    limit = (64 * 9) ** -0.5
    weight = model.stages[1].downsample.conv.weight
    assert 0.99 * limit < weight.abs().max() <= limit


def cpu_autocasts_to(dtype: torch.dtype) -> bool:
    # Where it doesn't, torch refuses (2.1) or warns and goes on in float32.
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            with torch.autocast('cpu', dtype):
                return torch.ones(1, 1).mm(torch.ones(1, 1)).dtype == dtype
        except RuntimeError:
            return False


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_is_finite_and_near_float32(dtype: torch.dtype) -> None:
    if not cpu_autocasts_to(dtype):
        pytest.skip(f'this torch has no autocast to {dtype} on the CPU')
    model = randomised(PoolFormer('s12')).eval()
    # Large values: squares of them would overflow half precision.
    image = 400 * torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(image)
        with torch.autocast('cpu', dtype):
            found = model(image)
    for half, full in zip(found, expected, strict=True):
        assert half.isfinite().all()
        error = (half.float() - full).norm() / full.norm()
        assert error < 0.02


def test_norm_statistics_of_half_precision_are_float32() -> None:
    model = PoolFormer(TINY).half()
    norm = model.norm0
    x = (
        300 * torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    ).half()
    expected = nn.functional.group_norm(x.double(), 1, eps=norm.eps)
    torch.testing.assert_close(norm(x).double(), expected, rtol=2e-3, atol=2e-3)


def test_training_in_bf16_autocast_gives_finite_gradients() -> None:
    model = randomised(PoolFormer(TINY)).train()
    with torch.autocast('cpu', torch.bfloat16):
        loss = sum(m.float().square().mean() for m in model(torch.randn(2, 3, 64, 64)))
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(arch='s13'), "arch='s13' is not known: choose from"),
        (dict(arch=dict(depths=(1,))), r"lacks \['dims'\]"),
        (dict(arch=dict(depths=(1,), dims=(8, 8))), 'different number of stages'),
        (dict(arch=dict(TINY, width=3)), r"unknown fields \['width'\]"),
        (dict(arch=dict(TINY, pool_size=0)), 'pool_size=0: give a whole number from 1'),
        (dict(arch=dict(TINY, mlp_ratio=0)), 'mlp_ratio=0'),
        (dict(arch=dict(depths=(0, 1), dims=(8, 8))), r'depths=\(0, 1\)'),
        (dict(out_indices=(0, 4)), r'out_indices=\(0, 4\).* 0 to 3'),
        (dict(out_indices=(1, 0)), r'out_indices=\(1, 0\)'),
        (dict(out_indices=()), r'out_indices=\(\)'),
        (dict(frozen_stages=5), 'frozen_stages=5: choose from -1'),
        (dict(frozen_stages=-2), 'frozen_stages=-2'),
        (dict(drop_path_rate=1.0), r'drop_path_rate=1.0: must be in \[0, 1\)'),
        (dict(in_channels=0), 'in_channels=0'),
    ],
)
def test_bad_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PoolFormer(**options)


def test_unknown_option_is_refused() -> None:
    with pytest.raises(TypeError, match='norm_layer'):
        MMENGINE_MODELS.build(dict(type='mmpoolformer.PoolFormer', norm_layer='LN'))


def test_unknown_model_name_suggests_near_ones() -> None:
    with pytest.raises(ValueError, match=r"no model 'poolformer_s11'.*poolformer_s12"):
        create_model('poolformer_s11')


def test_lists_from_a_config_are_taken() -> None:
    config = dict(
        type='mmpoolformer.PoolFormer',
        arch=dict(depths=[1, 1], dims=[8, 16], layer_scale_init=1.0),
        out_indices=[0, 1],
    )
    model = MMENGINE_MODELS.build(config)
    assert model.out_channels == (8, 16) and model.out_strides == (4, 8)
    assert model.stages[0].blocks[0].layer_scale1.scale[0] == 1


def test_pool_size_reaches_the_mixer() -> None:
    model = PoolFormer(dict(TINY, pool_size=5))
    mixer = model.stages[0].blocks[0].token_mixer
    impulse = torch.zeros(1, 8, 9, 9)
    impulse[..., 4, 4] = 25.0
    mixed = mixer(impulse)
    assert mixed[0, 0, 2, 2] == 1 and mixed[0, 0, 1, 4] == 0
    assert mixed[0, 0, 4, 4] == 1 - 25
