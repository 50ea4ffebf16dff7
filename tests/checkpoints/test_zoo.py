"""The table of published weights, and what a source can be."""

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from fvcore.nn import FlopCountAnalysis

from mmpoolformer import create_model, list_models
from mmpoolformer.checkpoints import ZOO, DownloadError, resolve_source
from mmpoolformer.models import VARIANTS
from mmpoolformer.models.variants import TRAININGS

# The authors' tables, in GMACs, cut or rounded to one digit; they and fvcore differ in
# what they count of norms.
PUBLISHED_GMACS = {
    'poolformer': dict(s12=1.8, s24=3.4, s36=5.0, m36=8.8, m48=11.6),
    'metaformer': dict(
        id_s12=1.8,
        pppa_s12_224=1.9,
        ppaa_s12_224=2.5,
        pppf_s12_224=1.8,
        ppff_s12_224=1.9,
    ),
    'identityformer': dict(s12=1.8, s24=3.4, s36=5.0, m36=8.8, m48=11.5),
    'randformer': dict(s12=1.9, s24=3.5, s36=5.2, m36=9.0, m48=11.9),
    'poolformerv2': dict(s12=1.8, s24=3.4, s36=5.0, m36=8.8, m48=11.5),
    'convformer': dict(
        s18=3.9,
        s36=7.6,
        m36=12.8,
        b36=22.6,
        s18_384=11.6,
        s36_384=22.4,
        m36_384=37.7,
        b36_384=66.5,
    ),
    'caformer': dict(
        s18=4.1,
        s36=8.0,
        m36=13.2,
        b36=23.2,
        s18_384=13.4,
        s36_384=26.0,
        m36_384=42.0,
        b36_384=72.2,
    ),
    'pit': dict(ti=0.71, xs=1.4, s=2.9, b=12.5),
}


def attention_macs(inputs: list, outputs: list) -> int:
    """Count what fvcore leaves out: queries times keys, and weights times values."""
    batch, heads, queries, channels = inputs[0].type().sizes()
    return 2 * batch * heads * queries * inputs[1].type().sizes()[2] * channels


def test_table_names_every_model() -> None:
    assert sorted(ZOO) == sorted(list_models())


@pytest.mark.parametrize('name', ZOO)
def test_parameters_are_those_of_the_model(name) -> None:
    with torch.device('meta'):
        model = create_model(name)
    assert sum(p.numel() for p in model.parameters()) == ZOO[name].params


def head_weights(name: str) -> int:
    """Return the multiply-accumulates of a MLP head, but for its norms."""
    channels = VARIANTS[name].dims[-1]
    return 4 * channels * channels + 4 * channels * ZOO[name].num_classes


def attention_of_stages(name: str) -> int:
    """Return the multiply-accumulates of queries with keys and weights with values."""
    variant = VARIANTS[name]
    return sum(
        2 * depth * variant.grid(stage)[0] ** 4 * dim
        for stage, (depth, dim, mixer) in enumerate(
            zip(variant.depths, variant.dims, variant.token_mixers, strict=True)
        )
        if mixer == 'attention'
    )


SMALLEST = ('_s12', '_s18', '_ti')


@pytest.mark.slow
@pytest.mark.parametrize('name', [n for n in ZOO if not n.endswith(TRAININGS[1:])])
def test_macs_are_those_of_the_model(name: str, long_mode: bool) -> None:
    if not (name.endswith(SMALLEST) or long_mode):
        pytest.skip('only with --long: the smallest of each family run always')
    entry = ZOO[name]
    with torch.device('meta'):
        model = create_model(name)
    model.to_empty(device='cpu').eval()  # numbers don't matter
    count = FlopCountAnalysis(model, torch.zeros(1, *entry.input_size))
    count.unsupported_ops_warnings(False)
    count.set_op_handle('aten::scaled_dot_product_attention', attention_macs)
    assert count.total() == pytest.approx(entry.macs, rel=1e-3)


@pytest.mark.parametrize('name', [n for n in ZOO if n.endswith('_384')])
def test_macs_at_384_follow_from_those_at_224(name) -> None:
    plain = name.removesuffix('_384')
    fixed = head_weights(plain)
    growing = ZOO[plain].macs - fixed - attention_of_stages(plain)
    # Every stage's map is 12 / 7 as high and wide.
    macs = fixed + growing * (12 / 7) ** 2 + attention_of_stages(name)
    assert ZOO[name].macs == pytest.approx(macs, rel=1e-4)
    assert ZOO[name].input_size == (3, 384, 384)


@pytest.mark.parametrize('name', [n for n in ZOO if n.endswith('_in21k')])
def test_macs_with_more_classes(name) -> None:
    plain = name.removesuffix('_in21k')
    more = head_weights(name) - head_weights(plain)
    assert ZOO[name].macs == ZOO[plain].macs + more
    assert ZOO[name].input_size == ZOO[plain].input_size


def test_macs_round_to_the_published_digits() -> None:
    for family, sizes in PUBLISHED_GMACS.items():
        for size, published in sizes.items():
            macs = ZOO[f'{family}_{size}'].macs / 1e9
            assert macs == pytest.approx(published, rel=0.01, abs=0.1), (family, size)


def test_fine_tuned_models_have_the_counts_of_their_architecture() -> None:
    names = [name for name in ZOO if name.endswith('_in21ft1k')]
    assert len(names) == 16
    for name in names:
        entry, plain = ZOO[name], ZOO[name.removesuffix('_in21ft1k')]
        assert (entry.params, entry.macs) == (plain.params, plain.macs)
        assert entry.input_size == plain.input_size
        assert entry.top1 > plain.top1


@pytest.mark.parametrize('name', [name for name in ZOO if ZOO[name].timm_name])
def test_entries_agree_with_timm(name) -> None:
    entry = ZOO[name]
    config = timm.get_pretrained_cfg(entry.timm_name)
    assert config.hf_hub_id == f'timm/{entry.timm_name}'
    assert (entry.mean, entry.std) == (config.mean, config.std)
    assert (entry.crop_pct, entry.input_size) == (config.crop_pct, config.input_size)
    assert entry.interpolation == config.interpolation
    assert entry.num_classes == config.num_classes


def test_names_in_urls_are_those_of_the_table() -> None:
    assert ZOO['caformer_s18_384_in21ft1k'].url == (
        'https://huggingface.co/sail/dl/resolve/main/caformer/'
        'caformer_s18_384_in21ft1k.pth'
    )
    assert ZOO['pit_s_distilled'].url == (
        'https://github.com/rwightman/pytorch-image-models/releases/download/'
        'v0.1-pit-weights/pit_s_distill_819.pth'
    )
    for name, entry in ZOO.items():
        stem = entry.url.rsplit('/', 1)[1].split('.')[0]
        if name.startswith('pit_'):  # whose names end in the accuracy
            stem = stem.replace('distill', 'distilled').rpartition('_')[0]
        assert stem == name


def test_classes_are_those_of_the_weights() -> None:
    with torch.device('meta'):
        assert create_model('caformer_s18_in21k').num_classes == 21_841
        assert create_model('caformer_s18_in21k', num_classes=5).num_classes == 5
        assert create_model('caformer_s18_in21ft1k').num_classes == 1000


def test_paths(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv('HOME', str(tmp_path))
    path = tmp_path / 'with space' / 'ä.pth'
    for source in (path, str(path), '~/with space/ä.pth', path.as_uri()):
        assert resolve_source(source) == path


def test_url_is_fetched(server, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv('MMPOOLFORMER_CACHE', str(tmp_path))
    path = resolve_source(f'{server.url}#sha256={server.sha256}')
    assert path.read_bytes() == server.content


def test_zoo_name_is_fetched_with_its_hash(server, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv('MMPOOLFORMER_CACHE', str(tmp_path))
    entry = replace(ZOO['poolformer_s12'], url=server.url, sha256=server.sha256)
    monkeypatch.setitem(ZOO, 'poolformer_s12', entry)
    assert resolve_source('zoo://poolformer_s12').read_bytes() == server.content
    monkeypatch.setitem(ZOO, 'poolformer_s12', replace(entry, sha256='0' * 64))
    with pytest.raises(DownloadError, match='0' * 64):
        resolve_source('zoo://poolformer_s12')


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        ('zoo://poolformer_s13', r'no such name; did you mean .*poolformer_s12'),
        ('zoo://resnet50', r'did you mean poolformer_s12, .*, \.\.\.\?'),
        (
            'timm://poolformer_s13',
            r'timm has no weights of this name; did you mean pool',
        ),
        ('timm://poolformer_s12.laion', r'timm has no weights of this name'),
        ('s3://bucket/a.pth', r"no scheme 's3'; give a path, file://"),
    ],
)
def test_unknown_names(source, message) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_source(source)


@pytest.mark.parametrize('name', ['poolformer_s12.sail_in1k', 'poolformer_s12'])
def test_timm_name_is_looked_up_on_the_hub(name, tmp_path, monkeypatch) -> None:
    def download(*asked: str) -> Path:
        assert asked == ('timm/poolformer_s12.sail_in1k', 'model.safetensors')
        return tmp_path / 'model.safetensors'

    monkeypatch.setattr('mmpoolformer.checkpoints.zoo.fetch_from_hub', download)
    assert resolve_source(f'timm://{name}') == tmp_path / 'model.safetensors'


def test_timm_without_a_network(monkeypatch) -> None:
    def metadata(_: str) -> None:
        raise ConnectionError('no connection\nand more lines')

    monkeypatch.setattr('huggingface_hub.get_hf_file_metadata', metadata)
    with pytest.raises(
        DownloadError, match=r'^timm://.*cannot download .*\(no connection and more'
    ):
        resolve_source('timm://poolformer_s12')
