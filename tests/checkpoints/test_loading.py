"""Weights of every origin in models, the report, and everything that doesn't fit."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from golden_rule import golden_image, golden_output, golden_state_dict
from torch import nn

from mmpoolformer import PiT, PoolFormer, create_model
from mmpoolformer.checkpoints import (
    CheckpointError,
    convert_state_dict,
    find_prefix,
    load_weights,
    loading,
)
from mmpoolformer.checkpoints.filling import fill_partly
from mmpoolformer.models import POOLFORMER, MetaFormerClassifier

TINY = dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))
FORMATS = ('native', 'timm', 'sail', 'mmpretrain', 'huggingface')


def tiny(seed: int = 0, **options) -> PoolFormer:
    """Make a small backbone with weights of its own."""
    torch.manual_seed(seed)
    model = PoolFormer(TINY, **options)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def tiny_classifier(seed: int = 0, num_classes: int = 5) -> nn.Module:
    torch.manual_seed(seed)
    variant = PoolFormer(TINY).variant
    model = MetaFormerClassifier(variant, num_classes)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def values(module: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def assert_loaded(module: nn.Module, weights: dict, names: tuple[str, ...]) -> None:
    own = module.state_dict()
    for name in names:
        assert torch.equal(own[name], weights[name]), name


@pytest.fixture(scope='module')
def golden() -> dict[str, torch.Tensor]:
    return golden_state_dict('poolformer_s12')


@pytest.mark.parametrize('format', FORMATS)
def test_file_of_every_format_fills_a_classifier_as_timm_would(
    format, golden, tmp_path
) -> None:
    path = tmp_path / 'a.pth'
    torch.save({'state_dict': convert_state_dict(golden, format)}, path)
    model = create_model('poolformer_s12', checkpoint=path)
    with torch.device('meta'):
        reference = timm.create_model('poolformer_s12')
    expected = timm.models.metaformer.checkpoint_filter_fn(golden, reference)
    assert_loaded(model, expected, tuple(model.state_dict()))


@pytest.mark.slow
@pytest.mark.parametrize('arch', POOLFORMER)
def test_every_size(arch) -> None:
    with torch.device('meta'):  # no numbers, only names and shapes
        reference = timm.create_model(f'poolformer_{arch}')
        model = create_model(f'poolformer_{arch}', features_only=True)
    weights = convert_state_dict(reference.state_dict(), 'sail')
    report = load_weights(model, weights)
    assert len(report.loaded) == len(weights) - 4
    assert {name[:5] for name in report.new} == {'norm0', 'norm1', 'norm2', 'norm3'}
    other = 's24' if arch == 's12' else 's12'
    with pytest.raises(CheckpointError, match='same architecture and size'):
        load_weights(PoolFormer(other), weights)


def test_dense_golden_weights() -> None:
    model = create_model('poolformer_s12', features_only=True).eval()
    report = load_weights(model, golden_state_dict('poolformer_s12_feat'))
    assert (len(report.loaded), report.new, report.left) == (136, (), ())
    expected = golden_output('poolformer_s12_feat_64x96')
    with torch.no_grad():
        for i, found in enumerate(model(golden_image(1, 3, 64, 96))):
            scale = expected[f'out{i}'].abs().max()
            difference = (found - expected[f'out{i}']).abs().max() / scale
            assert difference < 1e-5


def test_report_of_imagenet_weights_in_a_backbone(golden) -> None:
    model = create_model('poolformer_s12', features_only=True)
    before = values(model)
    report = load_weights(model, golden)
    assert report.source == 'a dict'
    assert (report.format, report.wrapper, report.prefix) == ('sail', '', '')
    assert len(report.loaded) == 128
    assert report.new == tuple(
        f'norm{i}.{p}' for i in range(4) for p in ('weight', 'bias')
    )
    head = ('head.norm.weight', 'head.norm.bias', 'head.fc.weight', 'head.fc.bias')
    assert report.left == head
    assert_loaded(model, before, report.new)
    assert str(report) == (
        '128 tensors from a dict (sail names), 8 new (norm0.weight, norm0.bias, '
        'norm1.weight, norm1.bias, norm2.weight and 3 more), 4 left (head.norm.weight, '
        'head.norm.bias, head.fc.weight, head.fc.bias)'
    )


@pytest.mark.parametrize(
    ('wrapper', 'prefix'),
    [
        ('', ''),
        ('', 'module.'),
        ('state_dict', ''),
        ('state_dict', 'backbone.'),
        ('model', 'module.backbone.'),
        ('model', 'model.'),
        ('model_ema', 'module.'),
        ('state_dict_ema', 'ema_model.module.backbone.'),
    ],
)
@pytest.mark.parametrize('zipped', [True, False])
def test_wrappers_and_prefixes(wrapper, prefix, zipped, tmp_path) -> None:
    source = values(tiny(1))
    sail = convert_state_dict(source, 'sail')
    weights = {prefix + key: value for key, value in sail.items()}
    content = {wrapper: weights, 'epoch': 3} if wrapper else weights
    torch.save(content, tmp_path / 'a.pth', _use_new_zipfile_serialization=zipped)
    model = tiny(2)
    report = load_weights(model, tmp_path / 'a.pth')
    assert_loaded(model, source, tuple(source))
    assert (report.wrapper, report.prefix) == (wrapper, prefix)
    assert ('averaged' in str(report)) == ('ema' in wrapper)


def test_averaged_weights_are_preferred() -> None:
    plain, averaged = values(tiny(1)), values(tiny(2))
    model = tiny(3)
    report = load_weights(model, {'state_dict': plain, 'state_dict_ema': averaged})
    assert report.wrapper == 'state_dict_ema'
    assert_loaded(model, averaged, tuple(averaged))
    load_weights(model, {'model': plain, 'model_ema': None})
    assert_loaded(model, plain, tuple(plain))


def test_mmengine_swaps_averaged_weights() -> None:
    averaged, plain = values(tiny(1)), values(tiny(2))
    ema = {f'module.{key}': value for key, value in plain.items()}
    model = tiny(3)
    load_weights(model, {'state_dict': averaged, 'ema_state_dict': ema})
    assert_loaded(model, averaged, tuple(averaged))


@pytest.mark.parametrize('format', ['native', 'sail'])
def test_backbone_out_of_a_whole_detector(format) -> None:
    source = values(tiny(1))
    weights = convert_state_dict(source, format)
    weights = {f'backbone.{key}': value for key, value in weights.items()}
    weights['neck.norm2.weight'] = weights['bbox_head.stem.conv.weight'] = torch.ones(1)
    model = tiny(2, out_indices=(1, 2))
    report = load_weights(model, {'state_dict': weights, 'meta': {}})
    assert_loaded(model, source, report.loaded)
    assert set(report.loaded) == set(model.state_dict())
    assert report.new == ()
    left = {'norm0', 'norm3', 'stages'}
    assert {name.split('.')[0] for name in report.left} == left
    assert all('stages.3.' in name for name in report.left if 'norm' not in name)


def test_prefix_chooses_among_several() -> None:
    parts = {'student': values(tiny(1)), 'teacher': values(tiny(2))}
    weights = {
        f'{who}.backbone.{key}': value
        for who, part in parts.items()
        for key, value in part.items()
    }
    model = tiny(3)
    with pytest.raises(ValueError, match='several backbones'):
        load_weights(model, weights)
    load_weights(model, weights, prefix='teacher.backbone')
    assert_loaded(model, parts['teacher'], tuple(parts['teacher']))
    with pytest.raises(CheckpointError, match=r"prefix 'x\.', only under student, tea"):
        load_weights(model, weights, prefix='x')


def test_other_number_of_classes() -> None:
    source = values(tiny_classifier(1, 5))
    model = tiny_classifier(2, 7)
    before = values(model)
    with pytest.raises(CheckpointError, match=r'2 of another shape \(head\.fc\.weight'):
        load_weights(model, source)
    report = load_weights(model, source, fresh=('head.fc',))
    assert report.new == ('head.fc.weight', 'head.fc.bias')
    assert_loaded(model, before, report.new)
    assert_loaded(model, source, report.loaded)


def test_a_config_starts_the_layer_of_other_classes_anew(tmp_path) -> None:
    path = tmp_path / 'five.pth'
    torch.save(values(tiny_classifier(1, 5)), path)
    given = dict(type='Pretrained', checkpoint=str(path))
    model = tiny_classifier(2, 7)
    before = values(model)
    model.init_cfg = given
    with pytest.raises(CheckpointError, match=r"fresh=\('head\.fc',\) of init_cfg or"):
        model.init_weights()
    for fresh in ('head.fc', ['head.fc']):
        model.init_cfg = dict(given, fresh=fresh)
        model.init_weights()
        assert_loaded(model, before, ['head.fc.weight', 'head.fc.bias'])


def test_the_cure_for_another_number_of_classes_is_named_for_an_mlp_head() -> None:
    arch = dict(base='caformer_s18', depths=(1, 1, 1, 1), dims=(32, 32, 32, 32))
    source = values(MetaFormerClassifier(arch, 5))
    model = MetaFormerClassifier(arch, 7)
    with pytest.raises(CheckpointError, match=r"classes differs.*'head\.fc\.fc2',"):
        load_weights(model, source)
    report = load_weights(model, source, fresh=('head.fc.fc2',))
    assert report.new == ('head.fc.fc2.weight', 'head.fc.fc2.bias')


@pytest.mark.parametrize('channels', [1, 2, 4, 6])
@pytest.mark.parametrize('kind', [PoolFormer, PiT])
def test_rgb_weights_for_other_channels_are_those_of_timm(kind, channels) -> None:
    key = {PoolFormer: 'stem.conv.weight', PiT: 'patch_embed.conv.weight'}[kind]
    arch = {PoolFormer: TINY, PiT: 'ti'}[kind]
    source = values(kind(arch))
    weight = source[key]
    model = kind(arch, in_channels=channels)
    report = load_weights(model, source)
    if channels == 1:
        expected, said = weight.sum(1, keepdim=True), '1 image channels summed over RGB'
    else:
        # Channels R, G, B, R, ... with outputs of the same size.
        expected = torch.stack([weight[:, i % 3] for i in range(channels)], 1)
        expected *= 3 / channels
        said = f'{channels} image channels repeated and scaled from RGB'
    torch.testing.assert_close(model.state_dict()[key], expected)
    assert report.channels == channels
    assert f'first layer for {said}, as in timm' in str(report)
    assert_loaded(model, source, tuple(k for k in report.loaded if k != key))


def test_rgb_weights_for_one_channel_see_a_grey_picture_alike(tmp_path) -> None:
    rgb = tiny().eval()
    torch.save(rgb.state_dict(), tmp_path / 'a.pth')
    grey = tiny(
        1,
        in_channels=1,
        init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth')),
    ).eval()
    grey.init_weights()
    x = torch.rand(1, 1, 64, 64)
    for one, three in zip(grey(x), rgb(x.expand(1, 3, 64, 64)), strict=True):
        torch.testing.assert_close(one, three, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(('theirs', 'ours'), [(4, 3), (1, 3), (4, 1)])
def test_weights_of_other_channels_than_rgb_are_refused(theirs, ours) -> None:
    message = (
        rf'1 of another shape \(stem\.conv\.weight \[8, {theirs}, 7, 7\], not '
        rf'\[8, {ours}, 7, 7\]\).*init_cfg=None'
    )
    with pytest.raises(CheckpointError, match=message):
        load_weights(tiny(in_channels=ours), values(tiny(in_channels=theirs)))


@pytest.mark.parametrize(
    ('depths', 'message'),
    [
        ((1, 1, 3, 1), r'10 missing \(stages\.2\.blocks\.2\.norm1\.weight'),
        (
            (1, 1, 1, 1),
            r'10 unknown to the model \(stages\.2\.blocks\.1\.norm1\.weight',
        ),
    ],
)
def test_other_depth(depths, message) -> None:
    model = PoolFormer(dict(TINY, depths=depths))
    with pytest.raises(
        CheckpointError, match=rf'{message}.*same architecture and size'
    ):
        load_weights(model, values(tiny()))


def test_other_width_names_a_few_and_counts_all() -> None:
    model = PoolFormer(dict(TINY, dims=(8, 16, 24, 40)))
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, values(tiny()))
    message = str(caught.value)
    assert message.startswith('a dict does not fit PoolFormer: 12 of another shape (')
    assert message.count('not [') == 5
    assert ' and 7 more)' in message


@pytest.mark.parametrize('drop', ['stem.conv.bias', 'stages.1.blocks.0.mlp.fc2.weight'])
def test_missing_parameters_leave_the_model_untouched(drop) -> None:
    weights = values(tiny(1))
    del weights[drop]
    model = tiny(2)
    before = values(model)
    with pytest.raises(CheckpointError, match=rf'1 missing \({drop}\)'):
        load_weights(model, weights)
    assert_loaded(model, before, tuple(before))


def test_one_missing_output_norm_is_new() -> None:
    weights = values(tiny(1))
    del weights['norm1.bias']
    assert load_weights(tiny(2), weights).new == ('norm1.bias',)
    with pytest.raises(CheckpointError, match=r'1 missing \(norm1\.bias\)'):
        load_weights(tiny(2), weights, fresh=())


def test_half_precision_files_fill_single_precision_models() -> None:
    weights = {key: value.half() for key, value in values(tiny(1)).items()}
    model = tiny(2)
    load_weights(model, weights)
    assert model.stem.conv.weight.dtype == torch.float32
    assert torch.equal(model.stem.conv.weight, weights['stem.conv.weight'].float())


@pytest.mark.parametrize('prefix', ['', 'module.', 'model.'])
def test_base_model_of_transformers(golden, prefix) -> None:
    whole = convert_state_dict(golden, 'huggingface')
    base = {
        prefix + key.removeprefix('poolformer.'): value
        for key, value in whole.items()
        if key.startswith('poolformer.')
    }
    model = create_model('poolformer_s12', features_only=True)
    report = load_weights(model, base)
    assert (report.format, report.prefix) == ('huggingface', prefix)
    assert (len(report.loaded), report.left) == (128, ())
    assert_loaded(model, convert_state_dict(golden, 'native'), report.loaded)
    assert find_prefix(whole) == ''
    assert find_prefix(f'net.{key}' for key in whole) == 'net.'
    with pytest.raises(
        CheckpointError, match=r"no classifier.*'head\.fc', 'head\.norm'"
    ):
        load_weights(create_model('poolformer_s12'), base)


def head_warnings(monkeypatch, load) -> list[str]:
    said = []
    monkeypatch.setattr(loading, 'warn', said.append)
    load()
    return said


@pytest.mark.parametrize('format', ['timm', 'sail', 'huggingface', 'mmpretrain'])
def test_head_that_timm_may_have_tuned_is_told(format, monkeypatch) -> None:
    weights = convert_state_dict(values(tiny_classifier()), format)
    content = {'state_dict': weights, 'arch': 'poolformer_s12'}
    said = head_warnings(monkeypatch, lambda: load_weights(tiny_classifier(1), content))
    assert len(said) == (format == 'timm')
    if said:
        assert "timm's head averages before its norm" in said[0]
        assert '\n' not in said[0]


@pytest.mark.parametrize(
    ('name', 'content'),
    [
        ('timm://poolformer_s12.sail_in1k', {}),
        ('epoch_3.pth', {'meta': {'mmengine_version': '0.10', 'epoch': 3}}),
    ],
)
def test_published_and_own_heads_are_not_warned_of(name, content, monkeypatch) -> None:
    content = {**content, 'state_dict': values(tiny_classifier())}
    model = tiny_classifier(1)
    load = lambda: load_weights(model, content, name=name)  # noqa: E731
    assert head_warnings(monkeypatch, load) == []


def test_no_warning_without_such_a_head(monkeypatch) -> None:
    weights = values(tiny_classifier())
    assert not head_warnings(monkeypatch, lambda: load_weights(tiny(), weights))
    v2 = create_model('poolformerv2_s12', num_classes=3)
    other = create_model('poolformerv2_s12', num_classes=3)
    assert not head_warnings(monkeypatch, lambda: load_weights(other, values(v2)))


def test_heads_of_timm_and_the_original_differ() -> None:
    # What the warning says.
    ours = create_model('poolformer_s12', num_classes=5).eval()
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.1)
    theirs = timm.create_model('poolformer_s12', num_classes=5).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert not torch.allclose(ours(x), theirs(x), rtol=1e-3)


def test_files_without_weights() -> None:
    with pytest.raises(CheckpointError, match='holds no weights, only epoch, args'):
        load_weights(tiny(), {'epoch': 3, 'args': None})
    with pytest.raises(
        CheckpointError, match="entry 'model', holds no weights, only a"
    ):
        load_weights(tiny(), {'model': {'a': np.ones(3)}})
    with pytest.raises(ValueError, match=r'no known format \(layer1\.0\.conv1\.weight'):
        load_weights(tiny(), {'layer1.0.conv1.weight': torch.ones(1)})


# -- through the backbone ------------------------------------------------------


def test_init_cfg_takes_paths_and_urls(tmp_path, server, monkeypatch) -> None:
    monkeypatch.setenv('MMPOOLFORMER_CACHE', str(tmp_path / 'cache'))
    source = values(tiny(1))
    path = tmp_path / 'a.pth'
    torch.save({'state_dict': convert_state_dict(source, 'sail')}, path)
    server.content = path.read_bytes()
    for checkpoint in (str(path), path.as_uri(), server.url):
        model = tiny(2, init_cfg=dict(type='Pretrained', checkpoint=checkpoint))
        model.init_weights()
        assert_loaded(model, source, tuple(source))


def test_zoo_weights_in_a_backbone(golden, tmp_path, monkeypatch) -> None:
    torch.save(golden, tmp_path / 'poolformer_s12.pth.tar')
    monkeypatch.setattr(
        'mmpoolformer.checkpoints.zoo.fetch', lambda url, _: tmp_path / Path(url).name
    )
    checkpoint = dict(type='Pretrained', checkpoint='zoo://poolformer_s12')
    model = PoolFormer('s12', init_cfg=checkpoint)
    model.init_weights()
    assert torch.equal(model.stem.conv.weight, golden['patch_embed.proj.weight'])


class Detector(nn.Module):
    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.backbone = tiny(2, out_indices=(1, 2, 3))
        self.head = nn.Conv2d(32, classes, 1)


def released_detector(source: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    weights = convert_state_dict(source, 'sail')
    weights = {f'backbone.{key}': value for key, value in weights.items()}
    return weights | {
        'head.weight': torch.ones(4, 32, 1, 1),
        'head.bias': torch.ones(4),
    }


def test_released_detector_loads_as_a_whole() -> None:
    source = values(tiny(1))
    model = Detector()
    result = model.load_state_dict(released_detector(source), strict=False)
    assert result.missing_keys == []
    assert result.unexpected_keys == ['backbone.norm0.weight', 'backbone.norm0.bias']
    assert_loaded(model.backbone, source, tuple(model.backbone.state_dict()))


def test_released_detector_starts_one_for_other_classes() -> None:
    source = values(tiny(1, out_indices=(1, 2, 3)))
    model = Detector(7)
    report = fill_partly(model, {'state_dict': released_detector(source)}, 'x.pth')
    # The authors' norm2 is that of our second stage, and of another width than ours.
    assert_loaded(model.backbone, source, tuple(source))
    shapes = ('head.weight [4, 32, 1, 1], not [7, 32, 1, 1]', 'head.bias [4], not [7]')
    assert (report.new, report.left, report.reshaped) == ((), (), shapes)
