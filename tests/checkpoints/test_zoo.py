"""The table of published weights, and what a source can be."""

import pytest
import timm
import torch

from mmpoolformer import create_model
from mmpoolformer.checkpoints import ZOO, DownloadError, resolve_source


def test_table_names_every_size() -> None:
    from mmpoolformer.models import POOLFORMER

    assert list(ZOO) == [f'poolformer_{arch}' for arch in POOLFORMER]


@pytest.mark.parametrize('name', ZOO)
def test_entries_agree_with_timm_and_the_models(name) -> None:
    entry = ZOO[name]
    config = timm.get_pretrained_cfg(entry.timm_name)
    assert config.hf_hub_id == f'timm/{entry.timm_name}'
    assert entry.url.endswith(f'/v1.0/{name}.pth.tar')
    assert (entry.mean, entry.std) == (config.mean, config.std)
    assert (entry.crop_pct, entry.input_size) == (config.crop_pct, config.input_size)
    with torch.device('meta'):
        model = create_model(name)
    assert sum(p.numel() for p in model.parameters()) == entry.params


def test_paths(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv('HOME', str(tmp_path))
    path = tmp_path / 'with space' / 'ä.pth'
    for source in (path, str(path), '~/with space/ä.pth', path.as_uri()):
        assert resolve_source(source) == path


def test_url_is_fetched(server, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv('MMPOOLFORMER_CACHE', str(tmp_path))
    path = resolve_source(f'{server.url}#sha256={server.sha256}')
    assert path.read_bytes() == server.content


def test_zoo_name_is_fetched_with_its_hash(monkeypatch) -> None:
    fetched = []
    monkeypatch.setattr(
        'mmpoolformer.checkpoints.zoo.fetch', lambda *call: fetched.append(call)
    )
    resolve_source('zoo://poolformer_s12')
    entry = ZOO['poolformer_s12']
    assert fetched == [(entry.url, entry.sha256)]


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        ('zoo://poolformer_s13', r'no such name; did you mean .*poolformer_s12'),
        ('zoo://resnet50', r'did you mean poolformer_s12, .*poolformer_m48\?'),
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
    def download(*asked: str) -> str:
        assert asked == ('timm/poolformer_s12.sail_in1k', 'model.safetensors')
        return str(tmp_path / 'model.safetensors')

    monkeypatch.setattr('huggingface_hub.hf_hub_download', download)
    assert resolve_source(f'timm://{name}') == tmp_path / 'model.safetensors'


def test_timm_without_a_network(monkeypatch) -> None:
    from huggingface_hub.utils import LocalEntryNotFoundError

    def download(*_: str) -> str:
        raise LocalEntryNotFoundError('no connection\nand more lines')

    monkeypatch.setattr('huggingface_hub.hf_hub_download', download)
    with pytest.raises(
        DownloadError, match=r'cannot download timm/.* \(no connection\)$'
    ):
        resolve_source('timm://poolformer_s12')
