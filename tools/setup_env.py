#!/usr/bin/env python3
"""Create the environment that mmpoolformer is developed and tested in, by uv.

An interrupted run is simply run again. Only the standard library is used, and the
syntax is one that Python 3.6 can read, so that a Python that is too old gets a
sentence and no ``SyntaxError``.
"""

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - the very case this line is for
    sys.exit(
        'error: Python 3.10 or newer is needed and this is {}.{}; name a newer one, '
        'for example: make quickstart PYTHON=python3.11'.format(*sys.version_info[:2])
    )

import argparse
import ast
import hashlib
import importlib.util
import os
import re
import runpy
import shutil
import signal
import subprocess
import sysconfig
import tarfile
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / 'mmpoolformer' / 'stacks.py'
STACKS = runpy.run_path(str(TABLE))['STACKS']
# GB that the environment takes; without torch, what is left to install.
WHOLE, REST = 7.5, 2.0

# Runs an operator: one that was built against another torch may well import.
PROVE_MMCV = """
from importlib.metadata import version
import torch
from mmcv.ops import nms
assert version({name!r}) == {version!r}
boxes = torch.tensor([[0., 0., 9., 9.], [0., 0., 9., 8.], [20., 20., 29., 29.]])
kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)[1].tolist()
assert kept == [0, 2], f'mmcv.ops.nms kept {{kept}}, not [0, 2]'
"""
PROVE_REST = """
from cv2 import version
assert version.headless, 'the OpenCV that is imported is not the headless one'
import mmdet.apis, mmengine, mmseg.apis, pycocotools.mask, timm, torchvision
import mmpoolformer.models
"""

# What compiles alone, or with what does not define the same names. The order counts:
# psamask defines `min` and `max` as macros, so nothing may follow it.
ROI = ['roi_align', 'psamask']
ROTATED = ['roi_align_rotated', 'rotated_feature_align']

# pip's settings, and the variables that say the same to uv.
MIRRORS = {
    'index-url': ('UV_DEFAULT_INDEX',),
    'extra-index-url': ('UV_INDEX',),
    'find-links': ('UV_FIND_LINKS',),
    'trusted-host': ('UV_INSECURE_HOST',),
    'cert': ('SSL_CERT_FILE',),
    'client-cert': ('SSL_CLIENT_CERT',),
    'proxy': ('HTTP_PROXY', 'HTTPS_PROXY'),
    'default-timeout': ('UV_HTTP_TIMEOUT',),
    'timeout': ('UV_HTTP_TIMEOUT',),
}

# What pip, uv and the compiler say when they fail, and what helps.
CURES = {
    r'No space left on device': 'the disk is full: free some space',
    r'name resolution|dns error|error sending|[Cc]onnect|timed out|ProxyError': (
        'the package index cannot be reached: check the network and pip config list'
    ),
    r'No matching distribution|No solution found|no wheels with a matching': (
        'the package index has no file for this Python and platform'
    ),
    r'detected CUDA version .* mismatches': (
        'the CUDA toolkit (nvcc) is not the one that torch was built for: install that '
        'one, or set CUDA_VISIBLE_DEVICES= to build for the CPU only'
    ),
    r'Killed signal|internal compiler error|out of memory': (
        'the compiler ran out of memory: set MAX_JOBS=1'
    ),
}


class SetupError(Exception):
    """A problem that the user can cure; printed as one line."""


class Place:
    """The environment to make: where it is, from which stack, and how to run in it."""

    def __init__(self, stack: str, venv: Path) -> None:
        """Take the name of a stack and the folder of the environment."""
        self.name, self.stack, self.venv = stack, STACKS[stack], venv.absolute()
        self.lock = ROOT / 'requirements' / f'{stack}.txt'
        self.python = self.venv / 'bin' / 'python'
        self.notes = self.venv / '.mmpoolformer'  # stamps, logs, temporary files
        self.scratch = self.notes / 'tmp'  # /tmp is often too small
        self.variables: dict[str, str] = {}

    def pin(self, package: str) -> str:
        """Return ``package==version`` as locked, with its marker."""
        found = re.search(rf'^{re.escape(package)}==.*$', self.lock.read_text(), re.M)
        return found[0]

    def start(self, log: str, *command: object, **extra: str) -> subprocess.Popen:
        """Start a command whose output goes to a log file among the notes."""
        leaks = ('PYTHONPATH', 'PYTHONHOME', 'PIP_USER', 'PIP_TARGET', 'PIP_PREFIX')
        kept = {k: v for k, v in os.environ.items() if k not in leaks}
        own = {'TMPDIR': str(self.scratch), 'PIP_NO_INPUT': '1', 'UV_NO_PROGRESS': '1'}
        self.scratch.mkdir(parents=True, exist_ok=True)
        with (self.notes / log).open('ab') as sink:
            # A session of its own, so that a stop reaches the compilers too.
            child = subprocess.Popen(
                list(map(str, command)),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**self.variables, **kept, **own, **extra},
                start_new_session=True,
            )
        child.log = self.notes / log
        return child

    def run(self, log: str, *command: object, **extra: str) -> None:
        """Run a command to its end; raises ``SetupError`` if it fails."""
        finish(self.start(log, *command, **extra))

    def uv(self, *arguments: object) -> tuple:
        """Return the command that installs the arguments into the environment.

        It compiles them to bytecode, on all cores. Else the first command of a user
        does so on one, and where ``PYTHONDONTWRITEBYTECODE`` is set, as in many
        containers, each command anew.
        """
        install = (self.venv / 'bin' / 'uv', 'pip', 'install', '-p', self.python)
        return (*install, '--no-build-isolation', '--compile-bytecode', *arguments)

    def proves(self, code: str) -> bool:
        """Tell whether a piece of Python runs in the environment."""
        try:
            self.run('proof.log', self.python, '-c', code)
        except SetupError:
            return False
        return True


def finish(child: subprocess.Popen) -> None:
    """Wait for a command, with a sign of life each minute.

    Raises:
        SetupError: if it failed, with what helps; the end of its log is printed.
    """
    begin = time.monotonic()
    try:
        while True:
            try:
                child.wait(60)
                break
            except subprocess.TimeoutExpired:
                minutes = (time.monotonic() - begin) / 60
                print(f'      {minutes:.0f} min, see {child.log}', flush=True)
    finally:
        stop(child)
    if child.returncode:
        text = child.log.read_text(errors='replace')[-20000:]
        cures = (cure for said, cure in CURES.items() if re.search(said, text))
        cure = next(cures, 'the end of its log says why')
        what = ' '.join(Path(x).name for x in child.args[:3])
        raise SetupError(
            f'`{what} ...` failed: {cure}; then run the same command again, it goes on '
            f'where it stopped (log: {child.log}: {last_line(text)})'
        )


def last_line(text: str) -> str:
    """Return the last line that tells something, cut to a bearable length."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r'error|.*Error\b', line)]
    return (errors or lines or ['empty'])[-1][:160]


def stop(child: subprocess.Popen) -> None:
    """End a command and everything that it started, if it still runs."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


# ------------------------------------------------------------------------ preflight


def preflight(place: Place) -> None:
    """Look for everything that would stop the set-up after minutes.

    Raises:
        SetupError: for the first problem found.
    """
    settings = place.venv / 'pyvenv.cfg'
    text = settings.read_text() if settings.is_file() else ''
    found = re.search(r'^version\w*\s*=\s*(\d+)\.(\d+)', text, re.M)
    version = (int(found[1]), int(found[2])) if found else sys.version_info[:2]
    check_python(version, place)
    check_folder(place)
    if not any(place.venv.glob('lib/python*/site-packages/mmcv/_ext*')):
        check_compiler(version)
    check_disk(place)


def check_python(version: tuple[int, int], place: Place) -> None:
    """Refuse a Python that the stack has no packages for, or without venv."""
    if version > place.stack.newest_python:
        raise SetupError(
            f'Python {version[0]}.{version[1]} is too new for the {place.name} '
            f'({place.stack.why_newest}); name another, such as '
            'PYTHON=python{}.{}'.format(*place.stack.newest_python)
        )
    if None in map(importlib.util.find_spec, ('venv', 'ensurepip')):
        raise SetupError(
            'this Python cannot make virtual environments; on Debian and Ubuntu: '
            f'sudo apt install python{version[0]}.{version[1]}-venv'
        )


def check_folder(place: Place) -> None:
    """Refuse a place that holds something else, or the other OpenMMLab family."""
    venv, elsewhere = place.venv, 'choose another place with VENV='
    if venv.exists() and not venv.is_dir():
        raise SetupError(f'{venv} is a file; {elsewhere}')
    parent = next(p for p in (venv, *venv.parents) if p.exists())
    if not os.access(parent, os.W_OK | os.X_OK):
        raise SetupError(f'{parent} cannot be written to; {elsewhere}')
    theirs = venv.is_dir() and not place.notes.is_dir() and any(venv.iterdir())
    if theirs and not ((venv / 'pyvenv.cfg').is_file() and works(place)):
        raise SetupError(f'{venv} holds no working virtual environment; {elsewhere}')
    packages = (stack.packages for name, stack in STACKS.items() if name != place.name)
    others = [name.replace('-', '_') for names in packages for name in names.values()]
    found = venv.glob('lib/python*/site-packages/*.dist-info')
    mixed = sorted(f.name for f in found if f.name.split('-')[0] in others)
    if mixed:
        raise SetupError(
            f'{venv} holds {mixed[0].replace(".dist-info", "")}, which does not go '
            f'with the {place.name}; {elsewhere}'
        )


def check_compiler(version: tuple[int, int]) -> None:
    """Compile and link a small extension, as building mmcv will."""
    compiler = (os.environ.get('CXX') or 'c++').split()
    if shutil.which(compiler[0]) is None:
        raise SetupError(
            f'no C++ compiler ({compiler[0]}) found; on Debian and Ubuntu: '
            'sudo apt install build-essential'
        )
    flags = ['-std=c++17', '-fPIC', '-shared', f'-I{sysconfig.get_path("include")}']
    if sys.platform == 'darwin':
        flags += ['-undefined', 'dynamic_lookup']
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, 'small.cpp')
        source.write_text('#include <Python.h>\n#include <vector>\n')
        command = [*compiler, *flags, str(source), '-o', f'{folder}/small.so']
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and 'Python.h' in done.stderr:
        raise SetupError(
            'the C header Python.h is missing; on Debian and Ubuntu: '
            f'sudo apt install python{version[0]}.{version[1]}-dev'
        )
    if done.returncode:
        raise SetupError(
            f'the C++ compiler {compiler[0]} cannot build a small program: '
            f'{last_line(done.stderr)}; choose another, for example: CXX=g++'
        )


def check_disk(place: Place) -> None:
    """Refuse a disk that is too small; put uv's cache where there is room.

    uv links files from its cache, so that on one disk the two take room only once.
    """
    parent = next(p for p in (place.venv, *place.venv.parents) if p.exists())
    torch = any(place.venv.glob('lib/python*/site-packages/torch'))
    need, free = REST if torch else WHOLE, shutil.disk_usage(parent).free / 1e9
    if free < need:
        raise SetupError(
            f'{need} GB free are needed at {parent} and there are {free:.1f}; make '
            'room, or put the environment elsewhere with VENV='
        )
    home = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    cache = Path(os.environ.get('UV_CACHE_DIR') or home / 'uv')
    there = next(p for p in (cache, *cache.absolute().parents) if p.exists())
    if there.stat().st_dev != parent.stat().st_dev or not os.access(there, os.W_OK):
        os.environ['UV_CACHE_DIR'] = str(place.notes / 'tmp' / 'cache')


def works(place: Place) -> bool:
    """Tell whether there is an interpreter with a pip that runs."""
    command = [str(place.python), '-m', 'pip', '--version']
    done = place.python.exists() and subprocess.run(command, capture_output=True)
    return bool(done) and done.returncode == 0


# --------------------------------------------------------------------------- steps


def get_uv(place: Place) -> None:
    """Make the environment, and put uv into it by pip, which knows the mirrors."""
    if not works(place):
        # Not sys.executable: that may be in the environment that is made anew.
        base = getattr(sys, '_base_executable', sys.executable)
        place.run('setup.log', base, '-m', 'venv', '--clear', place.venv)
    pip = (place.python, '-m', 'pip')
    place.run('setup.log', *pip, 'install', place.pin('uv'))
    listing = subprocess.run(
        [*map(str, pip), 'config', 'list'], capture_output=True, text=True, cwd=ROOT
    )
    place.variables = mirrors(listing.stdout)


def mirrors(listing: str) -> dict[str, str]:
    """Translate what ``pip config list`` prints into variables of uv."""
    settings: dict[str, str] = {}
    lines = re.findall(r"^(global|install|:env:)\.([\w-]+)=(['\"].*)$", listing, re.M)
    for section in ('global', 'install', ':env:'):  # later ones win, as in pip
        settings.update((k, ast.literal_eval(v)) for s, k, v in lines if s == section)
    told: dict[str, str] = {}
    for name in MIRRORS.keys() & settings.keys():
        comma = ',' if name == 'find-links' else ' '
        told.update(dict.fromkeys(MIRRORS[name], comma.join(settings[name].split())))
    if (
        'UV_INDEX' in told
    ):  # pip takes the best of all indexes, uv the first that has it
        told['UV_INDEX_STRATEGY'] = 'unsafe-best-match'
    return told


def install_torch(place: Place, again: tuple) -> None:
    """Install torch, what compiles mmcv against it, and the OpenCV with a display."""
    names = ('setuptools', 'wheel', 'ninja', 'psutil', 'packaging', 'pip')
    first = [place.pin(name) for name in ('torch', 'torchvision', 'numpy', *names)]
    place.run('setup.log', *place.uv(*again, '-c', place.lock, *first))


def install_packages(place: Place, again: tuple) -> None:
    """Install all other packages while mmcv is compiled."""
    mmcv = place.stack.packages['mmcv']
    lines = place.lock.read_text().splitlines()
    rest = place.scratch / 'rest.txt'
    rest.write_text('\n'.join(x for x in lines if not x.startswith(f'{mmcv}==')))
    meanwhile = place.start('rest.log', *place.uv(*again, '--no-deps', '-r', rest))
    try:
        build_mmcv(place)
        finish(meanwhile)
    finally:
        stop(meanwhile)


def build_mmcv(place: Place) -> None:
    """Compile mmcv with its operators, unless they run; in few files if that works."""
    name = place.stack.packages['mmcv']
    pin = place.pin(name)
    if place.proves(PROVE_MMCV.format(name=name, version=pin.split('==')[1])):
        return
    pip = (place.python, '-m', 'pip', '-v')
    wheels, folder = place.scratch / 'wheels', place.scratch / 'mmcv'
    own = ('--no-deps', '--no-build-isolation', '--no-cache-dir', '--no-binary', name)
    variables = build_variables()
    place.run('mmcv.log', *pip, 'download', *own, '-d', folder, pin, **variables)
    archive = next(folder.glob('*.tar.gz'))
    for join in (join_sources, lambda csrc: None):
        with tarfile.open(archive) as packed:
            packed.extractall(folder)
        source = archive.with_name(archive.name.replace('.tar.gz', ''))
        join(source / 'mmcv' / 'ops' / 'csrc' / 'pytorch')
        try:
            place.run(
                'mmcv.log', *pip, 'wheel', *own, '-w', wheels, source, **variables
            )
            break
        except SetupError:
            if join is not join_sources:
                raise
            print('      compiling mmcv file by file, as joined it failed', flush=True)
            shutil.rmtree(source)
    wheel = next(wheels.glob('*.whl'))
    place.run('mmcv.log', *place.uv('--no-deps', '--reinstall', wheel))


def join_sources(csrc: Path) -> None:
    """Let mmcv's small C++ files compile as a few: torch's headers take the time.

    Args:
        csrc: mmcv's folder ``csrc/pytorch``; its setup.py compiles each ``*.cpp``.
    """
    top = sorted({path.stem for path in csrc.glob('*.cpp')} - {'pybind'})
    cpu = {path.stem for path in (csrc / 'cpu').glob('*.cpp')}
    plain = sorted(cpu - {*ROI, *ROTATED})
    for folder, names in (
        (csrc, top),
        *((csrc / 'cpu', x) for x in (plain, ROI, ROTATED)),
    ):
        for name in names:
            (folder / f'{name}.cpp').rename(folder / f'{name}.inc')
        lines = (f'#include "{name}.inc"\n' for name in names)
        (folder / f'joined_{names[0]}.cpp').write_text(''.join(lines))


def build_variables() -> dict[str, str]:
    """Return the variables for compiling mmcv: no debug information, jobs by memory.

    Without nvcc a GPU is hidden, as mmcv would try to compile for it.
    """
    home = (
        os.environ.get('CUDA_HOME') or os.environ.get('CUDA_PATH') or '/usr/local/cuda'
    )
    nvcc = shutil.which('nvcc') or Path(home, 'bin', 'nvcc').exists()
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    jobs = max(1, min(os.cpu_count() or 1, int(memory / 2.5e9)))
    return {
        'CFLAGS': f'{os.environ.get("CFLAGS", "")} -g0 -O2'.strip(),
        'MAX_JOBS': os.environ.get('MAX_JOBS', str(jobs)),
        **({} if nvcc else {'CUDA_VISIBLE_DEVICES': ''}),
    }


def install_ours(place: Place) -> None:
    """Install this package so that edits take effect, and the headless OpenCV last.

    Packages ask for ``opencv-python``, others for the headless one; both unpack into
    the folder ``cv2`` and the first needs libGL, which servers lack.
    """
    headless = place.pin('opencv-python-headless').split(' ')[0]
    last = ('--reinstall-package', 'opencv-python-headless', '--no-deps', headless)
    place.run('setup.log', *place.uv(*last, '-e', ROOT))
    ours = ROOT / 'mmpoolformer'
    place.run('setup.log', place.python, '-m', 'compileall', '-q', ours)


def prove(place: Place) -> None:
    """Run an operator of mmcv, import all that training needs, check requirements."""
    name = place.stack.packages['mmcv']
    code = PROVE_MMCV.format(name=name, version=place.pin(name).split('==')[1])
    place.run('proof.log', place.python, '-c', code + PROVE_REST)
    place.run(
        'proof.log', place.venv / 'bin' / 'uv', 'pip', 'check', '-p', place.python
    )


def fingerprint(place: Place) -> str:
    """Return what changes whenever there is something to install."""
    files = (place.lock, TABLE, ROOT / 'setup.py')
    digest = hashlib.sha256(f'{place.name} {ROOT}'.encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def set_up(place: Place) -> None:
    """Do whatever is missing; raises ``SetupError`` for what the user can cure."""
    done, begun = place.notes / 'done', place.notes / 'begun'
    key, begin = fingerprint(place), time.monotonic()
    if done.is_file() and done.read_text() == key and place.python.exists():
        print(f'{place.venv} is set up ({place.name})')
        return
    preflight(place)
    # What was cut off may lack files: it is unpacked again, which takes seconds.
    again = ('--reinstall',) if begun.exists() else ()
    steps = (
        ('environment and uv', lambda: get_uv(place)),
        ('torch and torchvision (5 GB)', lambda: install_torch(place, again)),
        ('all packages; mmcv is compiled', lambda: install_packages(place, again)),
        ('mmpoolformer', lambda: install_ours(place)),
        ("proof: mmcv's operators and all imports", lambda: prove(place)),
    )
    for number, (title, act) in enumerate(steps, start=1):
        print(f'[{number}/{len(steps)}] {title} ...', flush=True)
        act()
        place.notes.mkdir(exist_ok=True)
        begun.touch()
    shutil.rmtree(place.scratch, ignore_errors=True)
    begun.unlink()
    done.write_text(key)
    minutes, seconds = divmod(round(time.monotonic() - begin), 60)
    print(f'{place.venv} is set up ({place.name}) after {minutes} min {seconds} s')


def interrupt(number: int, frame: object) -> None:
    """Treat a request to end like Ctrl-C, so that children are ended too."""
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--stack', choices=sorted(STACKS), default='forks')
    parser.add_argument('--venv', type=Path, help='folder of the environment')
    options = parser.parse_args(arguments)
    name = '.venv' if options.stack == 'forks' else f'.venv-{options.stack}'
    signal.signal(signal.SIGTERM, interrupt)
    try:
        set_up(Place(options.stack, options.venv or ROOT / name))
    except (SetupError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\nstopped; the same command goes on from here', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
