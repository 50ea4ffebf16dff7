"""PoolFormer against the original, timm, the published counts and its contract."""

import pytest
import timm
import torch
from golden_rule import golden_image, golden_output, golden_state_dict
from mmengine.registry import MODELS as MMENGINE_MODELS
from random_weights import randomised
from torch import nn

from mmpoolformer import PoolFormer, create_model, list_models
from mmpoolformer.models import POOLFORMER, MetaFormerClassifier, Variant
from mmpoolformer.models.base import RecomputedSequential

TINY = dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))


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


def test_lists_from_a_config_are_taken() -> None:
    config = dict(
        type='mmpoolformer.PoolFormer',
        arch=dict(depths=[1, 1], dims=[8, 16], layer_scale_init=1.0),
        out_indices=[0, 1],
    )
    model = MMENGINE_MODELS.build(config)
    assert model.out_channels == (8, 16) and model.out_strides == (4, 8)
    assert model.stages[0].blocks[0].layer_scale1.scale[0] == 1


def test_options_change_the_architecture() -> None:
    model = PoolFormer(
        's24',
        token_mixers=('identity', 'pooling', 'pooling', 'attention'),
        pool_size=5,
        norm='layer_norm',
        activation='relu',
        residual=False,
        layer_scale_init=False,
        attention_window=7,
    )
    assert model.variant == Variant(
        (4, 4, 12, 4),
        (64, 128, 320, 512),
        ('identity', 'pooling', 'pooling', 'attention'),
        pool_size=5,
        norm='layer_norm',
        activation='relu',
        residual=False,
        layer_scale_init=None,
        attention_window=7,
    )
    kinds = [type(stage.blocks[0].token_mixer).__name__ for stage in model.stages]
    assert kinds == ['Identity', 'Pooling', 'Pooling', 'Attention']
    assert model.stages[1].blocks[0].token_mixer.pool.kernel_size == 5
    names = [name for name, _ in PoolFormer(TINY, mlp=False).named_parameters()]
    unused = ('.mlp.', '.norm2.', '.layer_scale2.')
    assert not any(part in name for name in names for part in unused)
    based = PoolFormer(dict(base='s24', pool_size=5), res_scale_init=1.0)
    assert based.variant == Variant(
        (4, 4, 12, 4), (64, 128, 320, 512), pool_size=5, res_scale_init=1.0
    )
