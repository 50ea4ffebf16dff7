"""What a run has found: metrics as JSON, predictions as a pickle, pictures."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.dist import is_main_process
from mmengine.evaluator import BaseMetric, DumpResults
from mmengine.hooks import Hook, LoggerHook
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmpoolformer.utils.files import (
    plain,
    read_lines,
    write_json,
    write_lines,
)


class ValidationLog(Hook):
    """Keep the metrics of every validation of a training in a JSON file.

    The file is a list of `{"epoch", "iter", "metrics"}`, written anew after each
    validation; a resumed training goes on with the list up to where it resumes.
    """

    priority = 'VERY_LOW'

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).resolve()
        self.entries: list[dict] = []

    def before_train(self, runner: Runner) -> None:
        """Take over the entries from before a resumed training stopped.

        If it stopped between saving and the end of the validation that follows, this
        is made up for.
        """
        if runner.iter > 0 and self.path.is_file():
            entries = json.loads(self.path.read_text(encoding='utf-8'))
            self.entries = [e for e in entries if e['iter'] <= runner.iter]
        if self._was_broken_off(runner):
            runner.logger.info('The validation that was broken off is done first')
            runner.val_loop.run()

    def _was_broken_off(self, runner: Runner) -> bool:
        """Tell whether a validation is due that this work dir's run has not ended."""
        done = [entry['iter'] for entry in self.entries]
        if runner.iter in (0, *done) or runner.val_loop is None:
            return False
        is_own = Path(runner._load_from or '').resolve().parent == self.path.parent
        is_due = getattr(runner.train_loop, 'is_validation_due', None)
        return is_own and is_due is not None and is_due()

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Add the metrics of this validation, in place of an earlier one there.

        A run that is over validates again when it is resumed.
        """
        entry = {'epoch': runner.epoch, 'iter': runner.iter, 'metrics': metrics or {}}
        self.entries = [e for e in self.entries if e['iter'] != runner.iter]
        self.entries.append(entry)
        if is_main_process():
            write_json(self.path, self.entries)


class TrainingLog(Hook):
    """Keep losses and learning rate of a training in one file, through all resuming.

    One JSON object a line, written as often as mmengine logs and after the last step of
    an epoch, or of a run that counts iterations. It has `epoch` (from 1), `iter` (steps
    done), and `lr` (`NAME.lr` of several optimizers) and losses of that step alone,
    not averaged over the steps before. Losses are of the images of the first process.
    A resumed training drops the lines after its checkpoint and goes on.

    Args:
        path: The file, ending on .jsonl.
    """

    # After the schedules (70), before checkpoints (90): a run that is killed in between
    # resumes from an older checkpoint and drops the line.
    priority = 80

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.interval = 10
        self.rates: dict[str, float] = {}

    def before_train(self, runner: Runner) -> None:
        """Keep the lines up to where the run starts, none for a new run."""
        loggers = [hook for hook in runner.hooks if isinstance(hook, LoggerHook)]
        self.interval = loggers[0].interval if loggers else self.interval
        if is_main_process():
            lines = read_lines(self.path) if runner.iter else []
            write_lines(
                self.path, [line for line in lines if line['iter'] <= runner.iter]
            )

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Keep the rate of the step: after it the schedules have set the next one's."""
        if self._is_due(runner, batch_idx):
            self.rates = learning_rates(runner.optim_wrapper)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Add a line if it is time."""
        if not self._is_due(runner, batch_idx):
            return
        place = {'epoch': runner.epoch + 1, 'iter': runner.iter + 1}
        line = plain({**place, **self.rates, **(outputs or {})})
        with self.path.open('a', encoding='utf-8') as file:
            file.write(json.dumps(line) + '\n')

    def _is_due(self, runner: Runner, batch_idx: int) -> bool:
        step = runner.iter + 1
        is_due = step % self.interval == 0 or is_last(runner, step, batch_idx)
        return is_main_process() and is_due


def is_last(runner: Runner, step: int, batch_idx: int) -> bool:
    """Tell whether a step ends an epoch, where these are counted, or the training."""
    loop = runner.train_loop
    if not isinstance(loop, EpochBasedTrainLoop):
        return step == loop.max_iters
    return batch_idx + 1 == len(loop.dataloader)


def learning_rates(wrapper: OptimWrapper) -> dict[str, float]:
    """Return the rate of an optimizer's first group: `lr`, or `NAME.lr` of several."""
    rates = wrapper.get_lr().items()
    return {name: rate[0] for name, rate in rates if name.split('.')[-1] == 'lr'}


class DumpSegResults(DumpResults):
    """Write predicted label maps to a pickle file.

    Scores per class, which mmengine's DumpResults would keep, are left out: for
    ADE20K's validation images they are some hundred gigabytes.
    """

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep path, shape and label map (1, H, W) of each image."""
        for sample in data_samples:
            labels = sample['pred_sem_seg']['data'].cpu()
            kind = torch.uint8 if labels.max() < 256 else torch.int32
            kept = {key: sample.get(key) for key in ('img_path', 'ori_shape')}
            kept['pred_sem_seg'] = {'data': labels.to(kind)}
            self.results.append(kept)


def dump_metric(scope: str, path: str) -> BaseMetric:
    """Return the metric that writes a task's predictions to a pickle file.

    Args:
        scope: The config's `default_scope`; mmdet's writes masks run-length encoded.
        path: The file, ending on .pkl or .pickle.
    """
    if scope == 'mmdet':
        from mmdet.evaluation import DumpDetResults  # only there for detection

        return DumpDetResults(out_file_path=path)
    return DumpSegResults(path) if scope == 'mmseg' else DumpResults(path)
