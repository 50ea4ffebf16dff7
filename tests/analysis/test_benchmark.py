"""The benchmark's bookkeeping; how fast anything is, is no test's business."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tool_process import run_here
from torch import nn

from mmpoolformer.analysis import benchmark
from mmpoolformer.analysis.benchmark import Case, Timing, measure, prepare, table
from mmpoolformer.cli import main
from mmpoolformer.models import MetaFormer
from mmpoolformer.utils.errors import UserError
from mmpoolformer.utils.paths import config_path

ROOT = Path(__file__).resolve().parents[2]


def test_products_of_a_layer_are_found_with_their_bytes() -> None:
    layer, x = nn.Linear(300, 200), torch.randn(100, 300)

    def run() -> torch.Tensor:
        with torch.no_grad():
            return layer(x).relu()

    seconds, moved = benchmark.products_alone(run, 'cpu')
    assert moved == 4 * (300 * 200 + 200 + 100 * 300 + 100 * 200)
    assert seconds > 0


@pytest.mark.parametrize('how', ['plain', 'fused', 'folded', 'timm-channels-last'])
def test_every_product_of_a_backbone_is_found(how: str) -> None:
    run = prepare(Case('poolformer_s12', how, size=(64, 64)))
    with benchmark._Products() as noted:
        run()
    # Four strided convolutions and two products in each of twelve blocks.
    assert len(noted.calls) == 4 + 2 * 12


def test_all_implementations_compute_the_same_maps() -> None:
    cases = [
        Case('poolformer_s12', how, size=(64, 96), batch=2)
        for how in ('plain', 'fused', 'folded')
    ]
    expected, *others = (prepare(case)() for case in cases)
    for maps in others:
        for ours, theirs in zip(maps, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('how', ['onnx', 'openvino'])
def test_engines_run_the_model_that_was_exported(how: str) -> None:
    found = prepare(Case('poolformer_s12', how, size=(64, 96), batch=2))()
    torch.manual_seed(0)
    model, images = MetaFormer('poolformer_s12').eval(), torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        for ours, theirs in zip(model(images), found.values(), strict=True):
            torch.testing.assert_close(
                ours, torch.from_numpy(theirs), rtol=1e-3, atol=1e-3
            )


def test_compiled_peer_is_the_peer() -> None:
    cases = [Case('poolformer_s12', how) for how in ('timm', 'timm-compiled')]
    plain, compiled = map(benchmark._build, cases)
    assert isinstance(compiled, torch._dynamo.OptimizedModule)
    assert type(compiled._orig_mod) is type(plain)


def test_plain_whole_models_are_those_of_the_backbones_option() -> None:
    config = str(config_path('segmentation/fpn_poolformer_s12_ade20k_40k.py'))
    for how, fused in (('plain', False), ('fused', True)):
        backbone = benchmark._build(Case(config, how)).backbone
        # The layout, too: it is half of what is gained.
        assert [stage.channels_last for stage in backbone.stages] == 4 * [fused]
        assert {b.fused for stage in backbone.stages for b in stage.blocks} == {fused}


def test_configs_are_read_as_by_the_other_tools(tmp_path: Path) -> None:
    config = tmp_path / 'own.py'
    base = 'mmpoolformer::segmentation/fpn_poolformer_s12_ade20k_40k.py'
    config.write_text(f'_base_ = {base!r}')
    assert (
        type(benchmark._build(Case(str(config), 'plain'))).__name__ == 'EncoderDecoder'
    )
    config.write_text('x = 1')
    with pytest.raises(UserError, match=r'own\.py: has no model'):
        benchmark._build(Case(str(config), 'plain'))


def test_peers_are_those_of_the_same_name() -> None:
    maps = prepare(Case('poolformer_s12', 'timm', size=(64, 96)))()
    assert [tuple(m.shape) for m in maps] == [
        (1, 64, 16, 24),
        (1, 128, 8, 12),
        (1, 320, 4, 6),
        (1, 512, 2, 3),
    ]
    with pytest.raises(ValueError, match='timm has no identityformer_s12'):
        prepare(Case('identityformer_s12', 'timm'))
    for peer in ('transformers', 'mmpretrain'):
        with pytest.raises(ValueError, match=f'{peer} has no convformer_s18'):
            prepare(Case('convformer_s18', peer))


def test_training_step_fills_every_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MetaFormer('poolformer_s12')
    monkeypatch.setattr(benchmark, '_build', lambda case: model)
    case = Case('poolformer_s12', 'fused', 'training', size=(64, 64), dtype='bf16')
    prepare(case)()
    assert all(p.grad is not None for p in model.parameters())


def test_rounds_are_taken_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    monkeypatch.setattr(
        benchmark, 'prepare', lambda case, device: lambda: order.append(case.model)
    )
    monkeypatch.setattr(benchmark, 'products_alone', lambda run, device: (1.0, 8))
    monkeypatch.setattr(benchmark, 'bandwidth', lambda device: 4.0)
    cases = [Case('a', 'fused'), Case('b', 'fused')]
    timings = measure(cases, rounds=3, memory=False)
    assert order == ['a', 'b'] * 4
    assert [t.traffic for t in timings] == [2.0, 2.0]
    assert all(t.memory is None and t.seconds > 0 for t in timings)


def test_peak_is_left_out_where_the_system_does_not_tell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(benchmark, 'PROCESS', tmp_path / 'proc')
    assert benchmark.peak_memory(Case('poolformer_s12', 'plain')) is None


def timing(how: str, seconds: float, memory: int, **options: object) -> Timing:
    return Timing(
        Case('poolformer_s12', how, **options), seconds, 0.05, 0.05, 1, memory
    )


def test_table_compares_with_the_first_of_a_kind() -> None:
    rows = table(
        [
            timing('timm', 0.2, 400_000_000),
            timing('fused', 0.1, 100_000_000),
            timing('timm', 0.8, 800_000_000, batch=4),
            timing('fused', 0.2, 200_000_000, batch=4),
            timing('folded', 0.05, 100_000_000, dtype='bf16'),
        ]
    ).splitlines()
    assert rows[3] == (
        '| poolformer_s12 | fused | inference | 1 | 512x512 | 100 | 5 | 10.00 | 2.00 '
        '| 50% | 100 | 0.25 |'
    )
    assert rows[5].split(' | ')[7:9] == ['20.00', '4.00']
    # Against the first in float32.
    assert rows[6].split(' | ')[1] == 'folded bf16'
    assert rows[6].split(' | ')[8] == '4.00'


@pytest.mark.parametrize('sizes', [[(64, 64)], [(64, 64), (128, 128)]])
def test_plot_is_drawn(sizes: list, tmp_path: Path) -> None:
    rows = [timing('fused', 0.1 * size[0], 1, size=size) for size in sizes]
    benchmark.plot(rows, tmp_path / 'plot.png')
    with Image.open(tmp_path / 'plot.png') as picture:
        assert picture.size == (840, 540)
        assert len(picture.convert('RGB').getcolors(1 << 24)) > 20


@pytest.mark.slow
def test_tool_times_a_model(tmp_path: Path) -> None:
    tool = ['tools/benchmark.py', 'poolformer_s12', '--device', 'cpu']
    options = ['--how', 'fused', '--size', '128', '--rounds', '1', '--json', 'out.json']
    both = ['--dtype', 'fp32', 'bfloat16']
    done = run_here([*tool, *options, *both], tmp_path)
    assert done['code'] == 0, done['err']
    for how in ('fused', 'fused bf16'):
        assert done['out'].count(f'| poolformer_s12 | {how} |') == 1
    row, low = json.loads((tmp_path / 'out.json').read_text())['timings']
    assert [row['case']['dtype'], low['case']['dtype']] == ['fp32', 'bf16']
    assert row['case']['implementation'] == 'fused'
    assert row['memory'] > 4 * 64 * 32 * 32  # the first map alone
    assert row['seconds'] > 0


def test_tool_tells_mistakes(capsys: pytest.CaptureFixture) -> None:
    for words, told in (
        (['pit_ti'], 'pit_ti: no such model of mmpoolformer to time'),
        (['poolformer_s12', '--device', 'gpu0'], '--device gpu0: not here'),
    ):
        assert main(['benchmark', *words]) == 2
        assert capsys.readouterr().err.startswith(f'error: {told}')
