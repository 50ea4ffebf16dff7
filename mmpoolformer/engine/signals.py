"""Requests to stop, by SIGTERM or SIGUSR1, from a process's first moments on.

Slurm and other schedulers announce by a signal that a machine is needed for something
else. The exit code 75 (`EX_TEMPFAIL` of sysexits.h) says: stopped in time, start me
again with `--resume auto`.

Only the standard library is imported here, so that the handlers are there before torch
is, whose import takes seconds.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from types import FrameType

from mmpoolformer.utils.distributed import launched_rank
from mmpoolformer.utils.errors import run_tool

if os.name == 'posix':
    import fcntl

SIGNALS = tuple(
    getattr(signal, name) for name in ('SIGTERM', 'SIGUSR1') if hasattr(signal, name)
)
STOPPED_CODE = 75  # "temporary failure, try again" in sysexits.h
# The folder by which launcher and processes of a machine tell each other of a stop,
# by empty files: the launcher asks for it, a process has done it.
JOB_VARIABLE = 'MMPOOLFORMER_JOB'
STOP, STOPPED = 'stop', 'stopped'
LAUNCHER = 'launcher'  # a file in it that the launcher keeps locked
LAUNCHED_VARIABLE = 'TORCHELASTIC_RUN_ID'  # torchrun sets it
PAUSE = 0.5  # seconds between two looks at the launcher


class OnSignal(Enum):
    """What a process does when it is asked to stop."""

    EXIT = 'end on the spot: nothing has been begun'
    UNWIND = 'end by SystemExit: what is being written is removed'
    NOTE = 'nothing: the run looks at `received` where it can save'


class StopRequest:
    """SIGTERM and SIGUSR1 to this process, and what they lead to.

    Attributes:
        received: Name of the first signal; empty until one has come.
        on_signal: What the process does when it comes.
    """

    def __init__(self) -> None:
        self.received = ''
        self.on_signal = OnSignal.UNWIND
        self.process = os.getpid()
        self.job = os.environ.get(JOB_VARIABLE)

    def listen(self) -> None:
        """Take the signals from now on."""
        for number in SIGNALS:
            signal.signal(number, self._take)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals while the block runs."""
        before = {number: signal.getsignal(number) for number in SIGNALS}
        self.listen()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def follow_launcher(self) -> None:
        """End when torchrun, or our launcher over it, has gone; in a thread.

        What the launcher asks for is taken as a signal to this process.
        """
        if LAUNCHED_VARIABLE in os.environ:
            parent = os.getppid()
            if self.job and _is_unlocked(Path(self.job, LAUNCHER)):
                os.kill(os.getpid(), signal.SIGKILL)  # it has gone before this began
            threading.Thread(target=self._follow, args=(parent,), daemon=True).start()

    @property
    def ends_run(self) -> bool:
        """Whether a signal has come that was to end the process at once."""
        return bool(self.received) and self.on_signal is not OnSignal.NOTE

    def exit_code(self) -> int:
        """Tell the launcher, if it is ours, that this was a stop; return the code."""
        if not self.job:
            return STOPPED_CODE
        if Path(self.job).is_dir():  # else the launcher has ended meanwhile
            Path(self.job, STOP).touch()  # for the other processes
            Path(self.job, STOPPED).touch()
        return 0

    def _take(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process:  # a fork, which has no run of its own
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if self.received:
            return
        self.received = signal.Signals(number).name
        if self.on_signal is OnSignal.NOTE:
            return
        if launched_rank() == 0:
            self._announce()
        if self.on_signal is OnSignal.EXIT:
            os._exit(self.exit_code())
        raise SystemExit(self.exit_code())

    def _follow(self, parent: int) -> None:
        while os.getppid() == parent:
            if self.job and not self.received and Path(self.job, STOP).exists():
                signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            time.sleep(PAUSE)
        # As after a loss of power: another run may begin in the same work dir.
        os.kill(os.getpid(), signal.SIGKILL)

    def _announce(self) -> None:
        text = f'Stopped by {self.received}, with nothing to save yet; start again '
        text += f'(exit code {STOPPED_CODE})\n'
        os.write(2, text.encode())  # print may be what the signal has interrupted


def run_stoppable(
    main: Callable[[Sequence[str], StopRequest], None], argv: Sequence[str]
) -> int:
    """Run a tool's main function, as `run_tool` does, and let signals stop it.

    Args:
        main: The tool; it gets the command line and the request, which it may note.
            Until it sets `on_signal`, a signal ends the process on the spot.
        argv: The command line without the program's name.

    Returns:
        The exit code: 75 for a run that a signal has ended, whatever that led to.
    """
    stop = StopRequest()
    stop.on_signal = OnSignal.EXIT
    stop.listen()
    stop.follow_launcher()
    try:
        code = run_tool(lambda words: main(words, stop), argv)
    except BaseException:
        if not stop.ends_run:
            raise
        code = STOPPED_CODE
    finally:  # all is said; on its way out the interpreter would drop our handlers
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
    return stop.exit_code() if stop.ends_run else code


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock on a file, until the block or this process ends, however it does."""
    with path.open('w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_unlocked(path: Path) -> bool:
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:  # the launcher has ended in order and removed it
        return True
    return True
