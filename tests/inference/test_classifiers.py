"""Models by name: weights of any format and head, class names, preprocessing."""

import json
from pathlib import Path

import pytest
import timm
import torch
from golden_rule import GOLDEN
from mmengine.config import Config
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

from mmpoolformer import create_model, list_models
from mmpoolformer.checkpoints import ZOO, CheckpointError, convert_state_dict
from mmpoolformer.classification import ImageClassifier
from mmpoolformer.classification.preprocessing import (
    changed_settings,
    evaluation_settings,
    picture_size,
    recorded_settings,
)
from mmpoolformer.inference.classifiers import load_classifier
from mmpoolformer.models.from_config import check_name

IMAGE = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
IN_TIMM = [name for name in list_models() if ZOO[name].timm_name]


@pytest.mark.parametrize('name', IN_TIMM)
def test_pictures_are_prepared_as_timm_does(name: str) -> None:
    published = timm.get_pretrained_cfg(ZOO[name].timm_name).to_dict()
    theirs = resolve_model_data_config(None, pretrained_cfg=published)
    ours = evaluation_settings(name)
    assert str(create_transform(**ours)) == str(create_transform(**theirs))


@pytest.mark.parametrize(
    ('name', 'form'),
    [
        ('poolformer_s12', 'native'),
        ('poolformer_s12', 'sail'),
        ('poolformer_s12', 'mmpretrain'),
        ('poolformer_s12', 'huggingface'),
        ('poolformerv2_s12', 'sail'),
        ('caformer_s18', 'sail'),
        ('caformer_s18', 'timm'),
        ('pit_ti_distilled', 'native'),
    ],
)
def test_the_head_is_that_of_the_file(name: str, form: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model(name, num_classes=7).eval()
    weights = model.state_dict()
    if form != 'native':
        weights = convert_state_dict(weights, form)
    torch.save({'state_dict': weights}, tmp_path / 'file.pth')
    known = load_classifier(name, tmp_path / 'file.pth')
    assert known.num_classes == 7
    assert known.classes == ()
    assert not known.network.training
    with torch.no_grad():
        expected = model(IMAGE)
        assert torch.equal(known.network(IMAGE), expected)
    assert expected.shape == (1, 7)


@pytest.mark.parametrize('name', ['test_resnet', 'test_vit', 'deit_tiny_distilled'])
def test_models_of_timm(name: str, tmp_path: Path) -> None:
    name = timm.list_models(f'{name}*')[0]
    model = timm.create_model(name, num_classes=5).eval()
    torch.save(model.state_dict(), tmp_path / 'file.pth')
    known = load_classifier(f'timm/{name}', tmp_path / 'file.pth')
    image = torch.randn(1, *model.pretrained_cfg['input_size'])
    with torch.no_grad():
        assert torch.equal(known.network(image), model(image))
    picture = Image.effect_noise((200, 240), 90).convert('RGB')
    theirs = create_transform(**resolve_model_data_config(model))
    ours = create_transform(**known.settings)
    assert torch.equal(ours(picture), theirs(picture))


def atomic_file(num_classes: int = 6) -> dict:
    """Make what the Runner saves of the demonstration config."""
    root = Path(GOLDEN).parents[1]
    config = Config.fromfile(root / 'configs/classification/demo_poolformer_s12.py')
    backbone = dict(
        type='mmpoolformer.MetaFormerClassifier', arch='poolformer_s12', num_classes=6
    )
    model = ImageClassifier(backbone)
    classes = tuple('abcdefgh'[:num_classes])
    return {
        'meta': {'cfg': config.pretty_text, 'dataset_meta': {'classes': classes}},
        'state_dict': model.state_dict(),
        'optimizer': {'state': {}, 'param_groups': []},
    }


def test_a_trained_file_brings_classes_and_preprocessing(tmp_path: Path) -> None:
    content = atomic_file()
    torch.save(content, tmp_path / 'epoch_8.pth')
    known = load_classifier('poolformer_s12', tmp_path / 'epoch_8.pth')
    assert known.classes == ('a', 'b', 'c', 'd', 'e', 'f')
    assert known.num_classes == 6
    # As the demonstration config says, and the recipe that it inherits.
    assert known.settings == {
        'input_size': 64,
        'crop_pct': 1.0,
        'interpolation': 'bicubic',
    }
    own = known.network.state_dict()
    for key, value in content['state_dict'].items():
        assert torch.equal(own[key.removeprefix('backbone.')], value)


def test_given_class_names_replace_those_of_the_file(tmp_path: Path) -> None:
    torch.save(atomic_file(), tmp_path / 'epoch_1.pth')
    names = tuple('fedcba')
    known = load_classifier('poolformer_s12', tmp_path / 'epoch_1.pth', classes=names)
    assert known.classes == names
    with pytest.raises(ValueError, match=r'2 class names, but .* has 6 classes'):
        load_classifier('poolformer_s12', tmp_path / 'epoch_1.pth', classes=('a', 'b'))


def test_class_names_that_do_not_fit_the_head_are_refused(tmp_path: Path) -> None:
    torch.save(atomic_file(num_classes=4), tmp_path / 'odd.pth')
    with pytest.raises(CheckpointError, match=r'names 4 classes, but .* for 6'):
        load_classifier('poolformer_s12', tmp_path / 'odd.pth')


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    torch.save(create_model('poolformer_s24').state_dict(), tmp_path / 's24.pth')
    with pytest.raises(CheckpointError, match=r's24\.pth does not fit'):
        load_classifier('poolformer_s12', tmp_path / 's24.pth')
    with pytest.raises(ValueError, match=r's24\.pth: Error.*ResNet'):
        load_classifier('timm/test_resnet', tmp_path / 's24.pth')


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('poolformer_s13', 'did you mean .*poolformer_s12'),
        ('resnet50', 'or timm/resnet50 for timm'),
        ('timm/resnet5', "no model 'timm/resnet5': did you mean timm's resnet"),
        ('timm/resnet50.nothing', 'resnet50'),
    ],
)
def test_unknown_names_bring_similar_ones(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_name(name)


def test_the_recorded_config_is_read_and_not_run(tmp_path: Path) -> None:
    marker = tmp_path / 'marker'
    crafted = f"__import__('os').mkdir({str(marker)!r})"
    text = 'test_dataloader = dict(dataset=dict(transform=dict(crop_pct={})))\n{}\n'
    assert recorded_settings({'cfg': text.format(0.5, crafted)}) == {'crop_pct': 0.5}
    with pytest.raises(ValueError, match='malformed'):
        recorded_settings({'cfg': text.format(crafted, '')})
    assert not marker.exists()
    exec(text.format(crafted, ''))
    assert marker.exists()  # so running it would have been seen


@pytest.mark.parametrize(
    'meta',
    [
        {},
        {'cfg': None},
        {'cfg': 'model: resnet\n  a: ['},
        {'cfg': 'x = 1'},
        {'cfg': 'test_dataloader = dict(dataset=dict(pipeline=[dict(scale=224)]))'},
    ],
)
def test_other_configs_say_nothing_about_preprocessing(meta: dict) -> None:
    assert recorded_settings(meta) is None


def test_nested_settings_are_literals() -> None:
    text = 'val_dataloader = dict(dataset=dict(transform=dict(mean=[0.5, 0.5, 0.5], '
    text += "input_size=(3, 32, 48), more=[dict(a=dict(b=1)), {'c': -2}])))"
    settings = recorded_settings({'cfg': text})
    assert settings['more'] == [{'a': {'b': 1}}, {'c': -2}]
    assert picture_size(settings) == (32, 48)
    assert json.loads(json.dumps(changed_settings(settings, 16, 0.5))) == {
        'mean': [0.5, 0.5, 0.5],
        'input_size': [3, 16, 16],
        'crop_pct': 0.5,
        'more': [{'a': {'b': 1}}, {'c': -2}],
    }
