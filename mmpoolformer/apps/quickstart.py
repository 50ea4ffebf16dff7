"""The whole way on generated pictures: draw, train, evaluate, look at it.

Each step leaves its result in a file, and a step whose result is there is skipped; a
training that was interrupted goes on from its last checkpoint.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TextIO

import numpy as np
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmpoolformer.apps.guided import (
    AP,
    AP50,
    INDENT,
    claim,
    detector_config,
    draw_scenes,
    last_checkpoint,
    quiet,
    read_settings,
    train_to_end,
)
from mmpoolformer.checkpoints import register_safe_loaders
from mmpoolformer.data.demo.scenes import DemoSettings
from mmpoolformer.data.demo.shapes import CLASSES
from mmpoolformer.engine.hooks.progress import ProgressHook
from mmpoolformer.engine.runner import ToolRunner
from mmpoolformer.utils.files import write_json
from mmpoolformer.utils.images import open_picture
from mmpoolformer.visual.curves import (
    Curve,
    draw_curves,
    find_logs,
    read_curves,
    save_figure,
)
from mmpoolformer.visual.drawing import (
    arrange,
    class_colours,
    detections_from_instances,
    draw_detections,
    save_picture,
)

# Held-out scenes that are drawn, two in a row, and the score threshold of their boxes.
SHOWN_SCENES, SHOWN_SCORE = 8, 0.4
ENLARGED = 2


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

    @property
    def results(self) -> Path:
        """The file of the final metrics."""
        return self.work_dir / 'results.json'

    @property
    def pictures(self) -> dict[str, Path]:
        """The pictures by what they show."""
        names = ('predictions', 'loss', 'ap')
        return {name: self.work_dir / f'{name}.png' for name in names}


def run_quickstart(job: Quickstart) -> dict[str, float]:
    """Do what is still to be done.

    Progress goes to stderr, a line for each step to stdout, and what the libraries
    have to say to `quickstart.log` in the work dir.

    Returns:
        COCO's box metrics on the held-out scenes, whether new or from an earlier run.

    Raises:
        UserError: If a folder holds something else or can't be written.
    """
    register_safe_loaders()
    config = detector_config(job.data, job.work_dir, job.cfg_options)
    draw_scenes(job.data, job.settings, job.work_dir)
    with quiet(job.work_dir / 'quickstart.log') as (say, bars):
        claim(job.work_dir, str(config.to_dict()) + read_settings(job.data))
        say(f'2. Training, checkpoints and logs: {job.work_dir}')
        if not train_to_end(config, bars):
            say('   is done already')
        say(f'3. Evaluating on {job.settings.val} scenes held out: {job.results}')
        if all(path.is_file() for path in (job.results, *job.pictures.values())):
            say('   is done already')
        else:
            _evaluate(job, config, bars)
    return json.loads(job.results.read_text(encoding='utf-8'))['metrics']


def summary(job: Quickstart, metrics: dict[str, float]) -> str:
    """Return the lines that a quickstart ends with: pictures, then AP."""
    lines = [f'   {path}' for path in job.pictures.values()]
    return '\n'.join(
        ['Pictures:', *lines, f'Box AP {metrics[AP]:.3f}, AP50 {metrics[AP50]:.3f}']
    )


class KeepSamples(Hook):
    """Keep the first tested samples, with truth and prediction.

    Args:
        count: How many.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.samples: list = []

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence | None = None,
    ) -> None:
        """Keep those of a batch that are still wanted."""
        self.samples.extend(outputs[: self.count - len(self.samples)])


def _evaluate(job: Quickstart, config: Config, bars: TextIO) -> None:
    """Test the final checkpoint, draw the pictures, write the results."""
    config = config.copy()
    config.load_from, config.resume = str(last_checkpoint(config)), False
    runner = ToolRunner.from_cfg(config)
    runner.needs_all_weights = True
    runner.prepare_test()
    keep = KeepSamples(SHOWN_SCENES)
    runner.register_hook(keep)
    runner.register_hook(ProgressHook(bars, INDENT))
    # mmdet reports nothing at all when nothing was found.
    metrics = {AP: 0.0, AP50: 0.0, **runner.test()}
    _draw_predictions(keep.samples, metrics, job.pictures['predictions'])
    _draw_curves(job, metrics)
    write_json(job.results, {'checkpoint': config.load_from, 'metrics': metrics})


def _draw_predictions(samples: Sequence, metrics: dict, path: Path) -> None:
    """Draw truth and prediction of each sample side by side, two samples in a row."""
    pairs = []
    for sample in samples:
        image = np.array(open_picture(sample.img_path))
        draw = partial(draw_detections, image, classes=CLASSES, scale=ENLARGED)
        found = detections_from_instances(sample.pred_instances).above(SHOWN_SCORE)
        truth = detections_from_instances(sample.gt_instances)
        pairs.append([draw(truth), draw(found)])
    rows = [pairs[i] + pairs[i + 1] for i in range(0, len(pairs) - 1, 2)]
    title = (
        'RetinaNet with PoolFormer-S12, trained from scratch: '
        f'box AP {metrics[AP]:.2f}, AP50 {metrics[AP50]:.2f}'
    )
    legend = dict(zip(CLASSES, class_colours(len(CLASSES)), strict=True))
    headings = ['truth', f'prediction (score from {SHOWN_SCORE})'] * 2
    save_picture(arrange(rows, headings, title, legend), path)


def _draw_curves(job: Quickstart, metrics: dict[str, float]) -> None:
    """Draw the training's loss and the AP of its evaluations."""
    curves = read_curves(find_logs(job.work_dir))
    names = {'sum': 'loss', 'classification': 'loss_cls', 'boxes': 'loss_bbox'}
    losses = {label: curves[name] for label, name in names.items()}
    save_figure(draw_curves(losses, 'Training loss', 'loss'), job.pictures['loss'])
    last = curves['loss'].steps[-1:]
    scores = {
        label: curves.get(name, Curve(name, last, (metrics[name],)))
        for label, name in {'AP50': AP50, 'AP (IoU 0.5 to 0.95)': AP}.items()
    }
    figure = draw_curves(scores, 'Held-out scenes', 'box AP', (0, 1))
    save_figure(figure, job.pictures['ap'])
