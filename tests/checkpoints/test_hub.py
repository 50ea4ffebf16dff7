"""Whole repositories of the Hugging Face hub, from a server that imitates it."""

import subprocess
import sys

import pytest
import torch
from mmengine.runner import CheckpointLoader
from random_weights import randomised
from tool_process import environment

from mmpoolformer import PoolFormer, create_model, save_pretrained
from mmpoolformer.checkpoints import (
    DownloadError,
    load_weights,
    read_source,
    register_safe_loaders,
)
from mmpoolformer.models import MetaFormerClassifier

TINY = dict(base='poolformer_s12', depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))
PLACE = '/ants/tiny/resolve/main'
FILES = ('config.json', 'model.safetensors')


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'hf'))
    return tmp_path / 'hf'


@pytest.fixture
def model(hub, cache, tmp_path):
    """A classifier that is on the hub as `ants/tiny`."""
    made = randomised(MetaFormerClassifier(TINY, num_classes=2))
    save_pretrained(made, tmp_path / 'saved', classes=['ant', 'bee'])
    for file in FILES:
        hub.files[f'{PLACE}/{file}'] = (tmp_path / 'saved' / file).read_bytes()
    return made


def test_model_of_the_hub_is_built_and_cached(hub, model, cache) -> None:
    found = create_model('hf://ants/tiny').state_dict()
    assert all(torch.equal(found[k], v) for k, v in model.state_dict().items())
    asked = list(hub.requests)
    assert all(asked.count(f'GET {PLACE}/{file}') == 1 for file in FILES)
    create_model('hf://ants/tiny', features_only=True)
    assert hub.requests == asked
    assert list(cache.rglob('model.safetensors'))


def test_weights_of_the_hub_go_wherever_weights_are_named(model, monkeypatch) -> None:
    schemes = dict(CheckpointLoader._schemes)
    monkeypatch.setattr(CheckpointLoader, '_schemes', schemes)
    register_safe_loaders()
    stem = model.state_dict()['stem.conv.weight']
    backbone = PoolFormer(
        TINY | dict(base='s12'),
        init_cfg=dict(type='Pretrained', checkpoint='hf://ants/tiny'),
    )
    backbone.init_weights()
    assert torch.equal(backbone.state_dict()['stem.conv.weight'], stem)
    for read in (read_source, CheckpointLoader.load_checkpoint):
        content = read('hf://ants/tiny')
        assert torch.equal(content['stem.conv.weight'], stem)
        assert content['meta']['dataset_meta'] == {'classes': ('ant', 'bee')}
    assert load_weights(model, 'hf://ants/tiny@main').loaded


def test_other_revision_is_another_file(hub, model) -> None:
    with pytest.raises(DownloadError, match=r'resolve/v2/model\.safetensors'):
        create_model('hf://ants/tiny@v2')
    for file in FILES:
        hub.files[f'/ants/tiny/resolve/v2/{file}'] = hub.files[f'{PLACE}/{file}']
    create_model('hf://ants/tiny@v2')


def test_pickles_of_the_hub_are_not_asked_for(hub, model) -> None:
    hub.files[f'{PLACE}/pytorch_model.bin'] = b'no'
    del hub.files[f'{PLACE}/model.safetensors']
    with pytest.raises(DownloadError, match=r'model\.safetensors .*404'):
        read_source('hf://ants/tiny')
    assert not any('.bin' in request for request in hub.requests)


def test_repository_without_config_is_a_checkpoint_alone(hub, model) -> None:
    del hub.files[f'{PLACE}/config.json']
    assert 'meta' not in read_source('hf://ants/tiny')
    with pytest.raises(ValueError, match='names no architecture'):
        create_model('hf://ants/tiny')


def test_offline(hub, model, monkeypatch) -> None:
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    with pytest.raises(DownloadError, match='offline mode is enabled'):
        create_model('hf://ants/tiny')
    assert hub.requests == []
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', False)
    create_model('hf://ants/tiny')
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    hub.requests.clear()
    create_model('hf://ants/tiny')
    assert hub.requests == []


@pytest.mark.slow
def test_mirror_of_the_environment(hub, model, tmp_path) -> None:
    variables = {
        **environment(),
        'HF_ENDPOINT': f'http://127.0.0.1:{hub.server_port}',
        'HF_HOME': str(tmp_path / 'home'),
    }
    code = "from mmpoolformer.checkpoints import read_source; read_source('hf://ants/tiny')"
    subprocess.run(
        [sys.executable, '-c', code], env=variables, cwd=tmp_path, check=True
    )
    assert f'GET {PLACE}/model.safetensors' in hub.requests
    assert list((tmp_path / 'home').rglob('model.safetensors'))


@pytest.mark.parametrize('source', ['hf://', 'hf://ants', 'hf://a/b/c', 'hf://../a b'])
def test_other_places_are_refused(source: str) -> None:
    with pytest.raises(ValueError, match='give hf://OWNER/NAME'):
        read_source(source)
