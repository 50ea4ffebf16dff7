"""Test the command line of `mmpoolformer convert`."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image
from random_models import NAMES, Models, make_models
from random_weights import randomised
from timm.data import create_transform

from mmpoolformer import create_model
from mmpoolformer.apps.saving import _data_of
from mmpoolformer.checkpoints import read_checkpoint
from mmpoolformer.classification.preprocessing import stated_settings
from mmpoolformer.cli.convert import main
from mmpoolformer.data.classification import TimmDataset
from mmpoolformer.inference.predictor import Predictor
from mmpoolformer.models.from_config import build_from_config
from mmpoolformer.utils.errors import UserError


@pytest.mark.parametrize('prefix', ['backbone', 'backbone.'])
def test_a_prefix_needs_no_dot(tmp_path, prefix):
    weights = create_model('poolformer_s12').state_dict()
    source, found, given = (tmp_path / f'{name}.pth' for name in 'abc')
    torch.save({f'backbone.{name}': value for name, value in weights.items()}, source)
    main([str(source), str(found), '--to', 'sail'])
    main([str(source), str(given), '--to', 'sail', '--prefix', prefix])
    expected = torch.load(found, weights_only=True)
    converted = torch.load(given, weights_only=True)
    expected, converted = (x.get('state_dict', x) for x in (expected, converted))
    assert expected.keys() == converted.keys()
    assert not expected.keys() & {f'backbone.{name}' for name in weights}
    assert all(torch.equal(expected[name], converted[name]) for name in expected)


@pytest.fixture(scope='module')
def made(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return make_models(tmp_path_factory.mktemp('made'))


@pytest.mark.parametrize('name', ['masks', 'segmentation', 'classification'])
def test_folder_of_a_trained_model_finds_the_same(
    made: Models, tmp_path: Path, name: str, capsys: pytest.CaptureFixture
) -> None:
    results = tmp_path / 'results.json'
    results.write_text(json.dumps({'metrics': {'coco/bbox_mAP': 0.25}}))
    words = [str(made.checkpoint(name)), str(tmp_path / 'hub'), '--model']
    words += [str(made.config(name)), '--results', str(results), '--license', 'mit']
    main(words)
    folder = tmp_path / 'hub'
    files = 'README.md, config.json, config.py, model.safetensors'
    assert capsys.readouterr().out.endswith(f'{folder}: {files}\n')
    found = Predictor(folder / 'config.py', folder)(made.pictures[0]).found
    expected = made.predictor(name)(made.pictures[0]).found
    other = asdict(expected)
    assert all(np.array_equal(v, other[key]) for key, v in asdict(found).items())
    card = (folder / 'README.md').read_text()
    assert 'license: mit' in card
    assert '| coco/bbox_mAP | 0.25 |' in card
    assert ', '.join(NAMES[name]) in card
    with pytest.raises(UserError, match='hub exists: choose another name, or --force'):
        main(words)
    main([*words, '--force'])


def test_folder_of_a_trained_classifier_is_built_by_name(
    made: Models, tmp_path: Path
) -> None:
    text = made.config('classification').read_text()
    kind = "type='mmpoolformer.TimmClassifier', name='test_resnet',\n    num_classes=3"
    assert kind in text
    arch = "dict(base='poolformer_s12', depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))"
    backbone = f"'mmpoolformer.MetaFormerClassifier', arch={arch}, num_classes=3"
    own = f"type='mmpoolformer.ImageClassifier', backbone=dict(type={backbone})"
    config, checkpoint = tmp_path / 'own.py', tmp_path / 'own.pth'
    config.write_text(text.replace(kind, own))
    model = randomised(build_from_config(Config.fromfile(config)))
    meta = {'dataset_meta': {'classes': NAMES['classification']}}
    torch.save({'meta': meta, 'state_dict': model.state_dict()}, checkpoint)
    main([str(checkpoint), str(tmp_path / 'hub'), '--model', str(config)])
    network = create_model(tmp_path / 'hub').eval()
    images = torch.rand(1, 3, 48, 48)
    with torch.no_grad():
        assert torch.equal(network(images), model.backbone.eval()(images))
    stated = stated_settings(read_checkpoint(tmp_path / 'hub')['meta'])
    asked = create_transform(input_size=48, crop_pct=1.0)
    picture = Image.open(made.pictures[1]).convert('RGB')
    assert torch.equal(create_transform(**stated)(picture), asked(picture))


def test_data_of_a_config_of_classes_has_its_name() -> None:
    dataset = {'type': TimmDataset, 'root': 'data/flowers'}
    config = Config({'test_dataloader': {'dataset': dataset}})
    assert _data_of(config) == 'TimmDataset (flowers)'


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (['--model', 'poolformer_s12', '--to', 'timm'], '--model: leave out --to'),
        (['--license', 'mit', '--to', 'timm'], 'only with --model'),
        (['--model', 'poolformer_s12', '--results', 'no.json'], 'no.json: no results'),
    ],
)
def test_options_of_the_folder(words: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        main(['a.pth', str(tmp_path / 'hub'), *words])
