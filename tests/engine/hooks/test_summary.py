"""What is said of evaluations, and of trainings with several factors."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from tiny_training import STEPS, VALIDATION, settings, train

from mmpoolformer.engine.hooks.logs import ValidationLog
from mmpoolformer.engine.hooks.summary import (
    RunSummary,
    Score,
    ending,
    example_picture,
    scores,
)


def reported(config: Config) -> tuple[Runner, ValidationLog]:
    folder = Path(config.work_dir)
    validations = ValidationLog(folder / 'own.json')
    file = folder / 'given.py'
    config.dump(file)
    config = Config.fromfile(file)
    runner = train(config, validations, RunSummary('config.py', validations))
    return runner, validations


def errors(folder: Path) -> dict[int, float]:
    entries = json.loads((folder / 'val_results.json').read_text())
    return {entry['iter']: entry['metrics']['error'] for entry in entries}


def test_the_best_is_the_least_where_the_config_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    runner, validations = reported(settings(tmp_path))
    found = re.findall(
        r'Iter\(val\) \[(\d+)\] +error: (\S+?)( \(\S+\))?,\s+best: (\S+)',
        capsys.readouterr().out,
    )
    measured = errors(tmp_path)
    assert list(measured) == list(range(VALIDATION, STEPS + 1, VALIDATION))
    assert len(found) == len(measured)
    before: dict[int, float] = {}
    for (step, value, change, file), (own, error) in zip(
        found, measured.items(), strict=True
    ):
        assert (int(step), value) == (own, f'{error:.4g}')
        least = min(before.values(), default=None)
        assert change == ('' if least is None else f' ({error - least:+.4g})')
        before[own] = error
        best = min(before, key=before.get)
        assert file == f'best_error_iter_{best}.pth'
    path = tmp_path / f'best_error_iter_{best}.pth'
    assert path.is_file()
    first, *_ = ending(runner, validations.entries)
    assert first == f'best checkpoint: {path} (error: {min(before.values()):.4g})'


def test_a_best_checkpoint_that_is_gone_is_not_promised(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config = settings(tmp_path)
    del config.default_hooks.checkpoint.save_best, config.default_hooks.checkpoint.rule
    runner, validations = reported(config)
    measured = errors(tmp_path)
    best = max(measured, key=measured.get)
    assert best < STEPS  # the last checkpoint alone is kept
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith(f'best: of iter {best}, not kept')
    first, *_ = ending(runner, validations.entries)
    assert first == f'last checkpoint: {tmp_path / f"iter_{STEPS}.pth"}'


@pytest.mark.parametrize(
    ('name', 'value', 'shown', 'difference'),
    [
        ('accuracy/top1', 46.4539, '46.45 %', '+1.00 points'),
        ('accuracy/top5', 85.1064, '85.11 %', '+1.00 points'),
        ('mIoU', 2.1, '2.10 %', '+1.00 points'),
        ('coco/bbox_mAP', 0.333, '0.333', '+1'),
    ],
)
def test_percentages_are_shown_as_such(
    name: str, value: float, shown: str, difference: str
) -> None:
    score = Score(name, value, {})
    assert score.text() == shown
    assert score.text(Score(name, value - 1, {})) == difference


@pytest.mark.parametrize('name', ['mIoU', 'mDice', 'mFscore'])
def test_what_is_meant_over_classes_counts(name: str) -> None:
    metrics = {'aAcc': 90.0, name: 30.0, 'mAcc': 40.0}
    (score,) = scores(SimpleNamespace(hooks=[]), [{'metrics': metrics}])
    assert score[:2] == (name, 30.0)


@pytest.mark.parametrize(
    ('data', 'shown'),
    [
        ([{'img_path': 'a b.png'}], 'a b.png'),
        ([{'inputs': 1}], 'PICTURE'),
        ([(1, 2)], 'PICTURE'),  # as torchvision's
    ],
)
def test_a_picture_for_the_next_command(data: list, shown: str) -> None:
    assert example_picture(data) == shown


def test_what_runs_is_told_with_all_factors(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config = settings(tmp_path, steps=6)
    config.optim_wrapper.accumulative_counts = 3
    config.optim_wrapper.optimizer.type = 'SGD'
    reported(config)
    lines = [line.split(':', 1) for line in capsys.readouterr().out.splitlines()]
    facts = {label: text.strip() for label, *rest in lines for text in rest}
    assert facts['batch size'] == '12 = 4 images x 3 accumulated'
    assert facts['optimizer'] == 'SGD, learning rate 0.01'
    assert facts['length'] == '6 iterations, evaluation every 6 iterations'
    assert facts['images'] == '24 for training, 24 for evaluation'
    parameters = 50 * 150 + 150 + 2 * 150 + 150 + 1
    assert facts['model'] == f'Layers, {parameters / 1e6:.2f} million parameters'
