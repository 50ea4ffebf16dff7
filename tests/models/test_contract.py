"""The contract of backbones and classifiers, over the whole table and its mixtures.

Every row of the table is shrunk to tiny depths and widths; rows that are then alike
are tested once.
"""

import copy
from dataclasses import replace

import pytest
import torch
from compared import image
from mmengine.registry import MODELS as MMENGINE_MODELS
from random_weights import randomised
from torch import nn

import mmpoolformer
from mmpoolformer import create_model, list_models
from mmpoolformer.models import (
    FAMILIES,
    VARIANTS,
    MetaFormer,
    MetaFormerClassifier,
    Variant,
)
from mmpoolformer.registry import MODELS

CLASSES = {
    'PoolFormer': 'poolformer',
    'IdentityFormer': 'identityformer',
    'RandFormer': 'randformer',
    'PoolFormerV2': 'poolformerv2',
    'ConvFormer': 'convformer',
    'CAFormer': 'caformer',
}


def shrunk(variant: Variant) -> Variant:
    """Keep all of a row but its size; start layer scales where they matter."""
    return replace(
        variant,
        depths=(1, 1, 2, 1),
        dims=(8, 16, 24, 32),
        head_dim=8,
        image_size=64,
        layer_scale_init=variant.layer_scale_init and 0.5,
    )


def kinds() -> dict[str, Variant]:
    found = {}
    for name, variant in VARIANTS.items():
        if shrunk(variant) not in found.values():
            found[name] = shrunk(variant)
    return found


KINDS = kinds()
PLAIN = KINDS['poolformer_s12']
CHANGES = {
    'batch norm': dict(norm='batch_norm'),
    'no norm': dict(norm='none'),
    'norm over channels, downsampling too': dict(
        norm='layer_norm', downsample_norm=True
    ),
    'relu': dict(activation='relu'),
    'silu': dict(activation='silu'),
    'star relu without bias': dict(activation='star_relu', bias=False),
    'pool 4': dict(pool_size=4),
    'pool 9': dict(pool_size=9),
    'no layer scale': dict(layer_scale_init=None),
    'residual scale everywhere': dict(res_scale_init=1.0),
    'no residual': dict(residual=False, res_scale_init=1.0),
    'no mlp': dict(mlp=False),
    'five mixers': dict(token_mixers=('random', 'sep_conv', 'attention', 'spatial_fc')),
    'depthwise convolution': dict(token_mixers='depthwise_conv'),
    'attention first': dict(token_mixers='attention', position_embedding=True),
    'windows': dict(token_mixers='attention', attention_window=3, global_every=2),
    'attention with other norms': dict(token_mixers='attention', norm='batch_norm'),
    'mlp head': dict(head='mlp'),
}
ALL = KINDS | {name: replace(PLAIN, **change) for name, change in CHANGES.items()}


def without_gradient(model: nn.Module) -> list[str]:
    """Name the parameters that get none; the random matrices never do."""
    names = [name for name, p in model.named_parameters() if p.grad is None]
    return [name for name in names if not name.endswith('.random_matrix')]


def test_every_family_is_among_the_kinds() -> None:
    assert len(KINDS) == 11
    assert {name.split('_')[0] for name in KINDS} == set(FAMILIES)


@pytest.mark.parametrize('name', VARIANTS)
def test_declared_channels_and_strides_are_the_real_ones(name: str) -> None:
    with torch.device('meta'):
        model = MetaFormer(name).eval()
        maps = model(torch.zeros(1, 3, 64, 128))
    declared = zip(model.out_channels, model.out_strides, strict=True)
    assert [tuple(m.shape) for m in maps] == [
        (1, c, 64 // s, 128 // s) for c, s in declared
    ]


@pytest.mark.parametrize('family', CLASSES.values())
def test_registered_classes_know_their_sizes(family: str) -> None:
    (kind,) = (name for name, known in CLASSES.items() if known == family)
    for size in FAMILIES[family]:
        with torch.device('meta'):
            model = MMENGINE_MODELS.build(dict(type=f'mmpoolformer.{kind}', arch=size))
        assert model.variant == VARIANTS[f'{family}_{size}']
    with torch.device('meta'):
        default = MMENGINE_MODELS.build(dict(type=f'mmpoolformer.{kind}'))
    assert default.variant == next(iter(FAMILIES[family].values()))


@pytest.mark.parametrize('name', ['caformer_s18_384', 'metaformer_ppaa_s12_224'])
def test_generic_class_takes_every_name(name: str) -> None:
    with torch.device('meta'):
        model = MMENGINE_MODELS.build(dict(type='mmpoolformer.MetaFormer', arch=name))
    assert model.variant == VARIANTS[name]


def test_every_registered_model_can_be_imported_from_the_package() -> None:
    models = 'mmpoolformer.models.'
    found = {
        name: kind
        for name, kind in MODELS.module_dict.items()
        if kind.__module__.startswith(models)
    }
    assert {'PiT', 'MetaFormer', *CLASSES} <= found.keys() <= set(mmpoolformer.__all__)
    for name, kind in found.items():
        assert getattr(mmpoolformer, name) is kind


def test_list_models() -> None:
    assert set(VARIANTS) <= set(list_models())
    assert list_models('caformer_s18*') == [
        'caformer_s18',
        'caformer_s18_384',
        'caformer_s18_in21ft1k',
        'caformer_s18_384_in21ft1k',
        'caformer_s18_in21k',
    ]


@pytest.mark.parametrize('size', [(33, 47), (64, 65), (7, 200)])
@pytest.mark.parametrize('kind', ALL)
def test_any_image_size_gives_maps(kind: str, size: tuple[int, int]) -> None:
    with torch.no_grad():
        maps = MetaFormer(ALL[kind]).eval()(image(2, 3, *size))
    # The closed form of a strided convolution's output size.
    height, width = ((n + 4 - 7) // 4 + 1 for n in size)
    for found in maps:
        assert found.shape[2:] == (height, width)
        assert found.isfinite().all()
        height, width = ((n + 2 - 3) // 2 + 1 for n in (height, width))


@pytest.mark.parametrize('kind', ALL)
def test_images_of_a_batch_do_not_touch(kind: str) -> None:
    model = randomised(MetaFormer(ALL[kind])).eval()
    batch = image(3, 3, 71, 90)
    with torch.no_grad():
        for together, alone in zip(model(batch), model(batch[1:2]), strict=True):
            torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('channels', [1, 4])
def test_in_channels(kind: str, channels: int) -> None:
    model = MetaFormer(KINDS[kind], in_channels=channels)
    assert model(image(1, channels, 64, 64))[0].shape == (1, 8, 16, 16)
    with pytest.raises(ValueError, match=rf'expected \(B, {channels}, H, W\)'):
        model(image(1, 3, 64, 64))


@pytest.mark.parametrize('indices', [(0,), (3,), (1, 2), (0, 1, 2, 3)])
@pytest.mark.parametrize('kind', ALL)
def test_out_indices_are_stages_and_every_parameter_gets_a_gradient(
    kind: str, indices: tuple[int, ...]
) -> None:
    everything = randomised(MetaFormer(ALL[kind]))
    model = MetaFormer(ALL[kind], out_indices=indices)
    weights = everything.state_dict()
    model.load_state_dict({key: weights[key] for key in model.state_dict()})
    assert model.out_channels == tuple(ALL[kind].dims[i] for i in indices)
    maps, expected = model(image(2, 3, 40, 64)), everything(image(2, 3, 40, 64))
    for found, i in zip(maps, indices, strict=True):
        torch.testing.assert_close(found, expected[i], rtol=1e-5, atol=1e-5)
    sum((m * torch.randn_like(m)).sum() for m in maps).backward()
    assert without_gradient(model) == []


@pytest.mark.parametrize('kind', ALL)
def test_maps_are_laid_out_plainly(kind: str) -> None:
    x = image(2, 3, 64, 96)
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        for stage_map in MetaFormer(ALL[kind])(given):
            # Not `is_contiguous`: that holds for either where a side is 1.
            _, channels, height, width = stage_map.shape
            plain = (channels * height * width, height * width, width, 1)
            assert stage_map.stride() == plain


@pytest.mark.parametrize('kind', ALL)
def test_classifier_gives_every_parameter_a_gradient(kind: str) -> None:
    model = MetaFormerClassifier(ALL[kind], num_classes=7)
    logits = model(image(2, 3, 64, 64))
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert without_gradient(model) == []


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('frozen_stages', range(-1, 5))
def test_freezing(kind: str, frozen_stages: int) -> None:
    model = MetaFormer(KINDS[kind], frozen_stages=frozen_stages, drop_path_rate=0.5)
    parts = [model.stem, *model.stages]
    for _ in range(2):  # after __init__, and again after train()
        for i, part in enumerate(parts):
            trained = {
                p.requires_grad
                for name, p in part.named_parameters()
                if not name.endswith('random_matrix')
            }
            assert trained == {i > frozen_stages}, i
        model.train()
    training = [part.training for part in parts]
    assert training == [i > frozen_stages for i in range(5)]
    assert model.norm0.weight.requires_grad and model.norm3.training


@pytest.mark.parametrize('kind', [*KINDS, 'batch norm'])
def test_frozen_parts_do_not_move_and_the_others_do(kind: str) -> None:
    torch.manual_seed(0)
    model = MetaFormer(ALL[kind], frozen_stages=2).train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1)
    loss = sum((m * torch.randn_like(m)).sum() for m in model(image(2, 3, 64, 64)))
    loss.backward()
    optimizer.step()
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    frozen = ('stem.', 'stages.0.', 'stages.1.')
    assert not any(key.startswith(frozen) for key in moved)
    assert {'stages.2.downsample.conv.weight', 'norm3.weight'} <= moved
    assert not any(key.endswith('random_matrix') for key in moved)


@pytest.mark.parametrize('kind', KINDS)
def test_eval_and_train_return_the_model(kind: str) -> None:
    for model in (MetaFormer(KINDS[kind]), MetaFormerClassifier(KINDS[kind])):
        assert model.eval() is model and not model.stages[0].training
        assert model.train() is model and model.stages[0].training


@pytest.mark.parametrize('kind', ALL)
def test_activation_checkpointing_changes_nothing(kind: str) -> None:
    options = dict(drop_path_rate=0.3)
    plain = randomised(MetaFormer(ALL[kind], **options)).train()
    saving = MetaFormer(ALL[kind], with_cp=True, **options).train()
    saving.load_state_dict(plain.state_dict())
    results = []
    for model in (plain, saving):
        torch.manual_seed(7)  # the same paths are dropped
        maps = model(image(2, 3, 64, 64))
        sum(m.square().sum() for m in maps).backward()
        gradients = [p.grad for p in model.parameters() if p.requires_grad]
        results.append([*maps, *gradients])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('kind', ALL)
def test_autocast_is_finite_and_near_float32(kind: str, dtype: torch.dtype) -> None:
    model = randomised(MetaFormer(ALL[kind])).eval()
    # Large enough that squares overflow half precision, where a norm can help it.
    large = 1 if ALL[kind].norm in ('none', 'batch_norm') else 400
    batch = large * image(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(batch)
        with torch.autocast('cpu', dtype):
            found = model(batch)
    for half, full in zip(found, expected, strict=True):
        assert half.isfinite().all()
        error = (half.float() - full).norm() / full.norm()
        assert error < (0.05 if dtype == torch.bfloat16 else 0.01)


@pytest.mark.parametrize('kind', ALL)
def test_training_in_bf16_autocast_gives_finite_gradients(kind: str) -> None:
    model = randomised(MetaFormer(ALL[kind])).train()
    with torch.autocast('cpu', torch.bfloat16):
        loss = sum(m.float().square().mean() for m in model(image(2, 3, 64, 64)))
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize('kind', ALL)
def test_whole_model_in_half_precision(kind: str) -> None:
    model = randomised(MetaFormer(ALL[kind])).eval()
    with torch.no_grad():
        expected = model(image(1, 3, 64, 72))
        found = model.bfloat16()(image(1, 3, 64, 72).bfloat16())
    for half, full in zip(found, expected, strict=True):
        assert half.dtype == torch.bfloat16
        assert (half.float() - full).norm() / full.norm() < 0.1


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(arch='s13'), "arch='s13' is not known: choose from"),
        (dict(arch=dict(depths=(1,))), r"lacks \['dims'\]"),
        (dict(arch=dict(depths=(1,), dims=(8, 8))), 'different number of stages'),
        (dict(arch=dict(base='s12', width=3)), r"unknown fields \['width'\]"),
        (dict(arch=dict(base='s13')), "arch='s13' is not known"),
        (dict(arch=dict(base='s12', mlp_ratio=0)), 'mlp_ratio=0'),
        (dict(arch=dict(base='s12', norm_eps=0)), 'norm_eps=0'),
        (dict(arch=dict(depths=(0, 1), dims=(8, 8))), r'depths=\(0, 1\)'),
        (dict(arch=dict(base='s12', head='linear')), 'head=.linear.: choose from norm'),
        (dict(arch=dict(base='s12', global_every=-1)), 'global_every=-1: .* from 0'),
        (dict(pool_size=0), 'pool_size=0: give a whole number from 1'),
        (dict(pool_size=2.5), 'pool_size=2.5: give a whole number'),
        (dict(attention_window=0), 'attention_window=0: give a whole number from 1'),
        (dict(token_mixers='conv'), "token_mixers='conv': choose from pooling, "),
        (dict(token_mixers=['pooling'] * 3), r'one value, or one for each stage'),
        (dict(norm='LN'), "norm='LN': choose from group_norm1, layer_norm"),
        (dict(activation='swish'), "activation='swish': choose from gelu"),
        (dict(layer_scale_init='x'), "layer_scale_init='x': give a number"),
        (dict(res_scale_init=True), 'res_scale_init=True: give a number'),
        (dict(res_scale_init=(None, 1.0)), 'res_scale_init=.*one for each stage'),
        (
            dict(arch=dict(base='s12', position_embedding=True)),
            'before the first stage with attention, and token_mixers=.* has none',
        ),
        (dict(out_indices=(0, 4)), r'out_indices=\(0, 4\).* 0 to 3'),
        (dict(out_indices=(1, 0)), r'out_indices=\(1, 0\)'),
        (dict(out_indices=()), r'out_indices=\(\)'),
        (dict(frozen_stages=5), 'frozen_stages=5: choose from -1'),
        (dict(frozen_stages=-2), 'frozen_stages=-2'),
        (dict(drop_path_rate=1.0), r'drop_path_rate=1.0: must be in \[0, 1\)'),
        (dict(in_channels=0), 'in_channels=0'),
        (dict(fused=1), 'fused=1: choose from True, False, '),
        (dict(fused=0.0), 'fused=0.0: choose from True, False, '),
        (
            dict(fused='cuda'),
            "fused='cuda': .* False, 'torch', 'triton'$",
        ),
    ],
)
@pytest.mark.parametrize('kind', ['PoolFormer', 'RandFormer'])
def test_bad_options_are_named(kind: str, options: dict, message: str) -> None:
    config = dict(type=f'mmpoolformer.{kind}', **options)
    with torch.device('meta'), pytest.raises(ValueError, match=message):
        MMENGINE_MODELS.build(config)


@pytest.mark.parametrize('kind', [*CLASSES, 'PiT'])
def test_unknown_option_is_refused(kind: str) -> None:
    with pytest.raises(TypeError, match='norm_layer'):
        MMENGINE_MODELS.build(dict(type=f'mmpoolformer.{kind}', norm_layer='LN'))


def test_arch_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError, match='arch=12: expected a name or a dict'):
        MetaFormer(12)


def test_unknown_model_name_suggests_near_ones() -> None:
    with pytest.raises(ValueError, match=r"no model 'poolformer_s11'.*poolformer_s12"):
        create_model('poolformer_s11')
