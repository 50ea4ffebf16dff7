"""The baselines and hybrids against the original, timm and the published counts."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from compared import image
from golden_rule import (
    GOLDEN,
    golden_image,
    golden_output,
    golden_state_dict,
)
from random_weights import randomised
from timm.models.metaformer import Attention, GroupNorm1NoBias, LayerNorm2d, Pooling
from timm.models.metaformer import MetaFormer as TimmMetaFormer
from torch import nn

from mmpoolformer import create_model
from mmpoolformer.checkpoints import load_weights
from mmpoolformer.models import VARIANTS, MetaFormer

PARAMETERS = json.loads((GOLDEN / 'params.json').read_text())
NAMES = [
    name for name in json.loads((GOLDEN / 'keys.json').read_text()) if name in VARIANTS
]
LOGITS = {
    name: f'{name}_logits' if name.startswith(('poolformer_', 'metaformer_')) else name
    for name in NAMES
    if name not in ('metaformer_ppff_s12_224', 'caformer_s18_384')
}
MAPS = ('identityformer_s12', 'poolformerv2_s12', 'convformer_s18', 'caformer_s18')
# How far the golden numbers, which are float32, are from exact ones, rounded up.
ROUNDING = {('convformer_s18', 2): 1.5e-5, ('convformer_s18', 3): 2.5e-5}


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference relative to the largest value."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize('name', PARAMETERS)
def test_parameters_equal_the_original(name: str) -> None:
    with torch.device('meta'):
        model = create_model(name)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_original_files_load(name: str, tmp_path: Path) -> None:
    weights = golden_state_dict(name)
    torch.save(weights, tmp_path / 'weights.pth')
    model = create_model(name, checkpoint=tmp_path / 'weights.pth')
    # The same numbers in the same order, whatever their names and shapes.
    found = sorted(model.state_dict().values(), key=order)
    expected = sorted(weights.values(), key=order)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.flatten(), theirs.flatten())
    dense = create_model(name, features_only=True)
    report = load_weights(dense, weights)
    assert {key.split('.')[0] for key in report.new} == {
        'norm0',
        'norm1',
        'norm2',
        'norm3',
    }
    assert all(key.startswith('head.') for key in report.left)


def order(value: torch.Tensor) -> tuple[float, ...]:
    return (value.numel(), *value.flatten()[:3].tolist())


@pytest.mark.slow
@pytest.mark.parametrize('name', LOGITS)
def test_logits_equal_the_original(name: str) -> None:
    # In float64, so that the error is the golden numbers' own on every machine.
    model = create_model(name).double().eval()
    model.load_state_dict(golden_state_dict(name))
    with torch.no_grad():
        found = model(golden_image(1, 3, 224, 224).double())
    assert difference(found, golden_output(LOGITS[name])['logits']) < 1e-5


@pytest.mark.parametrize('name', MAPS)
def test_stage_maps_equal_the_original(name: str) -> None:
    model = create_model(name, features_only=True).double().eval()
    loaded = model.load_state_dict(golden_state_dict(name), strict=False)
    assert all(key.startswith('norm') for key in loaded.missing_keys)
    for i in range(4):  # the original's numbers are those before any output norm
        setattr(model, f'norm{i}', nn.Identity())
    expected = golden_output(name)
    with torch.no_grad():
        maps = model(golden_image(1, 3, 64, 96).double())
    for i, found in enumerate(maps):
        error = difference(found[:, :32], expected[f'stage{i}'])
        assert error < ROUNDING.get((name, i), 1e-5), i


@pytest.mark.slow
@pytest.mark.parametrize(
    'name',
    [
        *('poolformerv2_m36', 'convformer_s18'),
        pytest.param('convformer_m36', marks=pytest.mark.long),
        pytest.param('caformer_s36', marks=pytest.mark.long),
    ],
)
def test_logits_equal_timm(name: str) -> None:
    reference = randomised(timm.create_model(name)).double().eval()
    model = create_model(name).double().eval()
    model.load_state_dict(reference.state_dict())
    # timm's copy has another eps than the original's in this one norm.
    if name != 'poolformerv2_m36':
        reference.head.fc.norm.eps = model.head.fc.norm.eps
    for size in ((64, 64), (97, 131)):
        with torch.no_grad():
            found = model(image(2, 3, *size).double())
            expected = reference(image(2, 3, *size).double())
        assert difference(found, expected) < 1e-10


# What timm has no names for, put together from its parts.
PARTS = {
    'identityformer_s12': dict(token_mixers=nn.Identity, norm_layers=GroupNorm1NoBias),
    'metaformer_ppaa_s12_224': dict(
        token_mixers=[Pooling, Pooling, Attention, Attention],
        norm_layers=[partial(LayerNorm2d, eps=1e-5)] * 2
        + [partial(nn.LayerNorm, eps=1e-5)] * 2,
        downsample_norm=None,
        mlp_act=nn.GELU,
        mlp_bias=True,
        proj_bias=True,
        layer_scale_init_values=1e-5,
        res_scale_init_values=None,
    ),
}


@pytest.mark.parametrize('size', [(64, 64), (97, 131)])
@pytest.mark.parametrize('name', PARTS)
def test_stage_maps_equal_timms_parts(name: str, size: tuple[int, int]) -> None:
    reference = randomised(TimmMetaFormer(use_mlp_head=False, **PARTS[name])).eval()
    model = MetaFormer(name).eval()
    weights = reference.state_dict()
    fresh = model.load_state_dict(
        {key: value for key, value in weights.items() if not key.startswith('head.')},
        strict=False,
    )
    assert {key.split('.')[-1] for key in fresh.missing_keys} <= {
        'weight',  # of the output norms
        'bias',
        'pos_embed',  # which starts at zero
    }
    for i in range(4):
        setattr(model, f'norm{i}', nn.Identity())
    with torch.no_grad():
        found = model(image(2, 3, *size))
        _, expected = reference.forward_intermediates(image(2, 3, *size))
    for ours, theirs in zip(found, expected, strict=True):
        assert difference(ours, theirs) < 1e-5


def test_random_mixing_is_the_originals_formula() -> None:
    mixer = create_model('randformer_s12').stages[3].blocks[0].token_mixer
    x = image(2, 5, 7, 7)
    tokens = x.flatten(2).mT  # (B, N, C)
    mixed = torch.einsum('mn,bnc->bmc', mixer.random_matrix, tokens)
    torch.testing.assert_close(mixer(x), mixed.mT.unflatten(2, (7, 7)))


def test_trainings_of_one_architecture_differ_in_the_image_alone() -> None:
    for name in ('convformer_b36', 'caformer_s18'):
        for training in ('_384', '_in21ft1k', '_384_in21ft1k', '_in21k'):
            variant = VARIANTS[name + training]
            assert variant.image_size == (384 if '384' in training else 224)
            assert replace(variant, image_size=224) == VARIANTS[name]


@pytest.mark.parametrize('name', ['convformer_s18', 'randformer_s12'])
def test_every_layer_of_the_baselines_starts_truncated_normal(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.weight.numel() > 9000:
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
            assert layer.bias is None or layer.bias.abs().max() == 0
    block = model.stages[3].blocks[0]
    assert (block.mlp.act.scale, block.mlp.act.bias) == (1, 0)
    assert torch.equal(block.res_scale1.scale, torch.ones(512))
    assert not hasattr(model.stages[1].blocks[0].res_scale1, 'scale')
