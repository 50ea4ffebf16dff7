"""How far a training, evaluation or test is, on a bar."""

from typing import TextIO

import torch
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import DataLoader
from tqdm import tqdm

from mmpoolformer.engine.hooks.logs import learning_rates
from mmpoolformer.utils.progress import progress_bar

TRAINING = '{desc} {bar} {percentage:3.0f} %{postfix}'
WINDOW = 20  # iterations over which speed is averaged


class ProgressHook(Hook):
    """Show how far it is: loss, learning rate, images per second, memory, time left.

    Args:
        file: Where the bars are drawn.
        indent: Put before them.
    """

    priority = 'VERY_LOW'

    def __init__(self, file: TextIO, indent: str = '') -> None:
        self.file, self.indent = file, indent
        self.bar = self.part = progress_bar(0, '', shown=False)

    def before_train(self, runner: Runner) -> None:
        """Begin a bar over all iterations."""
        self.bar = progress_bar(
            runner.max_iters,
            f'{self.indent}training',
            done=runner.iter,
            file=self.file,
            layout=TRAINING,
        )

    def before_train_epoch(self, runner: Runner) -> None:
        """Name the epoch, where these are counted."""
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            text = f'{self.indent}epoch {runner.epoch + 1}/{runner.max_epochs}'
            self.bar.set_description_str(text)

    def after_train_iter(self, runner: Runner, *_: object, **__: object) -> None:
        """Count the iteration and show its figures."""
        self.bar.set_postfix_str(figures(runner), refresh=False)
        self.bar.update()

    def before_val_epoch(self, runner: Runner) -> None:
        """Begin a bar over the batches, below that of the training."""
        self._begin_part(runner.val_dataloader)

    def before_test_epoch(self, runner: Runner) -> None:
        """Begin a bar over the batches."""
        self._begin_part(runner.test_dataloader)

    def after_val_iter(self, *_: object, **__: object) -> None:
        """Count the batch."""
        self.part.update()

    after_test_iter = after_val_iter

    def after_val_epoch(self, *_: object, **__: object) -> None:
        """End the bar over the batches."""
        self.part.close()

    after_test_epoch = after_val_epoch

    def close(self) -> None:
        """End all bars, wherever they are."""
        self.part.close()
        self.bar.close()

    def _begin_part(self, loader: DataLoader) -> None:
        is_below = not self.bar.disable  # that of a training; in a file it is enough
        self.part = progress_bar(
            len(loader),
            f'{self.indent}testing',
            shown=self.file.isatty() or not is_below,
            file=self.file,
            leave=not is_below,
        )


def figures(runner: Runner) -> str:
    """Return what a bar says of the last iteration."""
    hub = runner.message_hub
    # mmengine's estimate: tqdm's counts evaluations as slow iterations.
    left = hub.runtime_info.get('eta')
    shown = [] if left is None else [f'{tqdm.format_interval(left)} left']
    # mmengine has taken it from the device for its log: that waits for the device.
    if 'train/loss' in hub.log_scalars:
        shown.append(f'loss {hub.get_scalar("train/loss").current():.3g}')
    rate, *_ = learning_rates(runner.optim_wrapper).values()
    shown.append(f'lr {rate:.1e}')
    if 'train/time' in hub.log_scalars:
        seconds = hub.get_scalar('train/time').mean(WINDOW)
        images = runner.world_size * runner.train_dataloader.batch_sampler.batch_size
        speed = images / seconds
        shown.append(f'{speed:.{0 if speed >= 10 else 1}f} img/s')
    if torch.cuda.is_available():
        shown.append(f'{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB')
    return ', '.join(shown)
