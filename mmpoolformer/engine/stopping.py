"""Runs that are asked to stop: they save, and end with a code that asks for more.

Slurm and other schedulers announce by a signal that a machine is needed for something
else. The exit code 75 (`EX_TEMPFAIL` of sysexits.h) says: stopped in time, start me
again with `--resume auto`.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import Value
from pathlib import Path
from types import FrameType

from mmengine.dist import get_rank, is_distributed
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmpoolformer.engine.checkpointing import SafeCheckpointHook
from mmpoolformer.engine.distributed import all_true
from mmpoolformer.engine.processes import JOB_VARIABLE, STOP, STOPPED, STOPPED_CODE

SIGNALS = tuple(
    getattr(signal, name) for name in ('SIGTERM', 'SIGUSR1') if hasattr(signal, name)
)
GRACE = 1.0  # seconds


class StopOnSignal(Hook):
    """Save and end after the iteration in which SIGTERM or SIGUSR1 comes.

    The processes of a job agree on the iteration, whichever of them got the signal.
    Before the first iteration, while data is checked, there is nothing to save: then
    the run ends at once, with the same code.

    Args:
        interval: Iterations between two times that they ask each other.

    Attributes:
        received: Name of the signal, once it has come.
        is_training: Whether the run is past its preparations.
    """

    priority = 'LOWEST'

    def __init__(self, interval: int = 10) -> None:
        self.interval = interval
        self.received = ''
        self.is_training = False
        self.running = Value('b', 0)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take signals while the block runs."""
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        self.running.value = 1
        try:
            yield
        finally:
            self.running.value = 0
            for number, handler in before.items():
                signal.signal(number, handler)

    def before_train(self, runner: Runner) -> None:
        """Let the processes that read pictures outlive the signal."""
        self.is_training = True
        loaders = [runner.train_dataloader]
        loaders += [] if runner.val_loop is None else [runner.val_dataloader]
        for loader in loaders:
            loader.worker_init_fn = PatientWorker(loader.worker_init_fn, self.running)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Stop, if a signal has come.

        Raises:
            SystemExit: With code 75. Of several processes the first alone ends so, and
                under tools/dist_train.sh none: there the launcher does.
        """
        step = runner.iter + 1
        if is_distributed() and step % self.interval:
            return
        if all_true(not (self.received or _asked_of_job())):
            return
        for hook in runner.hooks:
            if isinstance(hook, SafeCheckpointHook):
                hook.save_now(runner)
        runner.logger.warning(
            f'Stopped by {self.received or "a signal"} after iteration {step}, and '
            f'saved: --resume auto goes on (exit code {STOPPED_CODE})'
        )
        all_true(True)  # the file is there before any process ends
        raise SystemExit(_exit_code())

    def _note(self, number: int, frame: FrameType | None) -> None:
        is_first = not self.received
        self.received = signal.Signals(number).name
        if is_first and not self.is_training:
            print(
                f'Stopped by {self.received} before the first iteration; start again '
                f'(exit code {STOPPED_CODE})',
                file=sys.stderr,
            )
            raise SystemExit(_exit_code())


class PatientWorker:
    """Lets a data loader's process go on when its whole group gets a signal.

    Slurm, torchrun and the terminal's Ctrl-C signal groups; with its readers gone a run
    could not save, or would tell of their end and not of its own.

    Args:
        init: What the loader's processes begin with otherwise.
        running: Whether there is a run that stops by itself; else a signal ends.
    """

    def __init__(self, init: Callable[[int], None] | None, running: Value) -> None:
        self.init, self.running = init, running

    def __call__(self, number: int) -> None:
        """Begin the process with this number."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for signal_number in SIGNALS:
            signal.signal(signal_number, self._note)
        if self.init is not None:
            self.init(number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.running.value:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def _asked_of_job() -> bool:
    """Tell whether the launcher of this process has got a signal."""
    job = os.environ.get(JOB_VARIABLE)
    return bool(job) and Path(job, STOP).exists()


def _exit_code() -> int:
    """Tell the launcher, if it is ours, that this was a stop; return the exit code."""
    job = os.environ.get(JOB_VARIABLE)
    if job:
        Path(job, STOPPED).touch()
        return 0
    if get_rank() > 0:
        return 0
    if is_distributed():
        time.sleep(GRACE)  # srun ends the others when one fails
    return STOPPED_CODE
