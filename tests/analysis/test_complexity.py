import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from mmengine.config import Config
from timm.layers import Attention
from tiny_data import write_detection_config, write_segmentation_config
from tool_process import run_many
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmpoolformer import create_model, list_models
from mmpoolformer.analysis.complexity import (
    Part,
    count,
    count_config,
    count_named,
    maps_line,
    stage_table,
    summary_table,
)
from mmpoolformer.checkpoints import ZOO
from mmpoolformer.engine.config import load_config
from mmpoolformer.models.from_config import (
    build_from_config,
    input_size,
    list_architectures,
)

# What fvcore counts for each element of a norm.
NORM = 5
TOOL = 'tools/complexity.py'
# Larger ones differ in depth and width alone, and take seconds each.
SMALL_ZOO = [
    name
    for name, entry in ZOO.items()
    if name in list_models()
    and entry.input_size == (3, 224, 224)
    and entry.params < 25e6
]


# Families whose smallest models timm has too, built by other code.
ALSO_IN_TIMM = [name for name in list_models('*_s1?') if timm.is_model(name)]


def with_rest_added(result) -> tuple[int, int]:
    parts = result.by_stage
    outer = [p for name, p in parts.items() if name.split('.')[0] not in parts]
    outer += [p for name, p in parts.items() if '.' not in name]
    return sum(p.params for p in outer), sum(p.macs for p in outer)


def test_a_small_network_by_hand() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * 4 * 6, 10),
    )
    result = count(network, (16, 24))
    convolution = Part(params=8 * 27 + 8, macs=8 * 12 * 8 * 27)
    linear = Part(params=192 * 10 + 10, macs=192 * 10)
    assert result.by_stage == {'0': convolution, '3': linear}
    assert result.params == convolution.params + linear.params
    assert result.macs == convolution.macs + linear.macs
    assert result.uncounted == {'avg_pool2d': 1}
    assert result.shape == (1, 3, 16, 24)


def test_parameters_and_sums_outside_the_parts_are_the_rest() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.offset = nn.Parameter(torch.zeros(5))
            self.fc = nn.Linear(3, 5)

        def forward(self, x):
            x = x.flatten(2).transpose(1, 2)  # (1, 3, H, W) -> (1, H*W, 3)
            return (self.fc(x) + self.offset) @ self.fc.weight

    result = count(Model(), 2)
    assert result.by_stage == {'fc': Part(20, 4 * 15), '(rest)': Part(5, 4 * 15)}


@pytest.mark.slow
@pytest.mark.parametrize('name', SMALL_ZOO)
def test_published_counts(name: str) -> None:
    result = count_named(name)
    assert result.params == ZOO[name].params
    assert result.macs == pytest.approx(ZOO[name].macs, rel=1e-3)
    assert result.shape == (1, *ZOO[name].input_size)
    assert with_rest_added(result) == (result.params, result.macs)


@pytest.mark.slow
@pytest.mark.parametrize('name', ALSO_IN_TIMM)
def test_agrees_with_the_model_of_timm(name: str) -> None:
    ours, theirs = count_named(name), count_named(f'timm/{name}')
    assert ours.params == theirs.params
    assert ours.macs == pytest.approx(theirs.macs, rel=1e-3)


def test_no_family_is_left_out() -> None:
    assert {'poolformerv2_s12', 'convformer_s18', 'caformer_s18'} <= set(ALSO_IN_TIMM)
    assert {'poolformer_s12', 'poolformer_s24'} <= set(SMALL_ZOO)


def test_stages_of_a_poolformer_by_hand() -> None:
    result = count_named('poolformer_s12', (96, 64))
    assert list(result.by_stage) == [
        'stem',
        *(f'stages.{i}' for i in range(4)),
        'head',
    ]
    assert result.by_stage['stem'].macs == 24 * 16 * 64 * 3 * 49
    cells = 12 * 8
    norms, mlps = 4 * cells * NORM * 128, 2 * cells * 8 * 128**2
    downsampling = cells * 128 * 64 * 9
    assert result.by_stage['stages.1'].macs == norms + mlps + downsampling


@pytest.mark.parametrize('fused', [True, False])
def test_attention_counts_the_same_fused_or_not(fused: bool) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = Attention(24, num_heads=4, qkv_bias=False)
            self.attention.fused_attn = fused

        def forward(self, x):
            return self.attention(x.flatten(2).transpose(1, 2))

    tokens = 6 * 5
    products = 2 * tokens * tokens * 24
    result = count(Model(), (6, 5), in_channels=24)
    assert result.macs == tokens * 24 * 24 * 4 + products


@pytest.mark.parametrize(
    'name',
    [
        'deit_tiny_patch16_224',
        'resmlp_12_224',
        'pit_ti_224',
        'resnet18',
        'caformer_s18',
    ],
)
def test_agrees_with_the_counter_of_torch(name: str) -> None:
    result = count_named(f'timm/{name}')
    model = timm.create_model(name).eval().requires_grad_(False)
    for module in model.modules():
        if hasattr(module, 'fused_attn'):  # torch's counter doesn't see it on a CPU
            module.fused_attn = False
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 224, 224))
    # Two of torch's operations are one MAC; it leaves out norms, a percent at most.
    assert counter.get_total_flops() / 2 == pytest.approx(result.macs, rel=1.5e-2)
    assert counter.get_total_flops() / 2 <= result.macs
    assert result.params == sum(p.numel() for p in model.parameters())
    assert with_rest_added(result) == (result.params, result.macs)


def test_a_model_of_one_size_is_built_for_another() -> None:
    result = count_named('timm/deit_tiny_patch16_224', (192, 320))
    tokens = 12 * 20 + 1
    assert result.by_stage['patch_embed'].macs == (tokens - 1) * 192 * 3 * 256
    attention = tokens * 192 * 192 * 4 + 2 * tokens * tokens * 192
    others = tokens * 192 * 192 * 8 + 2 * tokens * 192 * NORM
    assert result.by_stage['blocks'].macs == 12 * (attention + others)


def test_module_stays_as_it_is() -> None:
    model = create_model('poolformer_s12', features_only=True)
    model.train()
    model.stages[0].eval()
    before = {name: m.training for name, m in model.named_modules()}
    count(model, 32)
    assert {name: m.training for name, m in model.named_modules()} == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_size_below_one() -> None:
    with pytest.raises(ValueError, match='size=0 x 32: give whole numbers from 1'):
        count(nn.Conv2d(3, 1, 1), (0, 32))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['poolformer_m36', 'caformer_s18', 'pit_b'])
def test_channels_and_strides_are_those_of_the_maps(name: str) -> None:
    backbone = create_model(name, features_only=True)
    with torch.no_grad():
        maps = backbone.eval()(torch.zeros(1, 3, 64, 64))
    expected = tuple(m.shape[1] for m in maps), tuple(64 // m.shape[2] for m in maps)
    for model in (backbone, create_model(name)):
        result = count(model, 32)
        assert (result.out_channels, result.out_strides) == expected
    line = maps_line(result)
    assert all(str(list(numbers)) in line for numbers in expected)
    assert len(line) <= 80


def test_other_packages_declare_no_maps() -> None:
    assert count_named('timm/resnet18', (32, 32)).out_channels == ()


def test_a_name_of_timm_needs_its_prefix() -> None:
    with pytest.raises(ValueError, match=r"'resnet50': did you mean .*timm/resnet50"):
        count_named('resnet50')


def test_default_size_is_the_models() -> None:
    assert input_size('poolformer_s12') == (224, 224)
    assert input_size('caformer_s18_384') == (384, 384)
    assert input_size('timm/deit_base_patch16_384') == (384, 384)


def test_each_architecture_is_listed_once() -> None:
    names = list_architectures()
    assert set(names) <= set(list_models())
    assert names.count('caformer_s18') == names.count('caformer_s18_384') == 1
    assert 'caformer_s18_in21k' not in names
    left_out = set(list_models()) - set(names)
    assert all('in21' in name for name in left_out)


# ------------------------------------------------------------- whole models


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[[str], Config]:
    def load(kind: str) -> Config:
        path = tmp_path / f'{kind}.py'
        if kind == 'segmentation':
            write_segmentation_config(path, tmp_path)
        else:
            write_detection_config(path, tmp_path, masks=kind == 'masks')
        return Config.fromfile(path)

    return load


def test_detector_by_hand(tiny: Callable[[str], Config]) -> None:
    config = tiny('detection')
    result = count_config(config, (64, 96))
    # One convolution and one output of each branch; 9 anchors, 2 classes, 4 sides.
    cells = 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2 + 1 * 1
    outputs = 32 * (9 * 2 + 9 * 4) * 9
    assert result.by_stage['bbox_head'].macs == cells * (2 * 32 * 32 * 9 + outputs)
    model = build_from_config(config)
    alone = count(model.backbone, (64, 96))
    maps = model.backbone(torch.zeros(1, 3, 64, 96))
    assert result.out_channels == tuple(m.shape[1] for m in maps)
    assert result.out_strides == tuple(64 // m.shape[2] for m in maps)
    assert result.by_stage['backbone'] == Part(alone.params, alone.macs)
    for name, part in alone.by_stage.items():
        assert result.by_stage[f'backbone.{name}'] == part
    assert with_rest_added(result) == (result.params, result.macs)
    assert result.params == sum(p.numel() for p in model.parameters())


def test_a_size_that_the_heads_do_not_take(tmp_path: Path) -> None:
    path = tmp_path / 'solo.py'
    path.write_text("_base_ = 'mmdet::solov2/solov2-light_r18_fpn_ms-3x_coco.py'\n")
    config = load_config(str(path), ('model',))
    with pytest.raises(ValueError, match=r'800 x 1333 pixels .*multiples of 32'):
        count_config(config)


def test_every_proposal_counts(tiny: Callable[[str], Config]) -> None:
    config = tiny('masks')
    assert config.model.test_cfg.rpn.max_per_img == 1000
    many = count_config(config, (64, 64))
    config.model.test_cfg.rpn.max_per_img = 400
    fewer = count_config(config, (64, 64))
    one = 32 * 49 * 32 + 32 * 32 + 32 * (3 + 2 * 4)
    assert many.macs - fewer.macs == 600 * one
    assert many.by_stage['rpn_head'] == fewer.by_stage['rpn_head']
    # The mask head runs on 100 of them at most: 4 convolutions, one that doubles the
    # sides, and the output for 2 classes.
    masks = 14 * 14 * (4 * 32 * 32 * 9 + 32 * 32 * 4) + 28 * 28 * 32 * 2
    assert many.by_stage['roi_head'].macs == 1000 * one + 100 * masks
    assert 'RoIAlignFunction' in many.uncounted


def test_segmentor(tiny: Callable[[str], Config]) -> None:
    result = count_config(tiny('segmentation'), (64, 64))
    model = build_from_config(tiny('segmentation'))
    alone = count(model.backbone, 64)
    assert result.by_stage['backbone'] == Part(alone.params, alone.macs)
    assert {'neck', 'decode_head'} <= set(result.by_stage)
    assert with_rest_added(result) == (result.params, result.macs)


# ----------------------------------------------------------- tables and tool


def test_tables_show_what_was_counted() -> None:
    result = count(nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 1, 1)), 102)
    assert stage_table(result).splitlines() == [
        '| part  | parameters |       MACs |',
        '| ----- | ---------: | ---------: |',
        '| 0     |      1,792 | 17,280,000 |',
        '| 1     |         65 |    640,000 |',
        '| total |      1,857 | 17,920,000 |',
    ]
    assert summary_table({'it': result}).splitlines()[2:] == [
        '| it    | 102 x 102 |       0.00 |     0.02 |',
    ]


@pytest.fixture(scope='module')
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp('tool')
    write_detection_config(folder / 'detection.py', folder)
    (folder / 'broken.py').write_text('model = dict(')
    (folder / 'empty.py').write_text('x = 1')
    commands = {
        'two': ['poolformer_s12', 'timm/resnet18', '--size', 64, '--json', 'x/c.json'],
        'detector': ['detection.py', '--size', 64, 96],
        'nothing': [],
        'name': ['poolfromer_s12'],
        'size': ['poolformer_s12', '--size', 1, 2, 3],
        'zero': ['poolformer_s12', '--size', 0],
        'missing': ['nothere.py'],
        'broken': ['broken.py'],
        'empty': ['empty.py'],
        'option': ['detection.py', '--cfg-options', 'model.backbone.arhc=s12'],
        'json': ['poolformer_s12', '--size', 32, '--json', 'detection.py/c.json'],
    }
    done = run_many([[TOOL, *arguments] for arguments in commands.values()], folder)
    results = dict(zip(commands, done, strict=True))
    results['file'] = json.loads((folder / 'x/c.json').read_text())
    return results


@pytest.mark.slow
def test_tool_prints_tables_and_writes_numbers(outcomes: dict) -> None:
    two, written = outcomes['two'], outcomes['file']
    assert two['code'] == 0
    expected = count_named('poolformer_s12', (64, 64))
    assert '| poolformer_s12 | 64 x 64 |      11.92 |' in two['out']
    assert f'| {expected.macs:,} |' in two['out']
    assert 'input 1 x 3 x 64 x 64' in two['out']
    assert 'out_channels [64, 128, 320, 512], out_strides [4, 8, 16, 32]' in two['out']
    assert two['out'].count('out_channels') == 1
    assert 'not counted: ' in two['out'] and 'avg_pool2d' in two['out']
    assert set(written) == {'poolformer_s12', 'timm/resnet18'}
    assert written['poolformer_s12']['macs'] == expected.macs
    assert written['poolformer_s12']['shape'] == [1, 3, 64, 64]
    assert written['poolformer_s12']['out_channels'] == [64, 128, 320, 512]
    assert written['poolformer_s12']['out_strides'] == [4, 8, 16, 32]
    assert written['timm/resnet18']['params'] == 11_689_512
    assert outcomes['detector']['code'] == 0
    assert '| - backbone.stages.2 |' in outcomes['detector']['out']
    assert 'out_strides [8, 16, 32]' in outcomes['detector']['out']


@pytest.mark.parametrize(
    ('mistake', 'code', 'message'),
    [
        ('nothing', 2, 'no model given'),
        ('name', 1, 'did you mean poolformer_s'),
        ('size', 2, '--size 1 2 3: give height and width'),
        ('zero', 2, '--size 0'),
        ('missing', 2, 'nothere.py: no such config file'),
        ('broken', 1, 'broken.py'),
        ('empty', 1, 'has no model'),
        ('option', 1, 'arhc'),
        ('json', 1, 'detection.py'),
    ],
)
def test_a_mistake_is_one_line(
    outcomes: dict, mistake: str, code: int, message: str
) -> None:
    outcome = outcomes[mistake]
    assert outcome['code'] == code
    lines = [line for line in outcome['err'].splitlines() if line]
    assert lines[-1].startswith('error: ') and message in lines[-1]
    assert 'Traceback' not in outcome['err']
