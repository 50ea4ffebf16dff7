"""Running statistics of norms in the processes of a distributed training."""

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner

from mmpoolformer.engine.hooks.finite import statistics


class AverageStatistics(Hook):
    """Gives all processes the mean of their running statistics (BatchNorm).

    Each has gathered those of its own images. Before a validation, so that its result
    depends on no process's share of it, and before a checkpoint, which has room for one
    set. mmengine's SyncBuffersHook leaves out checkpoints between validations, and
    averaged weights (EMA).
    """

    priority = 'VERY_HIGH'  # before EMAHook exchanges the models' tensors

    def before_val_epoch(self, runner: Runner) -> None:
        """Average what is validated."""
        self.average(runner)

    def average(self, runner: Runner) -> None:
        """Average the statistics of the model and its averaged copies; all must."""
        models = [h.ema_model for h in runner.hooks if isinstance(h, EMAHook)]
        buffers = [b for model in (runner.model, *models) for b in statistics(model)]
        if not buffers:
            return
        # In float64, which not every device has, the mean of equal numbers, such as of
        # frozen norms, is the number.
        means = torch.cat([buffer.flatten().cpu().double() for buffer in buffers])
        all_reduce(means, op='mean')
        sizes = [buffer.numel() for buffer in buffers]
        for buffer, mean in zip(buffers, means.split(sizes), strict=True):
            buffer.copy_(mean.view_as(buffer).to(buffer.dtype))
