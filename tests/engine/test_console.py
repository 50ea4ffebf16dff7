"""What of a run's messages reaches the console."""

import logging
from pathlib import Path

import mmengine
import pytest
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from tiny_training import settings

from mmpoolformer.engine.console import QuietRunner, is_shown


def record(text: str, level: int = logging.INFO, file: str = 'x.py') -> bool:
    place = str(Path(mmengine.__file__).with_name(file))
    return is_shown(logging.LogRecord('', level, place, 1, text, None, None))


def test_libraries_are_heard_when_they_warn() -> None:
    assert not record('Checkpoints will be saved to here.')
    assert record('resumed epoch: 1, iter: 7')
    assert record('Epoch(train) [1][50/100]  lr: 1.0000e-03')
    assert not record('Epoch(val) [1][50/100]')
    assert record('a loss is odd', logging.WARNING)
    assert not record('"FileClient" will be deprecated in future.', logging.WARNING)


class Talkative(Hook):
    """A user's own hook."""

    def after_train(self, runner: Runner) -> None:
        runner.logger.info(f'{"word " * 30}said by a hook')
        print_log('said by print_log', logger='current', level=logging.WARNING)


def test_a_hook_of_ones_own_is_heard(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config = settings(tmp_path, steps=2)
    config.log_level = 'INFO'
    runner = QuietRunner.from_cfg(config)
    runner.register_hook(Talkative())
    runner.train()
    # What mmengine's MLflow backend asks.
    assert not any(handler.stream.closed for handler in runner.logger.handlers)
    out = capsys.readouterr().out
    assert ' '.join(out.split()).count('word said by a hook') == 1
    assert 'warning: said by print_log\n' in out
    assert 'System environment' not in out
    (log,) = tmp_path.glob('*/*.log')
    text = log.read_text()
    for words in ('said by a hook', 'said by print_log', 'System environment'):
        assert words in text
