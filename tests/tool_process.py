"""Running the command-line tools, in this process and in others."""

import contextlib
import fcntl
import io
import multiprocessing
import os
import random
import runpy
import signal
import socket
import struct
import subprocess
import sys
import termios
import traceback
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.registry import DefaultScope
from mmengine.runner import CheckpointLoader
from mmengine.utils import ManagerMixin

ROOT = Path(__file__).resolve().parent.parent
FORKING = multiprocessing.get_context('fork')
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

PRINT_CALL = """#!/usr/bin/env python3
import json, os, sys
print(json.dumps({'argv': sys.argv[1:], 'env': dict(os.environ)}))
sys.exit(int(os.environ.get('STAND_IN_CODE', 0)))
"""


def environment() -> dict:
    """Return variables for a second process that finds the package and one core."""
    return {
        **os.environ,
        'PYTHONPATH': str(ROOT),
        'PYTHON': sys.executable,
        'OMP_NUM_THREADS': '1',
        'MKL_NUM_THREADS': '1',
    }


def start(
    *command: object, cwd: Path | None = None, **variables: str
) -> subprocess.Popen:
    """Start a Python file of the repository, or a shell script."""
    words = [str(word) for word in command]
    words[0] = str(ROOT / words[0])
    if words[0].endswith('.py'):
        words.insert(0, sys.executable)
    return subprocess.Popen(
        words,
        cwd=cwd,
        env={**environment(), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen) -> str:
    """Wait for a process that must succeed and return what it printed."""
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output[-4000:]
    return output


def run(*command: object, **variables: str) -> str:
    """Run a tool that must succeed and return what it printed."""
    return finish(start(*command, **variables))


def run_many(commands: list[list[object]], cwd: Path) -> list[dict]:
    """Run tools one after another in this process, because importing takes long.

    Returns:
        For each its exit `code` (`'crash'` for an exception), `out` and `err`.
    """
    return [run_here(command, cwd) for command in commands]


def run_here(command: list[object], cwd: Path, **variables: str) -> dict:
    """Run a Python file of the repository as a program, in this process.

    Returns:
        Its exit `code` (`'crash'` for an exception), `out` and `err`.
    """
    out, err = io.StringIO(), io.StringIO()
    code = _run(command, cwd, variables, out, err)
    return {'code': code, 'out': out.getvalue(), 'err': err.getvalue()}


def _run(
    command: list[object],
    cwd: Path,
    variables: dict[str, str],
    out: io.TextIOBase,
    err: io.TextIOBase,
) -> int | str:
    path, *arguments = map(str, command)
    code: int | str = 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        _as_a_process([path, *arguments], cwd, variables),
    ):
        try:
            runpy.run_path(str(ROOT / path), run_name='__main__')
        except SystemExit as end:
            code = end.code or 0
        except Exception:
            traceback.print_exc()
            code = 'crash'
    return code


def run_on_terminal(command: list[object], cwd: Path, columns: int = 80) -> str:
    """Run a tool that must succeed in a fork with a pseudo-terminal.

    Returns:
        What the terminal got, control characters and all.
    """
    terminal, slave = os.openpty()
    size = struct.pack('HHHH', 24, columns, 0, 0)
    fcntl.ioctl(slave, termios.TIOCSWINSZ, size)
    process = FORKING.Process(target=_run_there, args=(slave, command, cwd))
    process.start()
    os.close(slave)
    parts = []
    with contextlib.suppress(OSError):  # Linux's end of a terminal's file
        while part := os.read(terminal, 65536):
            parts.append(part)
    os.close(terminal)
    process.join()
    output = b''.join(parts).decode()
    assert process.exitcode == 0, output[-4000:]
    return output


def _run_there(terminal: int, command: list[object], cwd: Path) -> None:
    with os.fdopen(terminal, 'w') as screen:
        code = _run(command, cwd, {}, screen, screen)
    sys.exit(code)


def fork(command: list[object], cwd: Path, **variables: str) -> multiprocessing.Process:
    """Start a Python file in a fork of this process, which has imported all it needs.

    What it printed is in `output.txt` of the folder, with a rank `output1.txt`, once it
    has ended by itself.
    """
    process = FORKING.Process(target=_run_apart, args=(command, cwd, variables))
    process.start()
    return process


def run_ranks(command: list[object], cwd: Path, count: int = 2) -> list[str]:
    """Run a tool in processes as a launcher starts them; return what each prints.

    All must succeed.
    """
    place = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port())
    place |= dict(WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count))
    processes = [
        fork(
            [*command, '--launcher', 'pytorch'],
            cwd,
            **place,
            **dict(RANK=str(rank), LOCAL_RANK=str(rank)),
        )
        for rank in range(count)
    ]
    for process in processes:
        process.join()
    outputs = [(cwd / f'output{rank}.txt').read_text() for rank in range(count)]
    for process, output in zip(processes, outputs, strict=True):
        assert process.exitcode == 0, output[-4000:]
    return outputs


def _run_apart(command: list[object], cwd: Path, variables: dict[str, str]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    done = run_here(command, cwd, **variables)
    output = cwd / f'output{variables.get("RANK", "")}.txt'
    output.write_text(done['out'] + done['err'])
    sys.exit(done['code'])


@contextlib.contextmanager
def own_handlers() -> Iterator[None]:
    """Undo what tools set in a process: checkpoint loaders, scope, signal handlers."""
    schemes = dict(CheckpointLoader._schemes)
    scopes = OrderedDict(DefaultScope._instance_dict)
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        CheckpointLoader._schemes = schemes
        DefaultScope._instance_dict = scopes
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _as_a_process(argv: list[str], cwd: Path, variables: dict) -> Iterator[None]:
    """Undo what a program leaves in its process."""
    before = sys.argv, dict(os.environ), Path.cwd(), torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    # Loggers, visualizers and the like, of which runs in one process share those of
    # the same name.
    named = {kind: kind._instance_dict for kind in _kinds_of(ManagerMixin)}
    for kind in named:
        kind._instance_dict = OrderedDict()
    sys.argv = argv
    os.environ.update(variables)
    os.chdir(cwd)
    try:
        with own_handlers(), warnings.catch_warnings():
            warnings.resetwarnings()
            # As Python does by itself.
            for kind in (DeprecationWarning, ImportWarning, ResourceWarning):
                warnings.simplefilter('ignore', kind)
            # Of mmengine's singletons, because there are several runs in one process.
            warnings.filterwarnings('ignore', '.*instance named of')
            warnings.showwarning = _print_warning
            yield
    finally:
        sys.argv, variables, folder, threads = before
        os.environ.clear()
        os.environ.update(variables)
        os.chdir(folder)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
        for kind in _kinds_of(ManagerMixin):
            kind._instance_dict = named.get(kind, OrderedDict())


def _kinds_of(base: type) -> Iterator[type]:
    """Return all classes derived from one."""
    for kind in base.__subclasses__():
        yield kind
        yield from _kinds_of(kind)


def _print_warning(message: Warning, category: type, *place: object) -> None:
    print(warnings.formatwarning(message, category, *place[:2]), file=sys.stderr)


def free_port() -> str:
    """Return a port that nothing listens on, nor will before it is used.

    Ports from 32768 on are handed out by the kernel to any connection, also in the
    seconds that a launcher takes to begin; below, each process of pytest-xdist
    chooses from a thousand of its own.
    """
    worker = int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0').removeprefix('gw'))
    first = 20000 + 1000 * (worker % 12)
    for port in random.SystemRandom().sample(range(first, first + 1000), k=100):
        with socket.socket() as server, contextlib.suppress(OSError):
            server.bind(('127.0.0.1', port))
            return str(port)
    raise RuntimeError(f'no free port from {first} on')


def write_stand_ins(folder: Path, *names: str) -> None:
    """Write programs that print, as JSON, how they were called."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text(PRINT_CALL)
        (folder / name).chmod(0o755)
