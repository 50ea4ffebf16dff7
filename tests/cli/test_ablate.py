"""The ablation study: rows are what they say, figures are counted, done is skipped."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tool_process import run_many

from mmpoolformer.analysis.complexity import count
from mmpoolformer.apps.ablation import ROWS
from mmpoolformer.checkpoints import ZOO
from mmpoolformer.models import MetaFormerClassifier

pytestmark = pytest.mark.slow

CLASSES = 2
# Blocks and channels of S12's stages.
BLOCKS = ((2, 64), (2, 128), (6, 320), (2, 512))
# Cells along a side of their maps, for images of 224 x 224.
SIDES = (56, 28, 14, 7)
# What the head loses with 2 classes and not 1000: 513 numbers for each.
FEWER = (1000 - CLASSES) * 513


@pytest.fixture(scope='module')
def runs(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp('ablation')
    generator = np.random.default_rng(0)
    for split in ('train', 'val'):
        for label in range(CLASSES):
            place = folder / 'data' / split / f'class_{label}'
            place.mkdir(parents=True)
            for i in range(4):
                pixels = generator.integers(0, 100, (40, 40, 3)) + 100 * label
                Image.fromarray(pixels.astype(np.uint8)).save(place / f'{i}.png')
    command = ['tools/ablate.py', folder / 'data', '--work-dir', folder / 'out']
    budget = ['--epochs', 1, '--image-size', 64, '--batch-size', 4]
    options = ['--cfg-options', 'train_dataloader.num_workers=0']
    options += ['train_dataloader.persistent_workers=False']
    options += ['val_dataloader.num_workers=0']
    options += ['val_dataloader.persistent_workers=False']
    rows = ['--rows', 'pool_5', 'mlp_off']
    first, again, listed, unknown, missing = run_many(
        [
            [*command, *budget, *rows, *options],
            [*command, *budget, *rows, *options],
            ['tools/ablate.py', '--list'],
            [*command, '--rows', 'pool_4'],
            ['tools/ablate.py', folder / 'nowhere', '--work-dir', folder / 'none'],
        ],
        folder,
    )
    return SimpleNamespace(**locals())


def test_tables_hold_what_was_trained(runs: SimpleNamespace) -> None:
    assert runs.first['code'] == 0, runs.first['err']
    with (runs.folder / 'out/ablation.csv').open() as file:
        pool, mlp = csv.DictReader(file)
    assert (pool['row'], mlp['row']) == ('pool_5', 'mlp_off')
    assert int(pool['params']) == ZOO['poolformer_s12'].params - FEWER
    assert float(pool['images_per_second']) > 0
    for row in (pool, mlp):
        results = runs.folder / 'out' / row['row'] / 'val_results.json'
        last = json.loads(results.read_text())[-1]
        assert last['epoch'] == 1
        assert float(row['top1']) == last['metrics']['accuracy/top1']
        log = (results.parent / 'train_log.jsonl').read_text()
        assert json.loads(log.splitlines()[-1])['iter'] == last['iter']
        assert (results.parent / 'curves.png').is_file()
        assert f'{row["row"]} ' in runs.first['out']
    with Image.open(runs.folder / 'out/ablation.png') as picture:
        assert min(picture.size) > 100


def test_a_second_run_trains_nothing(runs: SimpleNamespace) -> None:
    assert runs.again['code'] == 0, runs.again['err']
    assert 'training' not in runs.again['err']
    assert runs.again['out'] == runs.first['out']


def test_rows_can_be_listed(runs: SimpleNamespace) -> None:
    assert [line.split()[0] for line in runs.listed['out'].splitlines()] == list(ROWS)


@pytest.mark.parametrize(
    ('name', 'code', 'message'),
    [('unknown', 2, "no row 'pool_4'"), ('missing', 1, 'nowhere: no such folder')],
)
def test_mistakes_are_one_line(
    runs: SimpleNamespace, name: str, code: int, message: str
) -> None:
    found = getattr(runs, name)
    assert found['code'] == code
    (line,) = [x for x in found['err'].splitlines() if 'OneDL' not in x]
    assert line.startswith('error: ') and message in line
    assert not (runs.folder / 'none').exists()


@pytest.mark.parametrize(
    ('row', 'difference'),
    [
        ('mixer_identity', 0),
        # A frozen matrix over all cells in every block.
        (
            'mixer_random',
            sum(n * side**4 for (n, _), side in zip(BLOCKS, SIDES, strict=True)),
        ),
        ('mixer_depthwise', sum(9 * n * c for n, c in BLOCKS)),
        ('pool_9', 0),
        ('act_relu', 0),
        ('residual_off', 0),
        # Two factors for every channel of every block.
        ('layer_scale_off', -2 * sum(n * c for n, c in BLOCKS)),
        ('norm_layer', 0),
        # Weight and bias of two norms in every block, and of the head's.
        ('norm_none', -4 * sum(n * c for n, c in BLOCKS) - 2 * 512),
        # Each MLP: two layers of 4 c^2 with biases of 5 c, its norm and its factors.
        (
            'mlp_off',
            -sum(
                n * (8 * c * c + 8 * c)
                for n, c in zip((2, 2, 6, 2), (64, 128, 320, 512), strict=True)
            ),
        ),
        ('hybrid_ppaa', 16_535_592 - 11_915_176),
        ('hybrid_pppf', 11_919_978 - 11_915_176),
    ],
)
def test_rows_change_what_they_say(row: str, difference: int) -> None:
    changes = {'base': 'poolformer_s12', **ROWS[row].changes}
    model = MetaFormerClassifier(changes)
    params = sum(p.numel() for p in model.parameters())
    assert params - ZOO['poolformer_s12'].params == difference


@pytest.mark.parametrize(
    ('row', 'millions', 'frozen_millions', 'giga_macs', 'top1'),
    [
        # arXiv 2111.11418, table 5.
        ('mixer_random', 11.9, 21, 3.3, 75.8),
        ('mixer_depthwise', 11.9, 0, 1.8, 78.1),
        ('mlp_off', 2.5, 0, 0.2, 5.7),
    ],
)
def test_rows_have_the_published_figures(
    row: str, millions: float, frozen_millions: int, giga_macs: float, top1: float
) -> None:
    assert ROWS[row].published == top1
    changes = {'base': 'poolformer_s12', **ROWS[row].changes}
    model = MetaFormerClassifier(changes).eval()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert (round(trained / 1e6, 1), round(frozen / 1e6)) == (millions, frozen_millions)
    assert round(count(model, 224).macs / 1e9, 1) == giga_macs


def test_only_rows_of_our_own_lack_a_published_result() -> None:
    lacking = {name for name, row in ROWS.items() if row.published is None}
    assert lacking == {'pool_1', 'layer_scale_off'}
