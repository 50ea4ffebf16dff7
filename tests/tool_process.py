"""Running the command-line tools in second processes."""

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Several commands in one process, because importing the libraries takes longest.
# A crash is told apart from an exit code.
MANY = """
import contextlib, io, json, runpy, sys, traceback, warnings
results = []
# Of mmengine's singletons, because there are several runs in one process.
warnings.filterwarnings('ignore', '.*instance named of')
for name, arguments in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        sys.argv = [name, *arguments]
        try:
            runpy.run_path(name, run_name='__main__')
        except SystemExit as end:
            code = end.code
        except BaseException:
            traceback.print_exc()
            code = 'crash'
    results.append({'code': code, 'out': out.getvalue(), 'err': err.getvalue()})
print(json.dumps(results))
"""

PRINT_ARGUMENTS = """#!/usr/bin/env python3
import json, os, sys
names = ('OMP_NUM_THREADS', 'PYTHONPATH')
print(json.dumps({'argv': sys.argv[1:], 'env': {n: os.environ.get(n) for n in names}}))
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


def start(*command: object, **variables: str) -> subprocess.Popen:
    """Start a Python file of the repository, or a shell script."""
    words = [str(word) for word in command]
    words[0] = str(ROOT / words[0])
    if words[0].endswith('.py'):
        words.insert(0, sys.executable)
    return subprocess.Popen(
        words,
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
    """Run tools one after another in one process.

    Returns:
        For each its exit `code` (`'crash'` for an exception), `out` and `err`.
    """
    words = [[str(ROOT / name), [str(a) for a in rest]] for name, *rest in commands]
    done = subprocess.run(
        [sys.executable, '-c', MANY],
        input=json.dumps(words),
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


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
    for name in names:
        (folder / name).write_text(PRINT_ARGUMENTS)
        (folder / name).chmod(0o755)
