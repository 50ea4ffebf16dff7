"""Gathering what is installed, and finding what is wrong with it.

The imports are tried in processes of their own, so that a broken library can crash
without harm. `diagnose` is plain functions over the facts.
"""

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import distributions, requires
from importlib.util import find_spec
from pathlib import Path

from mmpoolformer.stacks import OPENCVS, STACKS

OLDEST_PYTHON = (3, 10)
OLDEST_TORCH = (2, 1)
LEAST_DISK = 2 * 10**9  # bytes; a checkpoint of a detector takes 0.1 to 0.4 GB

# What is imported as proof, in this order; `data` is kept. mmcv's operator is run: one
# that was built against another torch may well import.
PROBES = {
    'numpy': 'import numpy',
    'torch': """
import torch
gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
data = dict(cuda=torch.version.cuda, gpus=gpus)
""",
    'torchvision': """
import torch, torchvision
torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
""",
    'cv2': 'import cv2; data = dict(version=cv2.__version__)',
    'timm': 'import timm',
    'pycocotools': 'import pycocotools.mask',
    'mmengine': 'import mmengine.runner',
    'mmpoolformer.models': 'import mmpoolformer.models',
    'mmcv': 'import mmcv',
    'mmcv.ops': """
import torch
from mmcv.ops import get_compiling_cuda_version, nms
boxes = torch.tensor([[0., 0., 9., 9.], [0., 0., 9., 8.], [20., 20., 29., 29.]])
assert nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)[1].tolist() == [0, 2]
data = dict(cuda=get_compiling_cuda_version())
""",
    'mmdet': 'import mmdet.apis',
    'mmseg': 'import mmseg.apis',
}
MARK = '@probe '

# Imports that fail because of another are not reported again.
NEEDS = {
    'torchvision': ('torch', 'numpy'),
    'timm': ('torch', 'torchvision'),
    'mmengine': ('torch', 'numpy', 'cv2'),
    'mmcv': ('mmengine',),
    'mmcv.ops': ('mmcv',),
    'mmdet': ('mmcv.ops', 'torchvision', 'pycocotools'),
    'mmseg': ('mmcv.ops', 'torchvision'),
    'mmpoolformer.models': ('mmengine', 'timm'),
}


@dataclass(frozen=True)
class Probe:
    """How an import went: the last line of its error, and what it found out."""

    error: str = ''
    data: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """All that is known about an environment.

    Attributes:
        python: Version of the interpreter.
        executable: How to call it, for the cures.
        system: Operating system and machine.
        versions: Version by distribution.
        made_for: The torch that torchvision was built for; empty if it names none.
        probes: Outcome by probe; modules that are not there have none.
        driver: Whether an NVIDIA driver is loaded.
        free: Bytes free on the disk of the current folder.
        pip_files: Configuration files that pip reads.
        elsewhere: Those of them by which pip installs into another place.
    """

    python: tuple[int, ...]
    executable: str = 'python'
    system: str = ''
    versions: dict[str, str] = field(default_factory=dict)
    made_for: str = ''
    probes: dict[str, Probe] = field(default_factory=dict)
    driver: bool = False
    free: int = 10**12
    pip_files: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()

    @property
    def stack(self) -> str:
        """The family that is installed, in doubt the forks."""
        originals = STACKS['originals'].packages.values()
        return 'originals' if set(originals) & self.versions.keys() else 'forks'

    def has(self, module: str) -> bool:
        """Tell whether a module of OpenMMLab's is installed, from either family."""
        return any(s.packages[module] in self.versions for s in STACKS.values())

    def error(self, name: str) -> str:
        """Return how the probe `name` failed; empty if it did not."""
        return self.probes.get(name, Probe()).error

    def data(self, name: str) -> dict:
        """Return what the probe `name` found out."""
        return self.probes.get(name, Probe()).data

    def pip(self, *arguments: str) -> str:
        """Return a command line that calls this environment's pip."""
        return shlex.join([self.executable, '-m', 'pip', *arguments])


@dataclass(frozen=True)
class Problem:
    """Something wrong and what cures it.

    Attributes:
        level: `'error'` if training would stop, else `'warning'`.
        about: The module that does not work.
        text: What is wrong.
        cure: A command.
    """

    level: str
    about: str
    text: str
    cure: str


def numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: `'2.1.2+cpu'` gives (2, 1, 2)."""
    found = re.match(r'\d+(\.\d+)*', version)
    return tuple(int(part) for part in found[0].split('.')) if found else ()


# ------------------------------------------------------------------------ gathering


def gather() -> Facts:
    """Look at this environment. Takes some seconds: everything is imported once."""
    found = ((d.metadata['Name'], d.version) for d in distributions())
    versions = {re.sub(r'[-_.]+', '-', n).lower(): version for n, version in found if n}
    wants = requires('torchvision') if 'torchvision' in versions else None
    pip_files = [path for path in pip_places() if path.is_file()]
    return Facts(
        python=sys.version_info[:3],
        executable=sys.executable.removeprefix(f'{os.getcwd()}{os.sep}') or 'python',
        system=f'{platform.system()} {platform.machine()}',
        versions=versions,
        made_for=pinned_torch(wants or []),
        probes=probe_all(),
        driver=Path('/proc/driver/nvidia/version').exists()
        or shutil.which('nvidia-smi') is not None,
        free=shutil.disk_usage('.').free,
        pip_files=tuple(map(str, pip_files)),
        elsewhere=tuple(str(path) for path in pip_files if installs_elsewhere(path)),
    )


def pinned_torch(requirements: list[str]) -> str:
    """Return the one torch that requirements name; empty for none or a range."""
    found = (re.match(r'torch\s*\(?==([\w.]+)', line) for line in requirements)
    return next((match[1] for match in found if match), '')


def pip_places() -> list[Path]:
    """Return where pip looks for its configuration."""
    places = [
        Path('/etc/pip.conf'),
        Path.home() / '.pip/pip.conf',
        Path(sys.prefix, 'pip.conf'),
        Path.home() / '.config/pip/pip.conf',
    ]
    chosen = os.environ.get('PIP_CONFIG_FILE')
    return [*places, Path(chosen)] if chosen else places


def installs_elsewhere(path: Path) -> bool:
    """Tell whether a configuration of pip makes it install outside the environment."""
    setting = r'^\s*(target|prefix|root|user)[ \t]*=[ \t]*(?!false|no|0)(?=\S)'
    return bool(re.search(setting, path.read_text(errors='replace'), re.M))


def probe_all() -> dict[str, Probe]:
    """Import everything that is installed.

    One process imports all; where it stops, a new one goes on behind the culprit.
    """
    left = [name for name in PROBES if find_spec(name.split('.')[0]) is not None]
    results: dict[str, Probe] = {}
    while left:
        done, error = probe(left)
        results.update(done)
        if error:
            results[left[len(done)]] = Probe(error=error)
        left = [name for name in left if name not in results]
    return results


def probe(names: list[str]) -> tuple[dict[str, Probe], str]:
    """Run some of `PROBES`, one after the other, in a process of their own.

    Returns:
        The outcomes of those before the first failure, and how that one failed; an
        empty string if none did.
    """
    tell = f'print({MARK!r} + json.dumps(data), flush=True)'
    script = [f'data = {{}}\n{PROBES[name]}\n{tell}' for name in names]
    code = '\n'.join(['import json', *script])
    command = [sys.executable, '-W', 'ignore', '-c', code]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    said = [Probe(data=json.loads(line.removeprefix(MARK))) for line in lines]
    results = dict(zip(names, said, strict=False))
    if len(results) == len(names):
        return results, ''
    if done.returncode < 0:
        return results, f'crashed with signal {-done.returncode}'
    errors = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return results, errors[-1] if errors else 'ended without a word'


# ------------------------------------------------------------------------ diagnosis


def diagnose(facts: Facts) -> list[Problem]:
    """Return the problems of an environment, those that stop training first."""
    checks = (
        check_python,
        check_torch,
        check_opencv,
        check_families,
        check_requirements,
        check_operators,
        check_gpu,
        check_disk,
        check_pip,
    )
    found = [problem for check in checks for problem in check(facts)]
    found += unexplained(facts, {problem.about for problem in found})
    return sorted(found, key=lambda problem: problem.level != 'error')


def check_python(facts: Facts) -> Iterator[Problem]:
    """Python older than the package supports, or too new for the stack."""
    here, stack = '.'.join(map(str, facts.python)), STACKS[facts.stack]
    cure = 'make setup PYTHON=python3.11'
    if facts.python < OLDEST_PYTHON:
        text = f'Python {here} is too old; 3.10 or newer is needed'
        yield Problem('error', 'python', text, cure)
    elif facts.python[:2] > stack.newest_python:
        text = f'Python {here} is newer than what is tested: {stack.why_newest}'
        yield Problem('warning', 'python', text, cure)


def check_torch(facts: Facts) -> Iterator[Problem]:
    """No torch, one that is too old, or a torchvision for another one."""
    version = facts.versions.get('torch', '')
    if numbers(version) < OLDEST_TORCH:
        state = f'{version} is too old; 2.1 or newer is needed'
        text = f'torch {state if version else "is not installed"}'
        cure = facts.pip('install', 'torch', 'torchvision')
        yield Problem('error', 'torch', text, cure)
        return
    torch = version.split('+')[0]
    pair = (f'torch=={torch}', 'torchvision')
    if 'torchvision' not in facts.versions:
        text = 'torchvision is not installed; timm and mmdet need it'
        yield Problem('error', 'torchvision', text, facts.pip('install', *pair))
        return
    error = facts.error('torchvision')
    foreign = re.search(r'operator torchvision::|undefined symbol', error)
    if foreign or facts.made_for not in ('', torch):
        made_for = f', it was made for {facts.made_for}' if facts.made_for else ''
        here = facts.versions['torchvision']
        text = f'torchvision {here} does not belong to torch {version}{made_for}'
        cure = facts.pip('install', '--force-reinstall', *pair)
        yield Problem('error', 'torchvision', text, cure)


def check_opencv(facts: Facts) -> Iterator[Problem]:
    """No OpenCV, one that wants a display, or two of different versions."""
    there = {name: facts.versions[name] for name in OPENCVS if name in facts.versions}
    newest = max(there.values(), key=numbers, default='')
    headless = f'{OPENCVS[0]}=={newest}' if newest else OPENCVS[0]
    cure = facts.pip('install', '--force-reinstall', '--no-deps', headless)
    error = facts.error('cv2')
    if re.search(r'lib(GL|gthread|glib|xcb|X11|SM|Xext)\S*\.so', error):
        text = (
            f'cv2 needs a library for displays that this machine lacks ({error}); '
            'unpack the headless OpenCV over it'
        )
        yield Problem('error', 'cv2', text, cure)
    elif len(set(there.values())) > 1:
        names = ', '.join(map(' '.join, there.items()))
        text = f'two OpenCVs of different versions share the folder cv2: {names}'
        yield Problem('warning', 'cv2', text, cure)
    elif not there and facts.has('mmengine') and 'cv2' not in facts.probes:
        yield Problem('error', 'cv2', 'OpenCV (cv2) is not installed', cure)


def check_families(facts: Facts) -> Iterator[Problem]:
    """Both OpenMMLab families in one environment."""
    originals, forks = (
        [name for name in STACKS[stack].packages.values() if name in facts.versions]
        for stack in ('originals', 'forks')
    )
    if originals and forks:
        text = (
            f'two OpenMMLab families are mixed: {", ".join(originals)} with '
            f'{", ".join(forks)}; they unpack into the same folders and overwrite '
            'each other. Remove both, then install one'
        )
        cure = facts.pip('uninstall', '--yes', *originals, *forks)
        yield Problem('error', 'mmengine', text, cure)


def check_requirements(facts: Facts) -> Iterator[Problem]:
    """What the family of packages needs and is missing, or of a wrong version."""
    if list(check_families(facts)):
        return
    stack = STACKS[facts.stack]
    users = {name for name in ('mmdet', 'mmseg') if facts.has(name)}
    wanted = {'timm': 'timm'} | dict.fromkeys(stack.requires['engine'], 'mmengine')
    for name, extra in (('mmseg', 'seg'), ('mmdet', 'det')):
        if name in users:
            wanted |= dict.fromkeys(stack.requires[extra], name)
    for line, user in wanted.items():
        name, ranges = re.match(r'([\w-]+)(.*)', line).groups()
        version = facts.versions.get(name)
        if version is None:
            needed = '' if name.endswith(user) else f', {user} needs it'
            text = f'{name} is not installed{needed}'
        elif not within(numbers(version), ranges):
            text = f'{name} {version} does not fit, {user} needs {line}'
        else:
            continue
        module = next((m for m, n in stack.packages.items() if n == name), name)
        build = rebuild(facts, line) if module == 'mmcv' else facts.pip('install', line)
        yield Problem('error', module, text, build)
    if not users and not facts.has('mmcv'):
        text = 'no mmcv, mmdet or mmseg: the backbone works, the two tasks do not'
        yield Problem('warning', 'mmcv', text, 'make setup')


def within(version: tuple[int, ...], ranges: str) -> bool:
    """Tell whether a version lies in ranges such as `'>=2.1,<2.2'`."""
    bounds = re.findall(r'(>=|<)([\d.]+)', ranges)
    return all((version < numbers(n)) == (sign == '<') for sign, n in bounds)


def check_operators(facts: Facts) -> Iterator[Problem]:
    """An mmcv without operators, or with ones for another torch or for no GPU."""
    name = STACKS[facts.stack].packages['mmcv']
    error = facts.error('mmcv.ops')
    on_gpu = facts.data('torch').get('gpus')
    if error and not is_caused_by_needs(facts, 'mmcv.ops'):
        text = f'the operators of mmcv do not work with this torch: {error}'
        if "No module named 'mmcv._ext'" in error:
            text = 'mmcv is installed without its operators'
    elif on_gpu and facts.data('mmcv.ops').get('cuda') == 'not available':
        text = (
            'the operators of mmcv were compiled for the CPU only: training on the GPU '
            'stops at the first one. Install the CUDA toolkit (nvcc), then build again'
        )
    else:
        return
    cure = rebuild(facts, f'{name}=={facts.versions[name]}')
    yield Problem('error', 'mmcv.ops', text, cure)


def rebuild(facts: Facts, requirement: str) -> str:
    """Return the command that compiles mmcv against the torch that is there."""
    flags = ('--no-build-isolation', '--no-cache-dir', '--force-reinstall', '--no-deps')
    tools = facts.pip('install', *STACKS[facts.stack].build)
    return f"{tools} && CFLAGS='-g0 -O2' {facts.pip('install', *flags, requirement)}"


def check_gpu(facts: Facts) -> Iterator[Problem]:
    """A GPU that torch cannot use."""
    torch = facts.data('torch')
    if facts.driver and torch and not torch.get('gpus'):
        cuda = torch.get('cuda')
        built = f'for CUDA {cuda}' if cuda else 'without CUDA'
        text = f'there is an NVIDIA driver and torch, built {built}, finds no GPU'
        yield Problem('warning', 'torch', text, 'nvidia-smi')


def check_disk(facts: Facts) -> Iterator[Problem]:
    """Hardly any room for checkpoints."""
    if facts.free < LEAST_DISK:
        text = f'only {facts.free / 10**9:.1f} GB are free on the disk of this folder'
        yield Problem('warning', 'disk', text, 'df -h .')


def check_pip(facts: Facts) -> Iterator[Problem]:
    """A configuration by which pip installs where this Python does not look."""
    for path in facts.elsewhere:
        text = f'pip installs outside of this environment, as {path} says'
        yield Problem(
            'warning', 'pip', text, f'PIP_CONFIG_FILE={os.devnull} make setup'
        )


def is_caused_by_needs(facts: Facts, name: str) -> bool:
    """Tell whether something that `name` needs has failed itself."""
    return any(
        facts.error(need) or is_caused_by_needs(facts, need)
        for need in NEEDS.get(name, ())
    )


def unexplained(facts: Facts, explained: set[str]) -> Iterator[Problem]:
    """Imports that failed for a reason of their own which no check knows."""
    for name, result in facts.probes.items():
        known = explained & {name, *NEEDS.get(name, ())}
        if result.error and not known and not is_caused_by_needs(facts, name):
            text = f'{name} cannot be imported: {result.error}'
            yield Problem('error', name, text, 'make setup VENV=.venv-new')
