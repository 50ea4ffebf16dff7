"""Curves that a training draws of itself, and what TensorBoard and others get."""

import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmpoolformer.utils.errors import UserError
from mmpoolformer.utils.logs import warn
from mmpoolformer.utils.text import type_name
from mmpoolformer.visual.curves import draw_training, read_run, save_figure

PICTURE = 'curves.png'
# Drawing may take this share of the time of a training, but for the last picture.
SHARE = 0.02
LOCAL = 'LocalVisBackend'
# mmengine's backends by the names of the packages that they need.
TRACKERS = {
    'tensorboard': 'TensorboardVisBackend',
    'wandb': 'WandbVisBackend',
    'mlflow': 'MLflowVisBackend',
}


class DrawCurves(Hook):
    """Keep a picture of a training's losses, learning rate and metrics.

    It is drawn anew after validations and epochs, more rarely where these are short,
    and at the end, from what `TrainingLog` and `ValidationLog` have written. A picture
    that can't be drawn is a warning in the log.

    Args:
        work_dir: The folder of these logs; the picture is `curves.png` in it.
    """

    # After the hooks that write the logs.
    priority = 'LOWEST'

    def __init__(self, work_dir: str | Path) -> None:
        self.work_dir = Path(work_dir)
        self.next_time = 0.0

    def after_train(self, runner: Runner) -> None:
        """Draw the whole training."""
        self.next_time = 0.0
        self.after_train_epoch(runner)

    def after_train_epoch(self, *_: object, **__: object) -> None:
        """Draw if it is time."""
        start = time.monotonic()
        if start < self.next_time or not is_main_process():
            return
        try:
            curves = read_run(self.work_dir)
            if curves:
                figure = draw_training(curves, self.work_dir.name)
                save_figure(figure, self.work_dir / PICTURE)
        except (OSError, ValueError) as error:
            warn(f'{self.work_dir / PICTURE}: not drawn: {error}')
        end = time.monotonic()
        self.next_time = end + (end - start) / SHARE

    after_val_epoch = after_train_epoch


def use_tensorboard(config: Config) -> None:
    """Write events for TensorBoard too, where it is installed.

    A config with another backend than mmengine's files is its user's own and left as it
    is.
    """
    if find_spec('tensorboard') is None:
        return
    if [dict(backend) for backend in _backends(config)] == [{'type': LOCAL}]:
        use_trackers(config, ['tensorboard'])


def use_trackers(config: Config, names: Sequence[str]) -> None:
    """Send losses and metrics to some of `TRACKERS` too.

    Raises:
        UserError: If the package of one is not installed.
    """
    for name in names:
        if find_spec(name) is None:
            raise UserError(
                f'--log {name}: {name} is not installed: python -m pip install {name}'
            )
        backends = _backends(config)
        if TRACKERS[name] not in {type_name(one['type']) for one in backends}:
            config.visualizer.vis_backends = [*backends, _backend(name)]


def _backend(name: str) -> dict:
    """Return mmengine's backend for a tracker."""
    backend = dict(type=TRACKERS[name])
    if name == 'mlflow':
        # Where MLflow itself puts runs, or MLFLOW_TRACKING_URI says: mmengine's own
        # choice, files in the work dir, is refused by MLflow since version 3.
        from mlflow import get_tracking_uri

        backend['tracking_uri'] = get_tracking_uri()
    return backend


def _backends(config: Config) -> Sequence[dict]:
    """Return the backends of a config, which gets mmengine's own if it has none."""
    if config.get('visualizer') is None:
        config.visualizer = dict(type='Visualizer', vis_backends=[dict(type=LOCAL)])
    return config.visualizer.get('vis_backends') or []
