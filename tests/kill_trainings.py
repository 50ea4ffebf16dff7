"""Trainings that are killed: `python kill_trainings.py FOLDER KILLS`.

All trainings are forked from this process, because importing takes long. Each goes on
where the one before was killed: by SIGKILL after a random time, by SIGKILL at its
n-th operation on a file, or by the kernel at the n-th byte of a file. Others meet a
full disk, or find that their newest file is damaged. The result is JSON on stdout.
"""

import itertools
import json
import os
import random
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.runner import runner as mmengine_runner
from tiny_training import INTERVAL, STEPS, settings, train

from mmpoolformer.checkpoints import register_safe_loaders
from mmpoolformer.checkpoints.reading import read_checkpoint
from mmpoolformer.engine.hooks.checkpoint import report_full_disk
from mmpoolformer.engine.resuming import resumable
from mmpoolformer.utils.errors import run_tool

SMALLEST = 130_000  # bytes of a checkpoint, rounded down
FILE_EVENTS = ('open', 'os.rename', 'os.remove', 'os.mkdir')


class Limit(Hook):
    """Let the kernel end the process at a byte of a file, from an iteration on."""

    def __init__(self, after: int, size: int) -> None:
        self.left, self.size = after, size

    def before_train_iter(self, runner: Runner, **_: object) -> None:
        self.left -= 1
        if self.left == 0:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.size))


class FullDisk(Hook):
    """Let the checkpoint of an iteration be written to a device that is full."""

    def before_train_iter(self, runner: Runner, **_: object) -> None:
        if runner.iter + 1 == 8:
            Path(runner.work_dir, 'iter_8.pth.part').symlink_to('/dev/full')


def forked(work: Callable[[], object], output: Path) -> int:
    """Run a function in a process of its own; return the process's number."""
    number = os.fork()
    if number:
        return number
    sys.stdout = sys.stderr = output.open('a')
    os.dup2(sys.stdout.fileno(), 1), os.dup2(sys.stdout.fileno(), 2)

    def main(_: object) -> None:
        with report_full_disk():
            work()

    code = 99
    try:
        code = run_tool(main, [])
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)


def waited(number: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def killed_at_file(folder: Path, count: int) -> Callable[[], None]:
    """A training that is killed right before its n-th operation on a checkpoint."""
    counter = itertools.count(1)

    def watch(event: str, arguments: tuple) -> None:
        if event not in FILE_EVENTS or not isinstance(arguments[0], (str, Path)):
            return
        name = str(arguments[0])
        is_ours = ('.pth' in name or 'last_checkpoint' in name) and arguments[1] != 'r'
        if is_ours and str(folder) in name and next(counter) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        sys.addaudithook(watch)
        train(settings(folder))

    return work


def steps_done(folder: Path) -> int:
    log = folder / 'train_log.jsonl'
    lines = log.read_text().splitlines(True) if log.is_file() else []
    return sum(line.endswith('\n') for line in lines)


def one_kill(folder: Path, kind: str, generator: random.Random) -> int:
    """Train until killed; return the status."""
    # The kernel's limit holds for this file too.
    output = Path(os.devnull) if kind == 'byte' else folder / 'output.txt'
    if kind == 'file':
        return waited(forked(killed_at_file(folder, generator.randint(1, 40)), output))
    if kind == 'byte':
        limit = Limit(generator.randint(1, 9), generator.randint(30_000, SMALLEST))
        return waited(forked(lambda: train(settings(folder), limit), output))
    until = min(steps_done(folder) + generator.randint(0, 8), STEPS - 1)
    number = forked(lambda: train(settings(folder)), output)
    time.sleep(0.1)
    while steps_done(folder) < until:
        time.sleep(0.001)
    time.sleep(generator.random() * 0.03)
    os.kill(number, signal.SIGKILL)
    return waited(number)


def state(folder: Path) -> dict:
    """What a killed run has left behind."""
    found = resumable(folder)
    # A line of the log is written after the checkpoint of the iteration before.
    promised = max(0, steps_done(folder) - 1) // INTERVAL * INTERVAL
    resumed = read_checkpoint(found[0])['meta']['iter'] if found else 0
    return {'promised': promised, 'resumed': resumed}


def trained(folder: Path, *hooks: Hook, keep: int = 1) -> dict:
    """Train to the end; return code and output."""
    folder.mkdir(exist_ok=True)
    config = settings(folder)
    config.default_hooks.checkpoint.max_keep_ckpts = keep
    output = folder / f'output_{time.monotonic_ns()}.txt'
    code = waited(forked(lambda: train(config, *hooks), output))
    return {'code': code, 'out': output.read_text()}


def kill_often(folder: Path, kills: int) -> dict:
    generator = random.Random(kills)
    found, folders = [], []
    for _, kind in zip(
        range(kills), itertools.cycle(['time', 'byte', 'file']), strict=False
    ):
        if not folders or steps_done(folders[-1]) > STEPS - 12:
            folders.append(folder / f'killed_{len(folders)}')
            folders[-1].mkdir()
        broken = folders[-1]
        before = state(broken)
        status = one_kill(broken, kind, generator)
        found.append(
            {'kind': kind, 'status': status, 'before': before, **state(broken)}
        )
    ends = {str(broken): trained(broken) for broken in folders}
    return {'kills': found, 'ends': ends}


def fill_disk(folder: Path) -> dict:
    full = trained(folder / 'full', FullDisk())
    names = sorted(path.name for path in (folder / 'full').glob('*.p*'))
    return {'full': full, 'names': names, 'again': trained(folder / 'full')}


def damage(folder: Path) -> dict:
    def cut(file: Path) -> None:
        os.truncate(file, file.stat().st_size // 2)

    def flip(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)

    def half_done(place: Path) -> list[Path]:
        place.mkdir()
        config = settings(place)
        config.default_hooks.checkpoint.max_keep_ckpts = 2
        limit = Limit(18, SMALLEST)
        waited(forked(lambda: train(config, limit), Path(os.devnull)))
        return resumable(place)

    found = {}
    for kind in (flip, Path.unlink):
        place = folder / kind.__name__
        files = half_done(place)
        kind(files[0])
        found[kind.__name__] = {
            'names': [file.name for file in files],
            **trained(place, keep=2),
        }
    for file in half_done(folder / 'none'):
        cut(file)
    return {'found': found, 'none': trained(folder / 'none', keep=2)}


if __name__ == '__main__':
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    mmengine_runner.collect_env = dict  # it asks compilers, for seconds
    register_safe_loaders()
    # At every save they start git, and format the config for the tenth of a second.
    mmengine_runner.get_git_hash = str
    Config.pretty_text = property(str)
    place = Path(sys.argv[1])
    whole = trained(place / 'whole')
    found = kill_often(place, int(sys.argv[2]))
    found |= {'whole': whole, 'full_disk': fill_disk(place), 'damage': damage(place)}
    print(json.dumps(found))
