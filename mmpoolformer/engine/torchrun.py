"""torchrun whose own traceback does not bury what the processes have said.

`python -m mmpoolformer.engine.torchrun` takes torchrun's command line; before it,
`--check-first` lets tools/train.py check config, weights and data, once. A training
that is stopped by SIGTERM or SIGUSR1 makes it end with the code 75 (see `signals`);
torchrun gives the processes 30 seconds after SIGTERM, SIGUSR1 as long as they need.
"""

import logging
import os
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from mmpoolformer.engine.signals import (
    JOB_VARIABLE,
    LAUNCHER,
    SIGNALS,
    STOP,
    STOPPED,
    STOPPED_CODE,
    OnSignal,
    StopRequest,
    locked,
    run_stoppable,
)
from mmpoolformer.utils.errors import UserError

# What a shell adds to the number of the signal that has ended a process.
BY_SIGNAL = 128
CHECK_FIRST = '--check-first'

# What torch says, now and in 2.1.
PORT_TAKEN = ('EADDRINUSE', 'Address already in use')


def main(argv: Sequence[str], stop: StopRequest) -> None:
    """Start the processes and wait for them.

    Args:
        argv: torchrun's command line, after `CHECK_FIRST` if that is wanted.
        stop: Takes signals until processes are started; torchrun takes SIGTERM then.

    Raises:
        SystemExit: With the code of the check or first process that failed, which has
            said why; or with 75 for a run that was stopped.
        UserError: If a process was ended by a signal, or the port is taken.
    """
    # Here, so that a missing torch is told like any other mistake.
    from torch.distributed.run import parse_args

    checks = CHECK_FIRST in argv[:1]
    args = parse_args(argv[checks:])
    stop.on_signal = OnSignal.UNWIND
    if checks:
        _check(args)
    with TemporaryDirectory(prefix='mmpoolformer_') as job:
        os.environ[JOB_VARIABLE] = job
        if hasattr(signal, 'SIGUSR1'):
            signal.signal(signal.SIGUSR1, lambda *_: Path(job, STOP).touch())
        with locked(Path(job, LAUNCHER)):
            _run(args, Path(job, STOPPED))


def _check(args: Namespace) -> None:
    command = [sys.executable, args.training_script, *args.training_script_args]
    command = [word for word in command if word != '--no-check']
    # In a session of its own signals reach it and its readers through us alone.
    process = subprocess.Popen(
        [*command, '--launcher', 'none', '--check-only'], start_new_session=True
    )
    try:
        code = process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if code:
        raise SystemExit(code)


def _run(args: Namespace, stopped: Path) -> None:
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousConnectionError
    from torch.distributed.run import run

    logging.disable(logging.ERROR)  # torchrun's; the processes have said why
    try:
        run(args)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's answer would raise
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            raise UserError(
                f'process {rank} was ended by signal {-failure.exitcode}; 9 mostly '
                'means that memory ran out'
            ) from error
        raise SystemExit(failure.exitcode) from error
    except SignalException as error:
        is_stop = error.sigval in SIGNALS or stopped.exists()
        code = STOPPED_CODE if is_stop else BY_SIGNAL + error.sigval
        raise SystemExit(code) from error
    except (RuntimeError, RendezvousConnectionError) as error:
        causes = str(error), str(error.__cause__)
        if not any(words in text for words in PORT_TAKEN for text in causes):
            raise
        raise UserError(
            f'port {args.master_port} is in use: choose a free one by PORT=..., '
            f'such as PORT={args.master_port + 1}'
        ) from error
    if stopped.exists():
        raise SystemExit(STOPPED_CODE)


if __name__ == '__main__':
    sys.exit(run_stoppable(main, sys.argv[1:]))
