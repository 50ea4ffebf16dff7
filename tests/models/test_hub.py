"""Folders as the Hugging Face hub has them, read by others and read again."""

import json
from pathlib import Path

import pytest
import timm
import torch
import yaml
from compared import image
from random_weights import randomised
from safetensors.torch import load_file, save_file
from torch import nn
from torch.testing import assert_close

from mmpoolformer import PiT, PoolFormer, create_model, save_pretrained
from mmpoolformer.checkpoints import (
    CheckpointError,
    convert_state_dict,
    read_checkpoint,
)
from mmpoolformer.classification.preprocessing import stated_settings
from mmpoolformer.models.classifier import MetaFormerClassifier

TINY = dict(base='caformer_s18', depths=(1, 1, 1, 1), dims=(8, 16, 32, 64))
# What transformers writes of sail/poolformer_s24, less what has no part in it.
TRANSFORMERS = {
    'architectures': ['PoolFormerForImageClassification'],
    'depths': [4, 4, 12, 4],
    'hidden_sizes': [64, 128, 320, 512],
    'id2label': {str(i): f'LABEL_{i}' for i in range(1000)},
    'model_type': 'poolformer',
    'num_channels': 3,
}
PREPARATION = {'input_size': (3, 96, 96), 'crop_pct': 0.8, 'interpolation': 'bicubic'}


@pytest.mark.parametrize(
    ('name', 'timms'),
    [('caformer_s18', 'caformer_s18'), ('pit_ti_distilled', 'pit_ti_distilled_224')],
)
def test_timm_reads_a_saved_classifier(name: str, timms: str, tmp_path: Path) -> None:
    model = randomised(create_model(name, num_classes=3)).eval()
    classes = ['ant', 'bee', 'cat']
    save_pretrained(model, tmp_path, classes=classes, preparation=PREPARATION)
    theirs = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    assert theirs.pretrained_cfg['architecture'] == timms
    assert theirs.pretrained_cfg['label_names'] == classes
    assert theirs.pretrained_cfg['crop_pct'] == 0.8
    images = image(2, 3, 224, 224)
    with torch.no_grad():
        assert_close(theirs(images), model(images))


def test_what_timm_saves_is_built(tmp_path: Path) -> None:
    theirs = timm.create_model('poolformerv2_s12', num_classes=4).eval()
    timm.models.save_for_hf(
        theirs, tmp_path, {'num_classes': 4}, safe_serialization=True
    )
    ours = create_model(str(tmp_path)).eval()
    images = image(1, 3, 64, 64)
    with torch.no_grad():
        assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-5)


def test_what_transformers_saves_is_built(tmp_path: Path) -> None:
    model = randomised(create_model('poolformer_s24', num_classes=1000))
    save_file(
        convert_state_dict(model.state_dict(), 'huggingface'),
        tmp_path / 'model.safetensors',
    )
    (tmp_path / 'config.json').write_text(json.dumps(TRANSFORMERS))
    assert_same(create_model(tmp_path), model)


def assert_same(found: nn.Module, expected: nn.Module) -> None:
    weights = expected.state_dict()
    assert found.state_dict().keys() == weights.keys()
    for name, value in found.state_dict().items():
        assert torch.equal(value, weights[name]), name


@pytest.mark.parametrize(
    'model',
    [
        MetaFormerClassifier(TINY, num_classes=5, in_channels=4),
        PoolFormer(dict(base='s12', depths=(1, 1, 1, 1)), out_indices=(1, 2)),
        PiT(dict(base='ti', depths=(1, 1, 1)), distilled=True),
    ],
    ids=lambda model: type(model).__name__,
)
def test_saved_model_is_built_again(model: nn.Module, tmp_path: Path) -> None:
    randomised(model)
    save_pretrained(model, tmp_path)
    is_backbone = hasattr(model, 'out_indices')
    found = create_model(tmp_path, features_only=is_backbone)
    assert_same(found, model)
    images = image(1, model.in_channels, 64, 64)
    with torch.no_grad():
        assert_close(found.eval()(images), model.eval()(images))
    if is_backbone:
        with pytest.raises(ValueError, match='holds a backbone: give features_only'):
            create_model(tmp_path)


def test_saved_classifier_starts_a_backbone_and_other_classes(tmp_path: Path) -> None:
    model = randomised(MetaFormerClassifier(TINY, num_classes=5))
    save_pretrained(model, tmp_path)
    weights = load_file(tmp_path / 'model.safetensors')
    assert weights.keys() == model.state_dict().keys()
    backbone = create_model(tmp_path, features_only=True).state_dict()
    assert torch.equal(backbone['stem.conv.weight'], weights['stem.conv.weight'])
    other = create_model(tmp_path, num_classes=7).state_dict()
    anew = [k for k in weights if not torch.equal(other[k], weights[k])]
    assert set(anew) == {'head.fc.fc2.weight', 'head.fc.fc2.bias'}
    with pytest.raises(ValueError, match='not both'):
        create_model(tmp_path, 'other.pth')


def test_folder_is_a_checkpoint_with_classes_and_preparation(tmp_path: Path) -> None:
    model = MetaFormerClassifier(TINY, num_classes=2)
    save_pretrained(model, tmp_path, classes=['a', 'b'], preparation=PREPARATION)
    meta = read_checkpoint(tmp_path)['meta']
    assert meta['dataset_meta'] == {'classes': ('a', 'b')}
    assert stated_settings(meta) == PREPARATION


def test_card_says_what_the_model_is(tmp_path: Path) -> None:
    model = MetaFormerClassifier(TINY, num_classes=2)
    save_pretrained(
        model,
        tmp_path / 'insects',
        classes=['an|t\x1b', 'bee'],
        data='200 pictures',
        metrics={'accuracy/top1': 91.5},
        license='apache-2.0',
    )
    _, head, text = (tmp_path / 'insects' / 'README.md').read_text().split('---\n', 2)
    head = yaml.safe_load(head)
    assert head['license'] == 'apache-2.0'
    assert head['pipeline_tag'] == 'image-classification'
    result = head['model-index'][0]['results'][0]
    assert result['dataset']['name'] == '200 pictures'
    assert result['metrics'][0]['value'] == 91.5
    assert '| accuracy/top1 | 91.5 |' in text
    assert r'2: an\|t\x1b, bee' in text
    (tmp_path / 'insects' / 'README.md').write_text('my own')
    save_pretrained(model, tmp_path / 'insects')
    assert (tmp_path / 'insects' / 'README.md').read_text() == 'my own'
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert f'| parameters | {count:.2f} million |' in text


def test_model_of_others_needs_its_config(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='Linear is no classifier or backbone'):
        save_pretrained(nn.Linear(1, 1), tmp_path / 'x')
    assert not (tmp_path / 'x').exists()


@pytest.mark.parametrize(
    ('config', 'said'),
    [
        ({}, 'names no architecture'),
        ({'architecture': 'resnet50'}, 'names no architecture of this package'),
        ({'architecture': ['a']}, 'names no architecture'),
        ({'model_type': 'poolformer', 'depths': [1], 'hidden_sizes': 3}, 'names no'),
        ({'mmpoolformer': 3}, 'names no architecture'),
        ({'mmpoolformer': {'family': 'os', 'arch': 'system'}}, "family='os'"),
        ({'mmpoolformer': {'family': 'pit', 'arch': {'type': 'os.system'}}}, 'unknown'),
        ({'mmpoolformer': {'whole': 'RetinaNet'}}, 'a whole RetinaNet'),
    ],
)
def test_other_configs_are_refused(config: dict, said: str, tmp_path: Path) -> None:
    (tmp_path / 'config.json').write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=said):
        create_model(str(tmp_path))
