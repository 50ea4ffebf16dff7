"""Accuracy beside speed, from the results of tests."""

import json
from pathlib import Path

import pytest
from PIL import Image

from mmpoolformer.cli import main
from mmpoolformer.engine.hooks.times import PARTS


def write(path: Path, milliseconds: float, **metrics: float) -> Path:
    parts = dict.fromkeys(PARTS, 0.0015) | {'model': milliseconds / 1e3}
    record = {'metrics': metrics, 'seconds_per_image': parts}
    path.write_text(json.dumps(record))
    return path


def test_table_and_picture_show_all_tests(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    ap = 'coco/bbox_mAP'
    files = [
        write(tmp_path / 'results_epoch_12.json', 400, **{ap: 0.406, 'loss': 1.0}),
        write(tmp_path / 'results_model.xml_bf16.json', 100, **{ap: 0.4054}),
    ]
    words = ['--tests', *map(str, files), '--plot', str(tmp_path / 'out.png')]
    assert not main(['benchmark', *words])
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].split(' | ')[1] == ap
    assert rows[2] == '| epoch_12 | 0.406 | 400.0 | 1.00 | 1.5 | 1.5 | 1.5 |'
    assert rows[3] == '| model.xml_bf16 | 0.4054 | 100.0 | 4.00 | 1.5 | 1.5 | 1.5 |'
    with Image.open(tmp_path / 'out.png') as picture:
        assert picture.size == (840, 540)
        # A marker of each test, in the first two colours of matplotlib.
        assert {(31, 119, 180), (255, 127, 14)} <= set(picture.convert('RGB').getdata())


def test_mistakes_are_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    good = write(tmp_path / 'results_a.json', 1, mIoU=30.0)
    other = write(tmp_path / 'results_b.json', 1, **{'coco/bbox_mAP': 0.3})
    empty = write(tmp_path / 'results_c.json', 1)
    for words, told in (
        (['--tests', good, other], 'has coco/bbox_mAP, but'),
        (['--tests', empty], 'no results_....json of mmpoolformer test'),
        (['--tests', tmp_path / 'none.json'], 'no results_....json'),
        ([], 'give models to time, or --tests'),
        (['poolformer_s12', '--tests', good], 'give models to time, or --tests'),
    ):
        assert main(['benchmark', *map(str, words)]) in (1, 2)
        assert told in capsys.readouterr().err
