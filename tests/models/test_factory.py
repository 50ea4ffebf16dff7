"""Models by name, as users of timm and torchvision ask for them."""

from pathlib import Path

import pytest
import timm
import torch
from compared import image, shallow
from random_weights import randomised
from torch import fx, nn
from torch.testing import assert_close
from torchvision.models.feature_extraction import create_feature_extractor

from mmpoolformer import MetaFormerClassifier, create_model

TRACEABLE = ('poolformer_s12', 'poolformerv2_s12', 'convformer_s18', 'caformer_s18')


@pytest.mark.parametrize(
    ('name', 'timms'),
    [
        ('poolformer_s12', 'poolformer_s12'),
        ('caformer_s36', 'caformer_s36'),
        ('pit_ti', 'pit_ti_224'),
    ],
)
def test_maps_are_described_as_by_timm(name: str, timms: str) -> None:
    ours = create_model(name, features_only=True).feature_info
    theirs = timm.create_model(timms, features_only=True).feature_info
    assert ours.channels() == theirs.channels()
    if name != 'pit_ti':  # its maps are brought to whole strides here
        assert ours.reduction() == theirs.reduction()


def test_chosen_maps_are_described_and_given() -> None:
    model = create_model('poolformer_s12', features_only=True, out_indices=(1, 2))
    with torch.no_grad():
        maps = model.eval()(image(1, 3, 64, 96))
    info = model.feature_info
    assert [m.shape[1] for m in maps] == info.channels() == [128, 320]
    assert [64 // m.shape[2] for m in maps] == info.reduction() == [8, 16]
    stages = dict(model.named_modules())
    assert all(isinstance(stages[name], nn.Module) for name in info.module_name())


@pytest.mark.parametrize(
    ('name', 'last'), [('poolformer_s12', 'head.fc'), ('caformer_s18', 'head.fc.fc2')]
)
def test_published_weights_start_another_last_layer_anew(
    name: str, last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = randomised(create_model(name)).state_dict()
    torch.save(weights, tmp_path / 'published.pth')
    monkeypatch.setattr(
        'mmpoolformer.checkpoints.zoo.fetch', lambda *_: tmp_path / 'published.pth'
    )
    whole = create_model(name, pretrained=True).state_dict()
    assert all(torch.equal(whole[key], weights[key]) for key in weights)
    other = create_model(name, pretrained=True, num_classes=7).state_dict()
    anew = [key for key in weights if not torch.equal(other[key], weights[key])]
    assert anew == [f'{last}.weight', f'{last}.bias']
    maps = create_model(name, pretrained=True, features_only=True).state_dict()
    assert torch.equal(maps['stem.conv.weight'], weights['stem.conv.weight'])


def test_options_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match='not both'):
        create_model('poolformer_s12', 'x.pth', pretrained=True)
    with pytest.raises(ValueError, match=r'out_indices=\(0,\): only with features'):
        create_model('poolformer_s12', out_indices=(0,))


@pytest.mark.parametrize('name', TRACEABLE)
def test_torchvision_takes_features_by_name(name: str) -> None:
    arch = shallow(name)
    model = randomised(MetaFormerClassifier(arch, fused=False)).eval()
    extractor = create_feature_extractor(model, ['stages.1.blocks.0', 'head'])
    seen = []
    model.stages[1].blocks[0].register_forward_hook(lambda *call: seen.append(call[2]))
    # Not the size of the tracing, which was of none.
    x = image(2, 3, 64, 96)
    with torch.no_grad():
        logits, found = model(x), extractor(x)
    assert_close(found['head'], logits)
    assert_close(found['stages.1.blocks.0'], seen[0])
    with pytest.raises(ValueError, match='input of shape'):
        fx.symbolic_trace(model)(image(2, 4, 64, 96))


@pytest.mark.parametrize('features_only', [False, True])
def test_scripting_is_refused_with_what_to_take_instead(features_only: bool) -> None:
    model = create_model('poolformer_s12', features_only=features_only)
    with pytest.raises(TypeError, match=r'Pool|Meta.*take torch\.jit\.trace'):
        torch.jit.script(nn.Sequential(model))
