"""Two trainings never share a work dir; a dead one does not keep it."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest

from mmpoolformer.engine import lock as module
from mmpoolformer.engine.lock import locked
from mmpoolformer.utils.errors import UserError

# A process that trains, with a reader that outlives it a second.
HOLD = """
import os, sys, time
from mmpoolformer.engine.lock import locked
with locked(sys.argv[1]):
    if not os.fork():
        os.close(1)
        time.sleep(1)
        os._exit(0)
    print('held', flush=True)
    time.sleep(60)
"""


def test_a_second_training_is_told_of_the_first_until_it_is_killed(
    tmp_path: Path,
) -> None:
    first = subprocess.Popen(
        [sys.executable, '-c', HOLD, str(tmp_path)], stdout=subprocess.PIPE
    )
    try:
        assert first.stdout.readline() == b'held\n'
        told = rf'process {first.pid} on .*--work-dir'
        with pytest.raises(UserError, match=told), locked(tmp_path):
            pass
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        first.stdout.close()
    with locked(tmp_path):
        pass


def test_a_folder_is_free_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path / 'new'):
        raise ZeroDivisionError
    start = time.monotonic()
    with locked(tmp_path / 'new'):
        pass
    assert time.monotonic() - start < 5


def test_processes_that_have_ended_are_known() -> None:
    ended = subprocess.Popen([sys.executable, '-c', ''])
    ended.wait()
    host = socket.gethostname()
    assert module._is_dead(ended.pid, host)
    assert not module._is_dead(ended.pid, f'{host}.elsewhere')
    for pid in (None, -1, os.getpid(), 1, 1 << 80):
        assert not module._is_dead(pid, host)


@pytest.mark.parametrize('error', [OSError(38, 'no locks'), NotImplementedError('no')])
def test_a_folder_without_locks_is_used_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    told = []

    def fail(self: object, **_: object) -> None:
        raise error

    monkeypatch.setattr(filelock.FileLock, 'acquire', fail)
    monkeypatch.setattr(module, 'warn', told.append)
    with locked(tmp_path):
        pass
    assert 'can not be locked' in told[0]
