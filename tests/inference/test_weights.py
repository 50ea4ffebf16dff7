"""Where the weights of a model come from: one rule for every command."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmpoolformer import create_model
from mmpoolformer.inference.weights import Weights, fill_from_config, named_source
from mmpoolformer.models.from_config import build_from_config
from mmpoolformer.utils.errors import UserError

CLASSIFIER = dict(
    type='mmpoolformer.ImageClassifier',
    backbone=dict(
        type='mmpoolformer.MetaFormerClassifier', arch='poolformer_s12', num_classes=2
    ),
)


def built(model: dict, **settings: object) -> tuple[nn.Module, Config]:
    config = Config(dict(model=model, **settings))
    return build_from_config(config), config


def filled_with(value: float, path: Path, prefix: str = '') -> str:
    """Save a classifier whose tensors all have one value."""
    weights = create_model('poolformer_s12', num_classes=2).state_dict()
    torch.save(
        {prefix + k: torch.full_like(v, value) for k, v in weights.items()}, path
    )
    return str(path)


def value_of(model: nn.Module) -> float:
    values = {float(v) for p in model.state_dict().values() for v in (p.min(), p.max())}
    assert len(values) == 1
    return values.pop()


@pytest.mark.parametrize(
    ('name', 'checkpoint', 'source'),
    [
        ('poolformer_s12', None, 'zoo://poolformer_s12'),
        ('timm/resnet50', None, 'timm://resnet50'),
        ('timm/resnet50', 'random', 'random'),
        ('poolformer_s12', Path('a.pth'), 'a.pth'),
    ],
)
def test_names_have_published_weights(
    name: str, checkpoint: str | Path | None, source: str
) -> None:
    assert named_source(name, checkpoint) == source


def test_what_is_given_comes_before_what_the_config_names(tmp_path: Path) -> None:
    one = filled_with(1, tmp_path / '1.pth', 'backbone.')
    two = filled_with(2, tmp_path / '2.pth', 'backbone.')
    three = filled_with(3, tmp_path / '3.pth')
    start = dict(type='Pretrained', checkpoint=three)
    settings = {**CLASSIFIER, 'backbone': {**CLASSIFIER['backbone'], 'init_cfg': start}}
    for checkpoint, load_from, expected in (
        (one, two, (1, one)),
        (None, two, (2, two)),
        (None, None, (3, three)),
    ):
        model, config = built(settings, load_from=load_from)
        weights = fill_from_config(model, config, checkpoint)
        assert (value_of(model), weights.source) == expected
        assert weights.unfilled == ''


def test_random_leaves_the_model_as_it_is(tmp_path: Path) -> None:
    model, config = built(CLASSIFIER, load_from=filled_with(1, tmp_path / '1.pth'))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    weights = fill_from_config(model, config, 'random')
    assert weights == Weights('random', unfilled='all weights')
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_config_without_weights_is_refused_or_told() -> None:
    model, config = built(CLASSIFIER)
    with pytest.raises(UserError, match=r'names no weights of the whole model'):
        fill_from_config(model, config, None)
    weights = fill_from_config(model, config, None, may_be_random=True)
    assert weights == Weights('random', unfilled='all weights')


class Detector(nn.Module):
    """A backbone with weights of its own, and a head without."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(2, 2)

    def init_weights(self) -> None:
        self.backbone.init_weights()


def test_a_pretrained_backbone_is_loaded_and_the_rest_is_told(tmp_path: Path) -> None:
    start = dict(type='Pretrained', checkpoint=filled_with(4, tmp_path / '4.pth'))
    settings = {**CLASSIFIER['backbone'], 'init_cfg': start}
    config = Config(dict(model=dict(backbone=settings)))
    model = Detector(build_from_config(Config(dict(model=settings))))
    with pytest.raises(UserError, match=r'names no weights of the whole model'):
        fill_from_config(model, config, None)
    weights = fill_from_config(model, config, None, may_be_random=True)
    assert value_of(model.backbone) == 4
    assert weights.unfilled == 'all weights but those of backbone'
    assert weights.parts == ('backbone',)


def test_weights_of_a_classifier_of_timm_are_there_already(tmp_path: Path) -> None:
    name = 'test_resnet'
    settings = dict(type='mmpoolformer.TimmClassifier', name=name, num_classes=2)
    model, _ = built(settings)
    torch.save(model.backbone.state_dict(), tmp_path / 'net.pth')
    other, config = built({**settings, 'checkpoint': str(tmp_path / 'net.pth')})
    weights = fill_from_config(other, config, None)
    assert (weights.source, weights.unfilled) == (str(tmp_path / 'net.pth'), '')
    assert torch.equal(other.backbone.fc.weight, model.backbone.fc.weight)
