"""Steps that show their progress and are skipped when they are done.

What the guided tools (quickstart, pretrain_demo, ablation) share.
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TextIO

from mmengine.config import Config

from mmpoolformer.data.demo.scenes import DemoSettings, make_demo_data
from mmpoolformer.engine.config import load_config, use_resume
from mmpoolformer.engine.hooks.curves import DrawCurves
from mmpoolformer.engine.hooks.logs import TrainingLog, ValidationLog
from mmpoolformer.engine.hooks.progress import ProgressHook
from mmpoolformer.engine.resuming import last_named
from mmpoolformer.engine.runner import ToolRunner
from mmpoolformer.utils.errors import UserError, as_user_error
from mmpoolformer.utils.files import write_json
from mmpoolformer.utils.paths import config_path
from mmpoolformer.visual.curves import TRAIN_LOG, VAL_LOG

INDENT = '   '  # of bars, below the line that names the step
DETECTOR = 'detection/demo_retinanet_poolformer_s12'
NEEDED = (
    'model',
    'train_dataloader',
    'val_dataloader',
    'test_dataloader',
    'test_evaluator',
)
PARTS = ('train', 'val', 'test')
AP, AP50 = 'coco/bbox_mAP', 'coco/bbox_mAP_50'


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


def draw_scenes(data: Path, settings: DemoSettings, work_dir: Path) -> None:
    """Draw the demonstration data unless they are there, and make the work dir.

    Raises:
        UserError: If a folder holds something else or can't be written.
    """
    print(f'1. Drawing {settings.train} + {settings.val} scenes: {data}')
    with as_user_error('', (OSError, ValueError)):
        if not make_demo_data(data, settings):
            print('   are there already')
        work_dir.mkdir(parents=True, exist_ok=True)


def read_settings(data: Path) -> str:
    """Return what the demonstration data in a folder was made with."""
    return (data / 'settings.json').read_text(encoding='utf-8')


def own_config(name: str, work_dir: Path, options: Sequence[str]) -> Config:
    """Read a config of this package by its name; `options` are `key=value` each."""
    return load_config(config_path(name), NEEDED, overrides=options, work_dir=work_dir)


def detector_config(data: Path, work_dir: Path, options: Sequence[str]) -> Config:
    """Return the config of the detector on the demonstration data in a folder."""
    config = own_config(DETECTOR, work_dir, options)
    root = f'{data / "detection"}/'
    changes = {f'{part}_dataloader.dataset.data_root': root for part in PARTS}
    for part in PARTS[1:]:
        changes[f'{part}_evaluator.ann_file'] = f'{root}annotations/val.json'
    config.merge_from_dict(changes)
    return config


def last_checkpoint(config: Config) -> Path:
    """Return where a training writes the checkpoint of its last epoch."""
    return Path(config.work_dir) / f'epoch_{config.train_cfg.max_epochs}.pth'


def is_trained(config: Config) -> bool:
    """Tell whether the checkpoint of the last epoch was written to its end."""
    wanted = last_checkpoint(config)
    latest = last_named(wanted.parent)
    return latest is not None and latest.name == wanted.name and wanted.is_file()


def last_metrics(config: Config) -> dict[str, float]:
    """Return what the last validation of a training has measured."""
    path = Path(config.work_dir) / VAL_LOG
    return json.loads(path.read_text(encoding='utf-8'))[-1]['metrics']


def train_to_end(config: Config, bars: TextIO) -> bool:
    """Train to the end, from the last checkpoint if there is one.

    Args:
        config: The config, with `work_dir` set; losses and validations are kept there
            in `train_log.jsonl` and `val_results.json`, and drawn in `curves.png`.
        bars: Where the progress bar is drawn.

    Returns:
        Whether anything was left to train.
    """
    if is_trained(config):
        return False
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
    runner.register_hook(ValidationLog(work_dir / VAL_LOG))
    runner.register_hook(TrainingLog(work_dir / TRAIN_LOG))
    runner.register_hook(DrawCurves(work_dir))
    runner.prepare_training()
    try:
        runner.train()
    finally:
        hook.close()
    return True
