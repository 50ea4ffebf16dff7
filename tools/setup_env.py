#!/usr/bin/env python3
"""Create the environment that mmpoolformer is developed and tested in.

One command, six stages, each skipped when it is done: an interrupted run is simply
run again. Only the standard library is used, and the syntax is one that Python 3.6
can read, so that a Python that is too old gets a sentence and no ``SyntaxError``.
"""

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - the very case this line is for
    sys.exit(
        'error: Python 3.10 or newer is needed and this is {}.{}; name a newer one, '
        'for example: make quickstart PYTHON=python3.11'.format(*sys.version_info[:2])
    )

import argparse
import contextlib
import hashlib
import importlib.util
import itertools
import os
import re
import shutil
import signal
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
NOTES = '.mmpoolformer'  # our folder inside the environment: stamps, log, lock
PASSING = 'tmp'  # in there, for pip and the compiler: /tmp is often too small
GB = 1e9

# What each stage adds in GB: to the environment, and to its temporary folder and pip's
# cache. Measured on Linux x86-64, where the environment takes 6.7 in the end.
SPACE = {'torch': (5.0, 2.9), 'mmcv': (0.1, 0.5), 'rest': (1.6, 0.4)}

NO_CACHE = 'pip keeps no copies of what it downloads: asked for, or to save room'

PROVE_OPENCV = """
import cv2
from cv2 import version
assert version.headless, 'the OpenCV that is imported is not the headless one'
"""

# Runs an operator: a wheel that was built against another torch may well import.
PROVE_MMCV = """
import torch
from mmcv.ops import nms
boxes = torch.tensor([[0., 0., 9., 9.], [0., 0., 9., 8.], [20., 20., 29., 29.]])
kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)[1].tolist()
assert kept == [0, 2], f'mmcv.ops.nms kept {kept}, not [0, 2]'
"""

PROVE_ALL = (
    PROVE_OPENCV
    + PROVE_MMCV
    + """
import mmdet, mmengine, mmseg, pycocotools.mask, timm, torchvision
from mmdet.apis import init_detector
from mmseg.apis import init_model
from mmpoolformer.version import __version__
"""
)

# What pip says when it fails, and what helps. The first match is told.
CURES = (
    (r'No space left on device', 'the disk is full: free some space'),
    (
        r'Temporary failure in name resolution|NewConnectionError|ConnectTimeout'
        r'|ProxyError|ReadTimeout|No route to host',
        "the package index cannot be reached: check the network and pip's settings "
        '(pip config list)',
    ),
    (
        r'No matching distribution found for (\S+)',
        'the package index has no file for this Python and platform',
    ),
    (
        r'detected CUDA version .* mismatches',
        'the CUDA toolkit (nvcc) is not the one that torch was built for: install that '
        'one, or set CUDA_VISIBLE_DEVICES= to build for the CPU only',
    ),
    (
        r'Killed signal|internal compiler error|out of memory',
        'the compiler ran out of memory: set MAX_JOBS=1',
    ),
)


class SetupError(Exception):
    """A problem that the user can cure; printed as one line."""


class Stack(NamedTuple):
    """One of the two OpenMMLab families and what holds for it."""

    name: str
    newest_python: tuple[int, int]
    why_newest: str
    mmcv: str

    @property
    def pins(self) -> Path:
        """The constraints file with the exact version of every package."""
        return ROOT / 'requirements' / f'{self.name}.txt'


STACKS = {
    'forks': Stack(
        'forks',
        (3, 13),
        'numpy 2.2 has no wheels for newer ones',
        'onedl-mmcv',
    ),
    'originals': Stack(
        'originals',
        (3, 11),
        'torch 2.1.2 has no wheels for newer ones',
        'mmcv',
    ),
}


class Place(NamedTuple):
    """Where the environment is and what it is made from."""

    stack: Stack
    venv: Path

    @property
    def python(self) -> Path:
        """The interpreter inside the environment."""
        return self.venv / 'bin' / 'python'

    @property
    def notes(self) -> Path:
        """The folder for stamps, the log and the lock."""
        return self.venv / NOTES

    @property
    def log(self) -> Path:
        """Everything that pip and the compiler said."""
        return self.notes / 'setup.log'


# ---------------------------------------------------------------- running commands


class Runner:
    """Runs commands quietly into a log file and shows that time passes.

    Args:
        log: file that the output is appended to.
        stream: where progress goes.
        variables: environment variables of all commands, on top of the user's.
        every: seconds between two signs of life where there is no terminal.
    """

    def __init__(
        self,
        log: Path,
        stream=sys.stdout,
        variables: dict[str, str] | None = None,
        every: float = 60.0,
    ) -> None:
        """Remember where to write; nothing is opened yet."""
        self.log = log
        self.variables = variables or {}
        self.passing = log.parent / PASSING
        self.stream = stream
        self.every = every

    def __call__(self, command: list[str], extra: dict[str, str] | None = None) -> None:
        """Run ``command`` and wait for its end.

        Args:
            command: program and arguments.
            extra: environment variables of this command alone.

        Raises:
            SetupError: if the command cannot be started or fails.
        """
        self.passing.mkdir(parents=True, exist_ok=True)
        begin = self.log.stat().st_size if self.log.exists() else 0
        own = {'TMPDIR': str(self.passing.resolve()), **self.variables}
        with self.log.open('ab') as sink:
            sink.write(f'\n$ {" ".join(command)}\n'.encode())
            sink.flush()
            # A session of its own, so that a stop reaches pip's compilers too.
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=child_environment(os.environ, {**own, **(extra or {})}),
                start_new_session=True,
            )
        try:
            self.watch(child)
        finally:
            stop_group(child)
        if child.returncode:
            raise SetupError(self.explain(command, child.returncode, begin))

    def watch(self, child: subprocess.Popen) -> None:
        """Wait for ``child``; tick on a terminal, or say something now and then."""
        begin = said = time.monotonic()
        ticks = self.stream.isatty()
        while not finished_within(child, 1.0):
            now = time.monotonic()
            if ticks:
                self.stream.write(self.tick(now - begin))
            elif now - said >= self.every:
                said = now
                self.stream.write(
                    f'      {span(now - begin)}: {self.last_line()[:80]}\n'
                )
            self.stream.flush()
        if ticks:
            self.stream.write('\r\033[K')
            self.stream.flush()

    def tick(self, seconds: float) -> str:
        """Return one redrawn line: elapsed time and what the command said last."""
        width = shutil.get_terminal_size().columns
        line = f'      {span(seconds)}: {self.last_line()}'
        return f'\r\033[K{line[: width - 1]}'

    def last_line(self) -> str:
        """Return what the command said last, the compiler's progress in words."""
        lines = readable(tail(self.log, 20000))
        last = lines[-1].strip() if lines else ''
        compiled = re.match(r'\[(\d+)/(\d+)\]', last)
        return (
            'compiled {} of {} files'.format(*compiled.groups()) if compiled else last
        )

    def explain(self, command: list[str], code: int, begin: int) -> str:
        """Print the end of the log, and return what failed and what helps."""
        with self.log.open('rb') as source:
            source.seek(begin)
            text = source.read().decode(errors='replace')
        self.stream.write('\n'.join(['', *readable(text)[-15:], '']))
        self.stream.flush()
        cure = find_cure(text)
        what = f'{Path(command[0]).name} {" ".join(command[1:4])}'.split('\n')[0]
        return f'`{what} ...` failed ({code}): {cure} (whole log: {self.log})'


def child_environment(
    environment: dict[str, str], extra: dict[str, str]
) -> dict[str, str]:
    """Return the user's environment without what would leak into the new one.

    pip's own settings (indexes, proxies, certificates) stay as the user has them.
    """
    leaks = {'PYTHONPATH', 'PYTHONHOME', 'PIP_USER', 'PIP_TARGET', 'PIP_PREFIX'}
    kept = {name: value for name, value in environment.items() if name not in leaks}
    return {**kept, 'PIP_DISABLE_PIP_VERSION_CHECK': '1', 'PIP_NO_INPUT': '1', **extra}


def finished_within(child: subprocess.Popen, seconds: float) -> bool:
    """Wait at most ``seconds`` for ``child``; tell whether it ended."""
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def stop_group(child: subprocess.Popen) -> None:
    """End ``child`` and everything that it started, if it still runs."""
    if child.poll() is not None:
        return
    os.killpg(child.pid, signal.SIGINT)  # on which pip tidies up after itself
    finished_within(child, 10.0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def tail(path: Path, size: int) -> str:
    """Return the last ``size`` bytes of a file as text."""
    with path.open('rb') as source:
        source.seek(max(0, path.stat().st_size - size))
        return source.read().decode(errors='replace')


def readable(text: str) -> list[str]:
    """Return the lines that tell something, cut to a bearable length."""
    lines = (line.rstrip()[:160] for line in text.splitlines())
    return [line for line in lines if line and not line.startswith('WARNING')]


def find_cure(text: str) -> str:
    """Return what helps against the failure that ``text`` tells of."""
    for pattern, cure in CURES:
        if re.search(pattern, text):
            return f'{cure}, then run the same command again'
    return 'run the same command again, it goes on where it stopped'


def span(seconds: float) -> str:
    """Return a duration in minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f'{minutes} min {rest:02d} s' if minutes else f'{rest} s'


# ------------------------------------------------------------------------ preflight


def check_python(version: tuple[int, int], stack: Stack) -> None:
    """Refuse a Python that the stack has no packages for.

    Raises:
        SetupError: with the reason and the cure.
    """
    if version <= stack.newest_python:
        return
    newest = '{}.{}'.format(*stack.newest_python)
    raise SetupError(
        f'Python {version[0]}.{version[1]} is too new for the {stack.name} '
        f'({stack.why_newest}); name another: PYTHON=python{newest}'
    )


def check_modules(
    version: tuple[int, int], find: Callable = importlib.util.find_spec
) -> None:
    """Refuse a Python that cannot make virtual environments.

    Raises:
        SetupError: with the package that is missing.
    """
    missing = [name for name in ('venv', 'ensurepip') if find(name) is None]
    if missing:
        raise SetupError(
            f'this Python has no module {missing[0]}; on Debian and Ubuntu: '
            f'sudo apt install python{version[0]}.{version[1]}-venv'
        )


def check_compiler(version: tuple[int, int], include: str) -> None:
    """Compile and link a small extension, as building mmcv will.

    Args:
        version: of the Python, for the advice.
        include: folder where ``Python.h`` should be.

    Raises:
        SetupError: with what is missing and how to get it.
    """
    compiler = os.environ.get('CXX') or 'c++'
    if shutil.which(compiler.split()[0]) is None:
        raise SetupError(
            f'no C++ compiler ({compiler}) found; on Debian and Ubuntu: '
            'sudo apt install build-essential'
        )
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, 'small.cpp')
        source.write_text(
            '#include <Python.h>\n#include <vector>\n'
            'int size() { return (int)std::vector<int>(3).size(); }\n'
        )
        flags = ['-std=c++17', '-fPIC', '-shared', f'-I{include}']
        if sys.platform == 'darwin':
            flags += ['-undefined', 'dynamic_lookup']
        command = [*compiler.split(), *flags, str(source), '-o', f'{folder}/small.so']
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SetupError(explain_compiler(compiler, done.stderr, version))


def explain_compiler(compiler: str, said: str, version: tuple[int, int]) -> str:
    """Return one line about a compiler that failed on the small extension."""
    if re.search(r'Python\.h.*(No such file|not found)', said):
        return (
            'the C header Python.h is missing; on Debian and Ubuntu: '
            f'sudo apt install python{version[0]}.{version[1]}-dev'
        )
    lines = [line for line in said.splitlines() if line.strip()] or ['(no message)']
    errors = [line for line in lines if 'error' in line.lower()] or lines
    return (
        f'the C++ compiler {compiler} cannot build a small program: {errors[0]}; '
        'choose another, for example: CXX=g++'
    )


def existing(path: Path) -> Path:
    """Return ``path`` or its nearest parent that exists."""
    return next(p for p in (path, *path.parents) if p.exists())


def free_bytes(path: Path) -> int:
    """Return the free space of the disk that holds ``path``."""
    return shutil.disk_usage(path).free


def disk_needs(place: Place, stages: list[str], cached: bool) -> dict[Path, float]:
    """Return how many GB the pending stages need, by folder.

    Args:
        place: the environment to be.
        stages: names of the pending stages. Their downloads pass through a temporary
            folder beside the environment, which each leaves empty.
        cached: whether pip's cache keeps the downloads.
    """
    sizes = [SPACE.get(name, (0.0, 0.0)) for name in stages]
    filled = itertools.accumulate(kept for kept, passing in sizes)
    peaks = [now + size[1] for now, size in zip(filled, sizes, strict=True)]
    cache = Path(os.environ.get('PIP_CACHE_DIR', '~/.cache/pip')).expanduser()
    needs = {existing(place.venv.resolve()): max(peaks, default=0.0)}
    if cached:
        downloads = sum(passing for kept, passing in sizes)
        needs[existing(cache)] = needs.get(existing(cache), 0.0) + downloads
    return needs


def check_disk(
    needs: dict[Path, float], free: Callable[[Path], int] = free_bytes
) -> None:
    """Refuse to begin when a disk is too small for what will be put on it.

    Args:
        needs: GB needed by folder; folders on one disk are added up.
        free: gives the free bytes of the disk that holds a folder.

    Raises:
        SetupError: with the place, what it has and what is needed.
    """
    totals: dict[int, tuple[Path, float]] = {}
    for folder, size in needs.items():
        disk = folder.stat().st_dev
        first, before = totals.get(disk, (folder, 0.0))
        totals[disk] = (first, before + size)
    for folder, size in totals.values():
        if free(folder) < size * GB:
            raise SetupError(
                f'{size:.1f} GB free are needed at {folder} and there are '
                f'{free(folder) / GB:.1f}; make room, or put the environment elsewhere '
                'with VENV='
            )


def room_for_cache(
    place: Place, stages: list[str], free: Callable[[Path], int] = free_bytes
) -> bool:
    """Tell whether pip can keep its downloads as well; without them is good enough.

    Raises:
        SetupError: if there is no room for the environment itself.
    """
    check_disk(disk_needs(place, stages, cached=False), free)
    if os.environ.get('PIP_NO_CACHE_DIR', '0') not in ('0', '', 'false'):
        return False
    try:
        check_disk(disk_needs(place, stages, cached=True), free)
    except SetupError:
        return False
    return True


def check_folder(venv: Path) -> None:
    """Refuse a folder that holds something other than an environment.

    Raises:
        SetupError: if anything in it could be somebody's work.
    """
    if venv.exists() and not venv.is_dir():
        raise SetupError(f'{venv} is a file; choose another place with VENV=')
    if not venv.is_dir() or (venv / NOTES).is_dir() or not any(venv.iterdir()):
        return
    if not (venv / 'pyvenv.cfg').is_file():
        raise SetupError(
            f'{venv} holds something that is not a virtual environment; '
            'choose another place with VENV='
        )
    if not works(venv / 'bin' / 'python'):
        raise SetupError(
            f'{venv} is an environment whose Python or pip does not run; remove it or '
            'choose another place with VENV='
        )


def check_writable(venv: Path) -> None:
    """Refuse a place where nothing can be created.

    Raises:
        SetupError: with the folder that refuses.
    """
    parent = existing(venv.resolve())
    if not os.access(parent, os.W_OK | os.X_OK):
        raise SetupError(f'{parent} cannot be written to; choose a place with VENV=')


def check_family(place: Place) -> None:
    """Refuse an environment that holds the other OpenMMLab family.

    The two unpack into the same folders and would overwrite each other.

    Raises:
        SetupError: with what was found.
    """
    other = 'mm[cdes]*' if place.stack.name == 'forks' else 'onedl_mm*'
    pattern = f'lib/python*/site-packages/{other}-*.dist-info'
    found = sorted(folder.name for folder in place.venv.glob(pattern))
    if found:
        raise SetupError(
            f'{place.venv} holds {found[0].removesuffix(".dist-info")}, which does not '
            f'go with the {place.stack.name}; choose another place with VENV='
        )


def preflight(place: Place, pending: list[str]) -> bool:
    """Look for everything that would stop the set-up after minutes.

    Args:
        place: the environment to be.
        pending: names of the stages that are not done.

    Returns:
        Whether there is room for pip's cache as well.

    Raises:
        SetupError: for the first problem found.
    """
    version = environment_version(place) or sys.version_info[:2]
    check_python(version, place.stack)
    check_folder(place.venv)
    check_family(place)
    check_writable(place.venv)
    if 'venv' in pending:
        check_modules(version)
    if 'mmcv' in pending:
        check_compiler(version, sysconfig.get_path('include'))
    return room_for_cache(place, pending)


def environment_version(place: Place) -> tuple[int, int] | None:
    """Return the Python version of the environment, if there is one already."""
    settings = place.venv / 'pyvenv.cfg'
    if not settings.is_file():
        return None
    found = re.search(r'^version\w*\s*=\s*(\d+)\.(\d+)', settings.read_text(), re.M)
    return (int(found[1]), int(found[2])) if found else None


# --------------------------------------------------------------------------- stages


def pip_install(place: Place, run: Callable, *what: str, **extra: str) -> None:
    """Install into the environment under the stack's pins."""
    command = [str(place.python), '-m', 'pip', 'install', '--no-build-isolation']
    run([*command, '-c', str(place.stack.pins), *what], extra)


def make_venv(place: Place, run: Callable) -> None:
    """Create the environment, or take the one there is, and add build tools."""
    if not works(place.python):
        if place.venv.is_dir():
            shutil.rmtree(place.venv)
        place.notes.mkdir(parents=True)
        # Not sys.executable: that may be the environment just removed.
        base = getattr(sys, '_base_executable', sys.executable)
        run([base, '-m', 'venv', str(place.venv)], {})
    tools = ['pip', 'setuptools', 'wheel', 'ninja', 'psutil', 'packaging']
    pip_install(place, run, *tools)


def works(python: Path) -> bool:
    """Tell whether there is such an interpreter and it has a pip that runs."""
    if not python.exists():
        return False
    command = [str(python), '-m', 'pip', '--version']
    return subprocess.run(command, capture_output=True).returncode == 0


def install_torch(place: Place, run: Callable) -> None:
    """Install torch, and the one OpenCV that runs on servers.

    Packages of OpenMMLab ask for ``opencv-python``, others for
    ``opencv-python-headless``; both unpack into the folder ``cv2`` and the first
    needs libGL, which servers lack. Both are installed, so that every requirement
    is met and stays met, and the headless one is unpacked last, so that its files
    are the ones that are there.
    """
    pip_install(place, run, 'torch', 'torchvision', 'opencv-python', 'numpy')
    headless = ['--force-reinstall', '--no-deps', 'opencv-python-headless']
    pip_install(place, run, *headless)
    run([str(place.python), '-c', PROVE_OPENCV], {})


def build_mmcv(place: Place, run: Callable) -> None:
    """Compile mmcv with its operators against the torch that is installed.

    pip keeps the wheel it built whatever torch that was built against, so an
    operator is run as proof, and on failure mmcv is built once more without the
    cache. After a change of torch in this environment it always is.
    """
    mmcv, extra = place.stack.mmcv, build_environment(os.environ, has_nvcc())
    forced = ['--no-cache-dir', '--force-reinstall', '--no-deps']
    stamp = place.notes / 'mmcv.done'
    changed = stamp.exists() and stamp.read_text() != stage_keys(place)['mmcv']
    pip_install(place, run, *(forced if changed else []), '-v', mmcv, **extra)
    try:
        run([str(place.python), '-c', PROVE_MMCV], {})
    except SetupError:
        print("      pip's copy of mmcv does not work here; compiling it", flush=True)
        pip_install(place, run, *forced, '-v', mmcv, **extra)
        run([str(place.python), '-c', PROVE_MMCV], {})


def build_environment(environment: dict[str, str], nvcc: bool) -> dict[str, str]:
    """Return the variables for compiling mmcv in half the time.

    Debug information is more than half of the work; a job of the compiler takes
    up to 1 GB, so there are no more of them than memory allows.

    Args:
        environment: the user's variables.
        nvcc: whether there is a compiler for GPUs. Without one a GPU is hidden, as
            mmcv would try to compile for it.
    """
    flags = f'{environment.get("CFLAGS", "")} -g0 -O2'.strip()
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    jobs = max(1, min(os.cpu_count() or 1, int(memory / (1.5 * GB))))
    hidden = {} if nvcc else {'CUDA_VISIBLE_DEVICES': ''}
    return {
        'CFLAGS': flags,
        'MAX_JOBS': environment.get('MAX_JOBS', str(jobs)),
        **hidden,
    }


def has_nvcc() -> bool:
    """Tell whether CUDA's compiler is where torch looks for it."""
    home = os.environ.get('CUDA_HOME') or os.environ.get('CUDA_PATH')
    places = (home, '/usr/local/cuda')
    there = (Path(folder, 'bin', 'nvcc').exists() for folder in places if folder)
    return shutil.which('nvcc') is not None or any(there)


def install_rest(place: Place, run: Callable) -> None:
    """Install everything else, and this package so that edits take effect."""
    pip_install(place, run, '-e', f'{ROOT}[all,dev]')


def prove(place: Place, run: Callable) -> None:
    """Import all that training needs and let pip check the requirements."""
    run([str(place.python), '-c', PROVE_ALL], {})
    run([str(place.python), '-m', 'pip', 'check'], {})


class Stage(NamedTuple):
    """A step of the set-up that can be told done by its stamp.

    ``inputs`` match the pins on which the stage depends; when one changes, this
    stage and all later ones are done again, which costs little where pip finds
    everything installed. The last ones also depend on ``setup.py`` and
    on where the repository is.
    """

    name: str
    title: str
    inputs: str
    act: Callable[[Place, Callable], None]


ALL = r'.*'
STAGES = (
    Stage(
        'venv',
        'virtual environment and build tools',
        r'pip|setuptools|wheel|ninja|psutil|packaging',
        make_venv,
    ),
    Stage(
        'torch',
        'torch and torchvision (2 to 3 minutes, 5 GB)',
        r'torch|torchvision|opencv-.*|numpy',
        install_torch,
    ),
    Stage(
        'mmcv',
        'mmcv with its operators from source (about 5 minutes)',
        r'(onedl-)?mmcv|torch',
        build_mmcv,
    ),
    Stage(
        'rest',
        'mmdetection, mmsegmentation, timm, mmpoolformer (1 minute)',
        ALL,
        install_rest,
    ),
    Stage('proof', 'imports as proof', ALL, prove),
)


def stage_keys(place: Place) -> dict[str, str]:
    """Return a fingerprint of what each stage depends on."""
    lines = [line.strip() for line in place.stack.pins.read_text().splitlines()]
    pins = [line for line in lines if line and not line.startswith('#')]
    keys = {}
    for stage in STAGES:
        pattern = re.compile(rf'({stage.inputs})==', re.I)
        chosen = [place.stack.name, *(pin for pin in pins if pattern.match(pin))]
        digest = hashlib.sha256('\n'.join(chosen).encode())
        if stage.inputs == ALL:
            digest.update((ROOT / 'setup.py').read_bytes() + str(ROOT).encode())
        keys[stage.name] = digest.hexdigest()
    return keys


def pending_stages(place: Place) -> list[str]:
    """Return the names of the stages to do: the first not done and all after it."""
    keys = stage_keys(place)
    for index, stage in enumerate(STAGES):
        stamp = place.notes / f'{stage.name}.done'
        if not stamp.is_file() or stamp.read_text() != keys[stage.name]:
            return [later.name for later in STAGES[index:]]
    return [] if place.python.exists() else [stage.name for stage in STAGES]


def drop_half_installed(venv: Path) -> list[str]:
    """Remove the metadata of packages whose installation was cut off.

    pip writes ``RECORD`` last; without it a package may lack files, and pip would
    call it installed all the same.

    Returns:
        The names of the removed folders.
    """
    found = venv.glob('lib/python*/site-packages/*.dist-info')
    broken = [folder for folder in found if not (folder / 'RECORD').is_file()]
    for folder in broken:
        shutil.rmtree(folder)
    return [folder.name for folder in broken]


def do_stages(place: Place, pending: list[str], run: Callable, stream) -> None:
    """Carry out the pending stages, telling each one and stamping it when done.

    Raises:
        SetupError: when one fails; those before it stay done.
    """
    drop_half_installed(place.venv)
    for number, stage in enumerate(STAGES, start=2):
        label = f'[{number}/{len(STAGES) + 1}] {stage.title}'
        if stage.name not in pending:
            print(f'{label}: done before', file=stream, flush=True)
            continue
        print(f'{label} ...', file=stream, flush=True)
        begin = time.monotonic()
        try:
            do_stage(place, stage, run)
        finally:
            shutil.rmtree(place.notes / PASSING, ignore_errors=True)
        took = span(time.monotonic() - begin)
        print(f'      done in {took}', file=stream, flush=True)


def do_stage(place: Place, stage: Stage, run: Callable) -> None:
    """Carry out one stage from a clean start and stamp it."""
    shutil.rmtree(place.notes / PASSING, ignore_errors=True)  # of a run that was killed
    stage.act(place, run)
    place.notes.mkdir(exist_ok=True)
    (place.notes / f'{stage.name}.done').write_text(stage_keys(place)[stage.name])


@contextlib.contextmanager
def only_one(place: Place) -> Iterator[None]:
    """Hold the environment for this process.

    Raises:
        SetupError: if another set-up works on it.
    """
    import fcntl  # not on Windows, where make quickstart does not run either

    name = hashlib.sha256(str(place.venv.resolve()).encode()).hexdigest()[:16]
    # Outside the environment, which may be removed and made anew meanwhile.
    path = Path(tempfile.gettempdir(), f'mmpoolformer-setup-{os.getuid()}-{name}.lock')
    with path.open('w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SetupError(
                f'another set-up is at work in {place.venv}; wait for its end'
            ) from None
        yield


def set_up(place: Place, stream=sys.stdout, run: Callable | None = None) -> None:
    """Do whatever is missing.

    Args:
        place: the environment to make or complete.
        stream: where progress is told.
        run: runs one command with extra environment variables; a ``Runner`` by
            default.

    Raises:
        SetupError: for anything that the user can cure.
    """
    pending = pending_stages(place)
    if not pending:
        print(f'{place.venv} is set up ({place.stack.name})', file=stream)
        return
    begin = time.monotonic()
    with only_one(place):
        label = f'[1/{len(STAGES) + 1}] checks: Python, compiler, disk'
        print(f'{label} ...', file=stream, flush=True)
        cached = preflight(place, pending)
        print(f'      {verdict(pending)}', file=stream, flush=True)
        if not cached:
            print(f'      {NO_CACHE}', file=stream, flush=True)
        variables = {} if cached else {'PIP_NO_CACHE_DIR': '1'}
        do_stages(place, pending, run or Runner(place.log, stream, variables), stream)
    took = span(time.monotonic() - begin)
    print(f'{place.venv} is set up ({place.stack.name}) after {took}', file=stream)


def verdict(pending: list[str]) -> str:
    """Return what the checks came to; a GPU that will not be used is no error."""
    gpu = Path('/proc/driver/nvidia/version').exists()
    if gpu and 'mmcv' in pending and not has_nvcc():
        return (
            'all there, but for the CUDA toolkit (nvcc): without it the operators of '
            'mmcv run on the CPU only, and detectors do not train on the GPU'
        )
    return 'all there'


def check_only(place: Place, stream=sys.stdout) -> None:
    """Tell what is done and whether the rest could be done here.

    Raises:
        SetupError: for the first problem found.
    """
    pending = pending_stages(place)
    for stage in STAGES:
        state = 'to do' if stage.name in pending else 'done'
        print(f'{state:>6}  {stage.title}', file=stream)
    if pending:
        preflight(place, pending)
    print('nothing stands in the way' if pending else 'all done', file=stream)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description='Create or complete the environment of mmpoolformer.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            'examples:\n'
            '  python3 tools/setup_env.py\n'
            '  python3.11 tools/setup_env.py --stack originals\n'
            '  python3 tools/setup_env.py --venv /big/disk/env --check-only\n\n'
            'Interrupted or failed? Run the same command again: what is done stays.'
        ),
    )
    parser.add_argument(
        '--stack',
        choices=sorted(STACKS),
        default='forks',
        help='the maintained forks of OpenMMLab (default), or the originals of 2023',
    )
    parser.add_argument(
        '--venv',
        type=Path,
        help='place of the environment (default: .venv, or .venv-originals)',
    )
    parser.add_argument(
        '--check-only',
        action='store_true',
        help='tell what is done and what would stand in the way; change nothing',
    )
    return parser.parse_args(arguments)


def interrupt(number: int, frame: object) -> None:
    """Treat a request to end like Ctrl-C, so that children are ended too."""
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    options = parse_arguments(arguments)
    name = '.venv' if options.stack == 'forks' else f'.venv-{options.stack}'
    default = Path(os.path.relpath(ROOT / name))
    place = Place(STACKS[options.stack], options.venv or default)
    signal.signal(signal.SIGTERM, interrupt)
    try:
        check_only(place) if options.check_only else set_up(place)
    except (SetupError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\nstopped; the same command goes on from here', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
