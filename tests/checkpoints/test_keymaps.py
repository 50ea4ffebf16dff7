"""Names of every format against timm, literal examples, and the way back."""

import copy
from collections import OrderedDict

import pytest
import timm
import torch

from mmpoolformer.checkpoints import (
    FORMATS,
    convert_state_dict,
    detect_format,
    find_prefix,
    native_keys,
)

from .weights import METAFORMER, NAMES, numbered, same

METAFORMERS = tuple(f for f in FORMATS if f not in ('pit', 'paddle'))
IN_TIMM = ('poolformer_s12', 'poolformerv2_s12', 'convformer_s18', 'caformer_s18')


@pytest.mark.parametrize('name', IN_TIMM)
def test_native_names_and_shapes_are_timms(name) -> None:
    with torch.device('meta'):
        expected = timm.create_model(name).state_dict()
    found = convert_state_dict(numbered(name), 'native')
    assert {k: v.shape for k, v in found.items()} == {
        k: v.shape for k, v in expected.items()
    }


@pytest.mark.parametrize('name', IN_TIMM)
def test_values_go_where_timm_puts_them(name) -> None:
    with torch.device('meta'):
        model = timm.create_model(name)
    reference = timm.models.metaformer.checkpoint_filter_fn(numbered(name), model)
    assert same(convert_state_dict(numbered(name), 'timm'), reference)


@pytest.mark.parametrize('name', ['poolformer_s12', 'poolformer_s12_feat', *METAFORMER])
def test_way_back_gives_the_same(name) -> None:
    weights = numbered(name)
    assert detect_format(weights) == 'sail'
    native = convert_state_dict(weights, 'native')
    assert len(native) == len(weights)
    assert detect_format(native) == ('native' if 'feat' in name else 'timm')
    back = convert_state_dict(native, 'sail')
    assert list(back) == list(weights)
    assert same(back, weights)
    assert same(convert_state_dict(back, 'native'), native)


@pytest.mark.parametrize('target', METAFORMERS)
@pytest.mark.parametrize('source', METAFORMERS)
def test_every_format_to_every_other_and_back(source, target) -> None:
    weights = convert_state_dict(numbered('poolformer_s12'), source)
    there = convert_state_dict(weights, target)
    names = {'native': 'timm'}  # alike for classifiers
    assert detect_format(there) == names.get(target, target)
    back = convert_state_dict(there, source, target)
    assert list(back) == list(weights)
    assert same(back, weights)


@pytest.mark.parametrize('format', NAMES)
def test_literal_names(format) -> None:
    native = convert_state_dict(numbered('poolformer_s12'), 'native')
    theirs = convert_state_dict(native, format)
    for ours, name in NAMES[format].items():
        assert torch.equal(theirs[name], native[ours])


def test_output_norms_are_told_by_the_other_names() -> None:
    weights = numbered('poolformer_s12_feat')
    native = convert_state_dict(weights, 'native')
    for ours, theirs in enumerate((0, 2, 4, 6)):
        expected = weights[f'norm{theirs}.weight']
        assert torch.equal(native[f'norm{ours}.weight'], expected)
    again = convert_state_dict(native, 'native')
    assert torch.equal(again['norm2.weight'], weights['norm4.weight'])


def test_position_embeddings_of_the_hybrids() -> None:
    for name, stage in (('pppa', 3), ('ppaa', 2)):
        weights = numbered(f'metaformer_{name}_s12_224')
        native = convert_state_dict(weights, 'native')
        assert torch.equal(
            native[f'stages.{stage}.pos_embed'],
            weights[f'network.{stage * 2}.pos_embed'],
        )
        qkv = native['stages.3.blocks.1.token_mixer.qkv.weight']
        assert torch.equal(qkv, weights['network.7.1.token_mixer.qkv.weight'])
        # 1x1 convolutions there; here, as in timm, linear layers beside attention.
        fc1 = native['stages.3.blocks.1.mlp.fc1.weight']
        theirs = weights['network.7.1.mlp.fc1.weight']
        assert (fc1.shape, theirs.shape) == ((2048, 512), (2048, 512, 1, 1))
        assert torch.equal(fc1, theirs[:, :, 0, 0])
        assert native['stages.1.blocks.1.mlp.fc1.weight'].ndim == 4


def test_linear_weights_change_shape_and_nothing_else() -> None:
    weights = numbered('caformer_s18')
    native = convert_state_dict(weights, 'native')
    theirs = weights['stages.1.2.token_mixer.pwconv1.weight']
    ours = native['stages.1.blocks.2.token_mixer.pwconv1.weight']
    assert (theirs.shape, ours.shape) == ((256, 128), (256, 128, 1, 1))
    assert torch.equal(ours[:, :, 0, 0], theirs)
    assert native['stages.2.blocks.0.mlp.fc1.weight'].shape == (1280, 320)


@pytest.mark.parametrize('prefix', ['backbone.', 'module.backbone.'])
def test_only_what_is_under_the_prefix_is_converted(prefix) -> None:
    part = numbered('poolformer_s12_feat')
    others = {
        'neck.network.0.0.norm1.weight': torch.ones(1),
        'norm2.weight': torch.ones(1),
    }
    weights = {**{prefix + k: v for k, v in part.items()}, **others}
    assert find_prefix(weights) == prefix
    native = convert_state_dict(weights, 'native', prefix=prefix)
    expected = convert_state_dict(part, 'native')
    assert same(native, {**{prefix + k: v for k, v in expected.items()}, **others})
    assert list(native)[-2:] == list(others)
    assert same(convert_state_dict(native, 'sail', prefix=prefix), weights)


def test_prefix_of_a_classifier_of_mmpretrain() -> None:
    weights = convert_state_dict(numbered('poolformer_s12'), 'mmpretrain')
    assert find_prefix(weights) == ''
    assert find_prefix({f'module.{key}': value for key, value in weights.items()}) == (
        'module.'
    )


def test_two_backbones_are_not_guessed_between() -> None:
    weights = {
        f'{who}.backbone.{key}': value
        for who in ('student', 'teacher')
        for key, value in numbered('poolformer_s12').items()
    }
    with pytest.raises(ValueError, match=r'student\.backbone\., teacher\.backbone\.'):
        find_prefix(weights)


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match=r'layer1\.0\.conv1.* known are native, timm'):
        detect_format(['layer1.0.conv1.weight', 'fc.weight'])
    with pytest.raises(ValueError, match='no known format'):
        find_prefix(['layer1.0.conv1.weight'])
    with pytest.raises(ValueError, match="no format 'keras': choose from native"):
        convert_state_dict(numbered('poolformer_s12'), 'keras')
    with pytest.raises(ValueError, match="of the format 'sail', not 'huggingface'"):
        convert_state_dict(numbered('poolformer_s12'), 'timm', 'huggingface')


@pytest.mark.parametrize(
    ('name', 'target', 'nameless'),
    [
        ('poolformer_s12_feat', 'huggingface', r'norm0\.weight'),
        ('poolformer_s12_feat', 'mmpretrain', r'norm3\.weight'),
        ('caformer_s18', 'huggingface', r'stem\.norm\.weight'),
    ],
)
def test_formats_without_a_name_refuse(name, target, nameless) -> None:
    with pytest.raises(ValueError, match=f'{target} has no name for .*{nameless}'):
        convert_state_dict(numbered(name), target)


def test_mmpretrain_names_need_a_classifier() -> None:
    weights = numbered('poolformer_s12').items()
    weights = {k: v for k, v in weights if not k.startswith(('norm', 'head'))}
    with pytest.raises(ValueError, match='mmpretrain files hold a whole classifier'):
        convert_state_dict(weights, 'mmpretrain')


@pytest.mark.parametrize('extra', ['neck.weight', 'network.0.0.layer_scale1.scale'])
def test_names_that_would_be_lost_are_refused(extra) -> None:
    weights = {**numbered('poolformer_s12'), extra: torch.ones(1)}
    with pytest.raises(ValueError, match=f'sail files do not have: {extra}'):
        convert_state_dict(weights, 'native')


def test_native_keys_renames_in_place_and_leaves_the_rest() -> None:
    part = numbered('poolformer_s12_feat')
    weights = OrderedDict({f'backbone.{k}': v for k, v in part.items()})
    weights['backbone.extra'] = weights['bbox_head.norm2.weight'] = torch.ones(1)
    weights._metadata = {'': {'version': 1}}
    native_keys(weights, 'backbone.')
    expected = convert_state_dict(part, 'native')
    assert same({k: weights[f'backbone.{k}'] for k in expected}, expected)
    assert list(weights)[-2:] == ['backbone.extra', 'bbox_head.norm2.weight']
    assert weights._metadata == {'': {'version': 1}}


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_native_keys_leaves_native_and_unknown_names(prefix) -> None:
    native = convert_state_dict(numbered('poolformer_s12_feat'), 'native')
    for weights in (native, {'layer1.conv1.weight': torch.ones(1)}):
        weights = {prefix + key: value for key, value in weights.items()}
        before = copy.copy(weights)
        native_keys(weights, prefix)
        assert list(weights) == list(before)
        assert same(weights, before)
