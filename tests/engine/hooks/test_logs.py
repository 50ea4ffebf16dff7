import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_training import settings, train

from mmpoolformer.engine.hooks import draw
from mmpoolformer.engine.hooks.curves import DrawCurves
from mmpoolformer.engine.hooks.draw import DrawPictures
from mmpoolformer.engine.hooks.logs import ValidationLog
from mmpoolformer.utils import files
from mmpoolformer.utils.files import plain, write_json


def test_metrics_become_plain_json() -> None:
    metrics = {
        'mIoU': np.float32(37.2),
        'bbox_mAP': np.float64(0.362),
        'AP': torch.tensor([0.5, float('nan')]),
        'none': float('inf'),
        'count': np.int64(3),
        'classes': ('a', 'b'),
    }
    assert json.dumps(plain(metrics)) == json.dumps(
        {
            'mIoU': 37.2,
            'bbox_mAP': 0.362,
            'AP': [0.5, None],
            'none': None,
            'count': 3,
            'classes': ['a', 'b'],
        }
    )


def test_a_json_file_is_whole_or_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / 'new' / 'results.json'
    write_json(path, {'a': 1})

    def fail(*_: object) -> None:
        raise OSError('disk full')

    monkeypatch.setattr(files.os, 'replace', fail)
    with pytest.raises(OSError, match='disk full'):
        write_json(path, {'a': 2})
    assert json.loads(path.read_text()) == {'a': 1}


def test_validations_go_on_where_a_training_resumes(tmp_path: Path) -> None:
    path = tmp_path / 'val_results.json'
    runner = SimpleNamespace(epoch=0, iter=0, val_loop=None)
    first = ValidationLog(path)
    first.before_train(runner)
    for runner.epoch, runner.iter in ((1, 10), (2, 20), (3, 30)):
        first.after_val_epoch(runner, {'mAP': runner.epoch / 10})
    runner.epoch, runner.iter = 2, 20  # resumed from epoch 2
    second = ValidationLog(path)
    second.before_train(runner)
    runner.epoch, runner.iter = 3, 30
    second.after_val_epoch(runner, {'mAP': 0.9})
    entries = json.loads(path.read_text())
    assert [e['metrics']['mAP'] for e in entries] == [0.1, 0.2, 0.9]
    runner.epoch, runner.iter = 0, 0  # started anew
    third = ValidationLog(path)
    third.before_train(runner)
    third.after_val_epoch(runner, {'mAP': 0.5})
    assert len(json.loads(path.read_text())) == 1


def test_a_finished_training_resumed_has_no_validation_twice(tmp_path: Path) -> None:
    path = tmp_path / 'val_results.json'
    runner = SimpleNamespace(epoch=0, iter=0, val_loop=None)
    for error in (0.3, 0.2, 0.1):
        log = ValidationLog(path)
        log.before_train(runner)
        runner.epoch, runner.iter = 3, 30
        log.after_val_epoch(runner, {'error': error})
    entries = json.loads(path.read_text())
    assert entries == [{'epoch': 3, 'iter': 30, 'metrics': {'error': 0.1}}]


@pytest.mark.parametrize(
    ('length', 'interval', 'steps'),
    [
        (dict(by_epoch=False, max_iters=5), 50, [5]),
        (dict(by_epoch=False, max_iters=5), 2, [2, 4, 5]),
        (dict(by_epoch=True, max_epochs=2), 50, [6, 12]),  # 24 items in batches of 4
        (dict(by_epoch=True, max_epochs=2), 4, [4, 6, 8, 12]),
    ],
)
def test_the_last_step_is_logged_too(
    length: dict, interval: int, steps: list[int], tmp_path: Path
) -> None:
    config = settings(tmp_path)
    config.train_cfg = dict(**length, val_interval=1)
    config.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=True)
    config.default_hooks.logger.interval = interval
    train(config, DrawCurves(tmp_path))
    log = (tmp_path / 'train_log.jsonl').read_text().splitlines()
    assert [json.loads(line)['iter'] for line in log] == steps
    assert (tmp_path / 'curves.png').is_file()


def test_pictures_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    hook = DrawPictures(tmp_path)
    files = [hook._file(f'{folder}/x.jpg') for folder in 'abc']
    assert [Path(f).name for f in files] == ['x.png', 'x_2.png', 'x_3.png']
    assert DrawPictures(None, show=True)._file('a/x.jpg') is None


@pytest.mark.parametrize(
    ('images', 'names'),
    [
        (['x_2', 'x', 'x', 'x'], ['x_2', 'x', 'x_3', 'x_4']),
        (['x', 'x', 'x_2', 'x_2'], ['x', 'x_2', 'x_2_2', 'x_2_3']),
    ],
)
def test_a_numbered_picture_takes_no_name_of_another(
    images: list[str], names: list[str], tmp_path: Path
) -> None:
    hook = DrawPictures(tmp_path)
    files = [hook._file(f'{stem}.jpg') for stem in images]
    assert [Path(file).stem for file in files] == names


def test_pictures_of_two_ranks_have_names_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []
    for rank in range(2):
        monkeypatch.setattr(draw, 'get_dist_info', lambda rank=rank: (rank, 2))
        hook = DrawPictures(tmp_path)
        names += [Path(hook._file(f'{folder}/x.jpg')).stem for folder in 'ab']
    assert names == ['x_0', 'x_2', 'x_1', 'x_3']
