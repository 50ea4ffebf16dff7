"""Trainings that are asked to stop: they save, and end with a code that asks for more.

See `signals` for the requests themselves.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import Value
from types import FrameType

from mmengine.dist import get_rank, is_distributed
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner

from mmpoolformer.engine.distributed import all_true, least
from mmpoolformer.engine.hooks.checkpoint import SafeCheckpointHook
from mmpoolformer.engine.signals import (
    SIGNALS,
    STOPPED_CODE,
    OnSignal,
    StopRequest,
)
from mmpoolformer.utils.temporary import interrupts_held

GRACE = 1.0  # seconds
# What data loaders' processes outlive.
OUTLIVED = (signal.SIGINT, *SIGNALS)


class StopOnSignal(Hook):
    """Save and end after the iteration in which SIGTERM or SIGUSR1 comes.

    In a validation after the current batch: there the training is between iterations.
    The processes of a job agree on the place, whichever of them got the signal. Before
    the first iteration there is nothing to save: until then a signal ends the run at
    once, with the same code. After the last validation it ends as usual.

    Args:
        request: Where the signals are noted.
        interval: Iterations, or batches of a validation, between two times that the
            processes ask each other.
    """

    priority = 'LOWEST'

    def __init__(self, request: StopRequest, interval: int = 10) -> None:
        self.request = request
        self.interval = interval
        self.running = Value('b', 0)

    @contextmanager
    def patient_readers(self) -> Iterator[None]:
        """Let the processes that read pictures outlive signals while the block runs."""
        self.running.value = 1
        try:
            yield
        finally:
            self.running.value = 0

    def before_run(self, runner: Runner) -> None:
        """Prepare the processes that read pictures, before the first of them starts."""
        loaders = [runner.train_dataloader]
        loaders += [] if runner.val_loop is None else [runner.val_dataloader]
        for loader in loaders:
            loader.worker_init_fn = PatientWorker(loader.worker_init_fn, self.running)
            loader._get_iterator = partial(_start_readers, loader._get_iterator)

    def before_train(self, runner: Runner) -> None:
        """Look at signals after iterations only, from now on."""
        self.request.on_signal = OnSignal.NOTE

    def after_train_iter(self, runner: Runner, *_: object, **__: object) -> None:
        """Stop, if a signal has come.

        Raises:
            SystemExit: With code 75. Of several processes the first alone ends so, and
                under tools/dist_train.sh none: there the launcher does.
        """
        step = runner.iter + 1
        if self._is_asked(step):
            self._stop(runner, step, f'after iteration {step}')

    def before_val_epoch(self, runner: Runner) -> None:
        """Find out how many batches all processes of a job have."""
        self.shared_batches = least(len(runner.val_dataloader))

    def after_val_iter(
        self, runner: Runner, batch_idx: int, *_: object, **__: object
    ) -> None:
        """Stop within a validation; a resumed run makes up for all of it.

        Raises:
            SystemExit: As after an iteration.
        """
        is_training = self.request.on_signal is OnSignal.NOTE
        if not is_training or batch_idx >= self.shared_batches:
            return
        if self._is_asked(batch_idx + 1):
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):  # gives the model its own weights back
                    hook.after_val_epoch(runner)
            text = f'in the validation after iteration {runner.iter}'
            self._stop(runner, runner.iter, text)

    def _is_asked(self, number: int) -> bool:
        """Tell whether to stop after a batch; processes ask each other at times."""
        if is_distributed() and number % self.interval:
            return False
        return not all_true(not self.request.received)

    def _stop(self, runner: Runner, step: int, place: str) -> None:
        for hook in runner.hooks:
            if isinstance(hook, SafeCheckpointHook):
                hook.save_now(runner, step)
        runner.logger.warning(
            f'Stopped by {self.request.received or "a signal"} {place}, and saved: '
            f'--resume auto goes on (exit code {STOPPED_CODE})'
        )
        all_true(True)  # the file is there before any process ends
        raise SystemExit(self._exit_code())

    def _exit_code(self) -> int:
        code = self.request.exit_code()
        if get_rank() > 0:
            return 0
        if code and is_distributed():
            time.sleep(GRACE)  # srun ends the others when one fails
        return code


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
        self.parent = os.getpid()

    def __call__(self, number: int) -> None:
        """Begin the process with this number."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for signal_number in SIGNALS:
            signal.signal(signal_number, self._note)
        if hasattr(signal, 'pthread_sigmask'):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, OUTLIVED)
        threading.Thread(target=self._follow, daemon=True).start()
        if self.init is not None:
            self.init(number)

    def _follow(self) -> None:
        while os.getppid() == self.parent:
            time.sleep(GRACE)
        os._exit(1)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.running.value:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def _start_readers(start: Callable[[], Iterator]) -> Iterator:
    """Start a data loader's processes, with signals held back until they are ready.

    They inherit that, and take signals when `PatientWorker` can answer them. A Ctrl-C
    may still come by another thread, and Python ignores what is raised at forks.
    """
    if not hasattr(signal, 'pthread_sigmask'):
        return start()
    with interrupts_held():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, OUTLIVED)
        try:
            return start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
