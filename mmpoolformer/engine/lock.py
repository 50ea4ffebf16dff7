"""One training at a time in a work dir."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from mmpoolformer.utils.distributed import launched_rank
from mmpoolformer.utils.errors import UserError
from mmpoolformer.utils.files import write_atomically
from mmpoolformer.utils.logs import warn

LOCK, HOLDER = '.training.lock', '.training.json'
# Seconds to wait where the process that had the lock is dead: its readers of pictures
# outlive it a little, and hold the lock.
PATIENCE = 20.0


@contextmanager
def locked(work_dir: str | Path) -> Iterator[None]:
    """Hold a work dir for a training while the block runs; the first process does.

    The folder is made if need be. The kernel releases the lock when the process dies.
    Where a folder has no locks there is a warning.

    Raises:
        UserError: If another training has the folder.
    """
    if launched_rank() != 0:  # mmengine may not have connected the processes yet
        yield
        return
    folder = Path(work_dir)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(str(folder / LOCK))
    try:
        _acquire(lock, folder)
    except (OSError, NotImplementedError) as error:
        warn(
            f'{folder}: can not be locked ({error}): see to it that no other training '
            'runs there'
        )
    if isinstance(lock, SoftFileLock):
        lock.release()  # it would outlive a process that is killed
    try:
        if lock.is_locked:
            holder = {'pid': os.getpid(), 'host': socket.gethostname()}
            write_atomically(folder / HOLDER, json.dumps(holder))
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, folder: Path) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        pid, host = _holder(folder)
        try:
            lock.acquire(timeout=PATIENCE if _is_dead(pid, host) else 0)
        except Timeout:
            who = f'process {pid} on {host}' if pid else 'another process'
            raise UserError(
                f'{folder}: {who} trains there already: wait for its end, or choose '
                'another folder by --work-dir'
            ) from None


def _holder(folder: Path) -> tuple[int | None, str]:
    """Return process and host that have noted themselves; None if none can be read."""
    try:
        found = json.loads((folder / HOLDER).read_text(encoding='utf-8'))
        return int(found['pid']), str(found['host'])[:100]
    except (OSError, ValueError, TypeError, KeyError):
        return None, ''


def _is_dead(pid: int | None, host: str) -> bool:
    """Tell whether a process of this machine has ended."""
    if os.name != 'posix' or not pid or pid < 0 or host != socket.gethostname():
        return False
    try:
        os.kill(pid, 0)  # sends nothing
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # another user's; no number of a process
        return False
    return False
