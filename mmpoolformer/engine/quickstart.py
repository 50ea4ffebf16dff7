"""The whole way on generated pictures: draw, train, evaluate, look at it.

Each step leaves its result in a file, and a step whose result is there is skipped; a
training that was interrupted goes on from its last checkpoint.
"""

import hashlib
import json
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import numpy as np
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner, find_latest_checkpoint
from PIL import Image
from tqdm import tqdm

from mmpoolformer.analysis.curves import (
    Curve,
    draw_curves,
    find_logs,
    read_curves,
    save_figure,
)
from mmpoolformer.analysis.drawing import (
    arrange,
    class_colours,
    detections_from_instances,
    draw_detections,
    save_picture,
)
from mmpoolformer.checkpoints import register_safe_loaders
from mmpoolformer.datasets.demo_data import DemoSettings, make_demo_data
from mmpoolformer.datasets.demo_shapes import CLASSES
from mmpoolformer.engine.arguments import parse_train
from mmpoolformer.engine.config import load_config, use_resume
from mmpoolformer.engine.errors import UserError, blame
from mmpoolformer.engine.results import write_json
from mmpoolformer.engine.runner import ToolRunner
from mmpoolformer.paths import config_path
from mmpoolformer.progress import progress_bar

CONFIG = 'detection/demo_retinanet_poolformer_s12'
NEEDED = ('model', 'train_dataloader', 'test_dataloader', 'test_evaluator')
SHOWN_PICTURES = 8
SHOWN_SCORE = 0.4
AP, AP50 = 'coco/bbox_mAP', 'coco/bbox_mAP_50'


@dataclass(frozen=True)
class Quickstart:
    """What to do, and where.

    Attributes:
        data: Folder of the demonstration data, made if it is missing.
        work_dir: Folder of checkpoints, results and pictures.
        settings: The scenes to draw.
        cfg_options: Changes of the config, `key=value` each.
    """

    data: Path = Path('data/demo')
    work_dir: Path = Path('work_dirs/quickstart')
    settings: DemoSettings = field(default_factory=DemoSettings)
    cfg_options: Sequence[str] = ()


@dataclass(frozen=True)
class Outcome:
    """What has come out.

    Attributes:
        metrics: COCO's box metrics on the held-out scenes.
        pictures: The pictures drawn.
    """

    metrics: dict[str, float]
    pictures: tuple[Path, ...]


def run_quickstart(job: Quickstart) -> Outcome:
    """Do what is still to be done.

    Progress goes to stderr, a line for each step to stdout, and what the libraries
    have to say to `quickstart.log` in the work dir.

    Returns:
        The metrics and the pictures, whether new or from an earlier run.

    Raises:
        UserError: If a folder holds something else or can't be written.
    """
    print(f'[1/4] scenes: {job.data}')
    with blame('', (OSError, ValueError)):
        drawn = make_demo_data(job.data, job.settings)
        _say_if(not drawn, 'there already')
        job.work_dir.mkdir(parents=True, exist_ok=True)
    config = _read_config(job)
    _claim(job, config)
    with _quiet(job.work_dir / 'quickstart.log') as bars:
        checkpoint = _train(job, config, bars)
        metrics = _evaluate(job, config, checkpoint, bars)
    return Outcome(metrics, _draw(job, metrics))
