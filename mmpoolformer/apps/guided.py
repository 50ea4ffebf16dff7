"""Steps that show their progress and are skipped when they are done.

What the guided tools (quickstart, pretrain_demo) share.
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TextIO

from mmengine.config import Config

from mmpoolformer.engine.config import use_resume
from mmpoolformer.engine.hooks.curves import DrawCurves
from mmpoolformer.engine.hooks.logs import TrainingLog, ValidationLog
from mmpoolformer.engine.hooks.progress import ProgressHook
from mmpoolformer.engine.resuming import last_named
from mmpoolformer.engine.runner import ToolRunner
from mmpoolformer.utils.errors import UserError
from mmpoolformer.utils.files import write_json

INDENT = '   '  # of bars, below the line that names the step


@contextmanager
def quiet(log: Path) -> Iterator[tuple]:
    """Let what is printed go to a file.

    Yields:
        A `print` and a stream that still reach the user.
    """
    screen, bars = sys.stdout, sys.stderr

    def say(text: str) -> None:
        print(text, file=screen, flush=True)

    with (
        log.open('a', encoding='utf-8') as file,
        redirect_stdout(file),
        redirect_stderr(file),
    ):
        yield say, bars


def claim(work_dir: Path, content: str) -> None:
    """Mark a work dir with what is run in it; refuse one with another mark.

    Args:
        work_dir: The folder.
        content: All that decides the results, as text.

    Raises:
        UserError: If the folder holds a run of something else.
    """
    mark = work_dir / 'quickstart.json'
    asked = {'fingerprint': hashlib.sha256(content.encode()).hexdigest()}
    if mark.is_file() and json.loads(mark.read_text(encoding='utf-8')) != asked:
        raise UserError(
            f'{work_dir} holds a run with another config or other scenes: choose '
            'another --work-dir or delete it'
        )
    write_json(mark, asked)


def read_settings(data: Path) -> str:
    """Return what the demonstration data in a folder was made with."""
    return (data / 'settings.json').read_text(encoding='utf-8')


def final_checkpoint(config: Config) -> Path | None:
    """Return the checkpoint of the last epoch, if it was written to its end."""
    latest = last_named(Path(config.work_dir))
    wanted = Path(config.work_dir) / f'epoch_{config.train_cfg.max_epochs}.pth'
    is_final = latest is not None and latest.name == wanted.name
    return wanted if is_final and wanted.is_file() else None


def train_to_end(config: Config, bars: TextIO) -> None:
    """Train to the end, from the last checkpoint if there is one.

    Args:
        config: The config, with `work_dir` set; losses and validations are kept there
            in `train_log.jsonl` and `val_results.json`, and drawn in `curves.png`.
        bars: Where the progress bar is drawn.
    """
    config = config.copy()
    if config.get('visualizer'):
        # mmengine keeps one visualizer of a name in a process, and with it the first
        # run's log; each run gets its own.
        config.visualizer.name = config.work_dir
    older = use_resume(config, 'auto')
    runner = ToolRunner.from_cfg(config)
    runner.needs_all_weights, runner.older = bool(config.resume), older
    hook = ProgressHook(bars, INDENT)
    runner.register_hook(hook)
    work_dir = Path(config.work_dir)
    runner.register_hook(ValidationLog(work_dir / 'val_results.json'))
    runner.register_hook(TrainingLog(work_dir / 'train_log.jsonl'))
    runner.register_hook(DrawCurves(work_dir))
    runner.prepare_training()
    try:
        runner.train()
    finally:
        hook.close()
