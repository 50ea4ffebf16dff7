"""`load_from` tells what it did, and refuses what leaves the model empty."""

from pathlib import Path

import pytest
import torch
from tiny_training import Layers, Numbers, settings, train

from mmpoolformer.engine.runner import ToolRunner
from mmpoolformer.utils.errors import UserError


def log_of(folder: Path) -> str:
    return ''.join(log.read_text() for log in folder.rglob('*.log'))


def test_what_load_from_did_is_in_the_log(tmp_path: Path) -> None:
    weights = Layers().state_dict()
    weights['net.3.weight'] = torch.ones(7, 150)
    torch.save(weights, tmp_path / 'part.pth')
    config = settings(tmp_path / 'run', steps=2)
    config.load_from = str(tmp_path / 'part.pth')
    config.val_dataloader = config.val_evaluator = config.val_cfg = None
    config.default_hooks.checkpoint.save_best = None
    runner = train(config, resume=None)
    assert runner.iter == 2
    told = 'Loaded 8 tensors from'
    assert told in log_of(tmp_path)
    assert '1 of another shape (net.3.weight [7, 150], not [1, 150])' in log_of(
        tmp_path
    )


def test_load_from_another_model_is_refused(tmp_path: Path) -> None:
    torch.save({'state_dict': {'conv.weight': torch.ones(1)}}, tmp_path / 'x.pth')
    config = settings(tmp_path / 'run', steps=2)
    config.load_from = str(tmp_path / 'x.pth')
    with pytest.raises(UserError, match=r'x\.pth: no tensor fits the model'):
        train(config, resume=None)


def test_weights_for_the_classes_in_another_order_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = {'classes': ('ant', 'bee', 'cat')}
    monkeypatch.setattr(Numbers, 'metainfo', about, raising=False)
    work = tmp_path / 'run'
    train(settings(work, steps=2), resume=None)
    about['classes'] = ('ant', 'wasp', 'cat')  # a new name
    assert train(settings(work, steps=4)).iter == 4
    about['classes'] = ('wasp', 'ant', 'cat')
    message = r'iter_4\.pth: its classes .* ant, wasp, cat, but .* wasp, ant, cat:'
    with pytest.raises(UserError, match=message):
        train(settings(work, steps=6))
    checkpoint = next(work.glob('iter_4.pth'))
    config = settings(tmp_path / 'test')
    config.load_from = str(checkpoint)
    config.test_dataloader, config.test_cfg = config.val_dataloader, {}
    config.test_evaluator = config.val_evaluator
    runner = ToolRunner.from_cfg(config)
    runner.needs_all_weights = True
    runner.prepare_test()
    with pytest.raises(UserError, match=message):
        runner.test()
