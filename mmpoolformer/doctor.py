"""Tells what is installed, what is wrong with it, and what cures it.

    python -m mmpoolformer.doctor
    python -m mmpoolformer.doctor --json

Needs nothing but the standard library, so that it runs where nothing else does.
The facts are gathered first (``gather``), the imports in processes of their own, so
that a broken library can crash without harm. Everything after that is plain
functions over the facts: ``diagnose`` finds the problems, ``report`` prints.
"""

import argparse
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import distributions, packages_distributions, requires
from importlib.util import find_spec
from pathlib import Path

from mmpoolformer.stacks import OPENCVS, STACKS
from mmpoolformer.version import __version__

WIDTH = 80

# The two OpenMMLab families: distribution of the originals, of the forks.
FAMILIES = {
    module: (STACKS['originals'].packages[module], fork)
    for module, fork in STACKS['forks'].packages.items()
}

# What is imported as proof, in this order; what a step calls `told` is kept. mmcv's
# operator is run: one that was built against another torch may well import.
PROBES = {
    'numpy': 'import numpy',
    'torch': """
import torch
gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
told = dict(cuda=torch.version.cuda, gpus=gpus, threads=torch.get_num_threads())
""",
    'torchvision': """
import torch, torchvision
torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
""",
    'cv2': """
import cv2
from cv2 import version
told = dict(version=cv2.__version__, headless=bool(version.headless))
""",
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
told = dict(cuda=get_compiling_cuda_version())
""",
    'mmdet': 'import mmdet.apis',
    'mmseg': 'import mmseg.apis',
}
MARK = '@probe '

# Imports that fail because of another are not told again.
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
    """How an import went.

    Attributes:
        error: the last line of what went wrong; empty if nothing did.
        data: what the probe told.
    """

    error: str = ''
    data: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """All that is known about an environment.

    Attributes:
        python: version of the interpreter.
        executable: how to call it, for the cures.
        system: operating system and machine.
        versions: version by distribution.
        providers: distributions by module that they install.
        made_for: the torch that torchvision was built for; empty if it names none.
        probes: outcome by probe; modules that are not there have none.
        cpu: name of the processor.
        features: instruction sets that matter for speed.
        cores: processors that this process may use.
        driver: whether an NVIDIA driver is loaded.
    """

    python: tuple[int, ...]
    executable: str = 'python'
    system: str = ''
    versions: dict[str, str] = field(default_factory=dict)
    providers: dict[str, list[str]] = field(default_factory=dict)
    made_for: str = ''
    probes: dict[str, Probe] = field(default_factory=dict)
    cpu: str = ''
    features: tuple[str, ...] = ()
    cores: int = 1
    driver: bool = False

    def version(self, *names: str) -> tuple[int, ...]:
        """Return the version of the first of ``names`` installed; () if none."""
        return next(
            (numbers(self.versions[n]) for n in names if n in self.versions), ()
        )

    def failed(self, name: str) -> bool:
        """Tell whether the probe ``name`` was made and failed."""
        return name in self.probes and bool(self.probes[name].error)

    def data(self, name: str) -> dict:
        """Return what the probe ``name`` told; empty if it failed."""
        return self.probes[name].data if name in self.probes else {}

    def pip(self, *arguments: str) -> str:
        """Return a command line that calls this environment's pip."""
        return shlex.join([self.executable, '-m', 'pip', *arguments])


@dataclass(frozen=True)
class Problem:
    """Something wrong and what cures it.

    Attributes:
        level: ``'error'`` if training would stop, else ``'warning'``.
        about: the module that does not work.
        text: what is wrong.
        cure: a command.
    """

    level: str
    about: str
    text: str
    cure: str


def numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: ``'2.1.2+cpu'`` gives (2, 1, 2)."""
    found = re.match(r'\d+(\.\d+)*', version)
    return tuple(int(part) for part in found[0].split('.')) if found else ()


def canonical(name: str) -> str:
    """Return the name of a distribution in the one spelling that is compared."""
    return re.sub(r'[-_.]+', '-', name).lower()


# ------------------------------------------------------------------------ gathering


def gather() -> Facts:
    """Look at this environment. Takes some seconds: everything is imported once."""
    found = ((d.metadata['Name'], d.version) for d in distributions())
    versions = {canonical(name): version for name, version in found if name}
    wants = requires('torchvision') if 'torchvision' in versions else None
    provided = packages_distributions()
    modules = {name: sorted(set(provided.get(name, []))) for name in (*FAMILIES, 'cv2')}
    cpu, features = read_cpu(Path('/proc/cpuinfo'))
    return Facts(
        python=sys.version_info[:3],
        executable=short_path(sys.executable),
        system=f'{platform.system()} {platform.machine()}',
        versions=versions,
        providers={name: names for name, names in modules.items() if names},
        made_for=pinned_torch(wants or []),
        probes=probe_all(),
        cpu=cpu,
        features=features,
        cores=usable_cores(),
        driver=Path('/proc/driver/nvidia/version').exists()
        or shutil.which('nvidia-smi') is not None,
    )


def pinned_torch(requirements: list[str]) -> str:
    """Return the one torch that requirements name; empty for none or a range."""
    found = (re.match(r'torch\s*\(?==([\w.]+)', line) for line in requirements)
    return next((match[1] for match in found if match), '')


def short_path(path: str) -> str:
    """Return ``path`` relative to the current folder where that is shorter."""
    here = f'{os.getcwd()}{os.sep}'
    return path.removeprefix(here) or 'python'


def usable_cores() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def read_cpu(source: Path) -> tuple[str, tuple[str, ...]]:
    """Return the processor's name and the instruction sets that matter.

    Args:
        source: Linux's list of processors; elsewhere it does not exist.
    """
    if not source.exists():
        return platform.processor() or platform.machine(), ()
    text = source.read_text(errors='replace')
    name = re.search(r'^model name\s*: (.*)$', text, re.M)
    line = re.search(r'^(flags|Features)\s*: (.*)$', text, re.M)
    flags = set(line[2].split()) if line else set()
    known = {
        'avx2': 'AVX2',
        'avx512f': 'AVX-512',
        'avx512_bf16': 'AVX-512 bf16',
        'amx_bf16': 'AMX bf16',
        'asimd': 'NEON',
        'bf16': 'bf16',
    }
    features = tuple(title for flag, title in known.items() if flag in flags)
    return name[1].strip() if name else platform.machine(), features


def probe_all() -> dict[str, Probe]:
    """Import everything that is installed.

    One process imports all; where it stops, a new one goes on behind the culprit.
    """
    left = [name for name in PROBES if find_spec(name.split('.')[0]) is not None]
    results: dict[str, Probe] = {}
    while left:
        told, error = probe(left)
        results.update(told)
        if error:
            results[left[len(told)]] = Probe(error=error)
        left = [name for name in left if name not in results]
    return results


def probe(names: list[str]) -> tuple[dict[str, Probe], str]:
    """Run some of ``PROBES``, one after the other, in a process of their own.

    Returns:
        What those before the first failure told, and how that one failed; an empty
        string if none did.
    """
    script = ['import json', *map(probe_script, names)]
    command = [sys.executable, '-W', 'ignore', '-c', '\n'.join(script)]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    said = [json.loads(line.removeprefix(MARK)) for line in lines]
    results = {name: Probe(data=data) for name, data in zip(names, said, strict=False)}
    if len(results) == len(names):
        return results, ''
    if done.returncode < 0:
        return results, f'crashed with signal {-done.returncode}'
    errors = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return results, errors[-1] if errors else 'ended without a word'


def probe_script(name: str) -> str:
    """Return the source of one probe, which prints a marked line at its end."""
    tell = f'print({MARK!r} + json.dumps(told), flush=True)'
    return f'told = {{}}\n{PROBES[name]}\n{tell}'


# ------------------------------------------------------------------------ diagnosis


def diagnose(facts: Facts) -> list[Problem]:
    """Return the problems of an environment, those that stop training first."""
    checks = (
        check_python,
        check_torch,
        check_torchvision,
        check_numpy,
        check_opencv,
        check_families,
        check_mmengine,
        check_mmcv,
        check_detection,
        check_segmentation,
        check_pkg_resources,
        check_timm,
        check_gpu,
        check_threads,
    )
    found = [problem for check in checks for problem in check(facts)]
    found += unexplained(facts, {problem.about for problem in found})
    return sorted(found, key=lambda problem: problem.level != 'error')


def check_python(facts: Facts) -> Iterator[Problem]:
    """Python older than the package supports."""
    if facts.python < (3, 10):
        text = f'Python {dotted(facts.python)} is too old; 3.10 or newer is needed'
        yield Problem('error', 'python', text, 'make setup PYTHON=python3.11')


def check_torch(facts: Facts) -> Iterator[Problem]:
    """No torch, or one older than any that is tested."""
    torch = facts.version('torch')
    cure = facts.pip('install', 'torch', 'torchvision')
    if not torch:
        yield Problem('error', 'torch', 'torch is not installed', cure)
    elif torch < (2, 1):
        text = f'torch {facts.versions["torch"]} is too old; 2.1 or newer is needed'
        yield Problem('error', 'torch', text, cure)


def check_torchvision(facts: Facts) -> Iterator[Problem]:
    """No torchvision, or one made for another torch."""
    if 'torch' not in facts.versions:
        return
    torch = facts.versions['torch'].split('+')[0]
    pair = (f'torch=={torch}', 'torchvision')
    if 'torchvision' not in facts.versions:
        text = 'torchvision is not installed; timm and mmdet need it'
        yield Problem('error', 'torchvision', text, facts.pip('install', *pair))
        return
    error = facts.probes.get('torchvision', Probe()).error
    foreign = re.search(r'operator torchvision::|undefined symbol', error)
    if foreign or facts.made_for not in ('', torch):
        made_for = f', it was made for {facts.made_for}' if facts.made_for else ''
        text = (
            f'torchvision {facts.versions["torchvision"]} does not belong to torch '
            f'{facts.versions["torch"]}{made_for}'
        )
        cure = facts.pip('install', '--force-reinstall', *pair)
        yield Problem('error', 'torchvision', text, cure)


def check_numpy(facts: Facts) -> Iterator[Problem]:
    """A numpy 2 beside a torch from before it."""
    torch, numpy = facts.version('torch'), facts.version('numpy')
    if numpy >= (2,) and () < torch < (2, 3):
        text = (
            f'torch {facts.versions["torch"]} was built before numpy 2 and cannot '
            f'exchange arrays with numpy {facts.versions["numpy"]}'
        )
        opencv = [f'{name}<4.12' for name in OPENCVS if name in facts.versions]
        yield Problem('error', 'numpy', text, facts.pip('install', 'numpy<2', *opencv))


def check_opencv(facts: Facts) -> Iterator[Problem]:
    """An OpenCV that wants a display, or two of different versions in one folder."""
    there = [name for name in OPENCVS if name in facts.versions]
    newest = max((facts.versions[name] for name in there), key=numbers, default='')
    headless = f'opencv-python-headless=={newest}' if newest else OPENCVS[0]
    cure = facts.pip('install', '--force-reinstall', '--no-deps', headless)
    error = facts.probes.get('cv2', Probe()).error
    if re.search(r'lib(GL|gthread|glib|xcb|X11|SM|Xext)\S*\.so', error):
        text = (
            f'cv2 needs a library for displays that this machine lacks ({error}); '
            'unpack the headless OpenCV over it'
        )
        yield Problem('error', 'cv2', text, cure)
    elif len({facts.versions[name] for name in there}) > 1:
        told = ', '.join(f'{name} {facts.versions[name]}' for name in there)
        text = f'two OpenCVs of different versions share the folder cv2: {told}'
        yield Problem('warning', 'cv2', text, cure)
    elif not there and 'mmengine' in facts.providers and 'cv2' not in facts.probes:
        yield Problem('error', 'cv2', 'OpenCV (cv2) is not installed', cure)


def check_families(facts: Facts) -> Iterator[Problem]:
    """Both OpenMMLab families in one environment."""
    originals, forks = (
        [pair[i] for pair in FAMILIES.values() if pair[i] in facts.versions]
        for i in (0, 1)
    )
    if originals and forks:
        text = (
            f'two OpenMMLab families are mixed: {", ".join(originals)} with '
            f'{", ".join(forks)}; they unpack into the same folders and overwrite '
            'each other. Remove both, then install one'
        )
        cure = facts.pip('uninstall', '--yes', *originals, *forks)
        yield Problem('error', 'mmengine', text, cure)


def check_mmengine(facts: Facts) -> Iterator[Problem]:
    """No mmengine, or one that a newer torch broke."""
    if not facts.version('mmengine', 'onedl-mmengine'):
        cure = facts.pip('install', 'onedl-mmengine')
        yield Problem('error', 'mmengine', 'mmengine is not installed', cure)
        return
    original, torch = facts.version('mmengine'), facts.version('torch')
    if () < original < (0, 10, 8) and torch >= (2, 6):
        text = (
            f'mmengine {facts.versions["mmengine"]} fails on torch 2.6 and newer '
            f'(here {facts.versions["torch"]}); install the originals with their '
            'torch, or the maintained forks'
        )
        cure = 'make setup STACK=originals PYTHON=python3.11'
        yield Problem('error', 'mmengine', text, cure)


def check_mmcv(facts: Facts) -> Iterator[Problem]:
    """No mmcv where it is needed, one without operators, or one too new."""
    mmcv, mmdet = facts.version('mmcv'), facts.version('mmdet')
    if not facts.version('mmcv', 'onedl-mmcv'):
        yield from missing_mmcv(facts)
    elif () < mmdet <= (3, 3, 0) and mmcv >= (2, 2):
        text = f'mmdet 3.3 refuses mmcv {facts.versions["mmcv"]}; it takes 2.1'
        yield Problem('error', 'mmcv.ops', text, rebuild(facts, 'mmcv==2.1.0'))
    elif facts.failed('mmcv.ops') and not blamed_on_needs(facts, 'mmcv.ops'):
        error = facts.probes['mmcv.ops'].error
        text = f'the operators of mmcv do not work with this torch: {error}'
        if "No module named 'mmcv._ext'" in error:
            text = 'mmcv is installed without its operators'
        yield Problem(
            'error', 'mmcv.ops', text, rebuild(facts, mmcv_requirement(facts))
        )


def missing_mmcv(facts: Facts) -> Iterator[Problem]:
    """No mmcv: fatal beside mmdet or mmseg, else only these tasks are missing."""
    users = [name for name in ('mmdet', 'mmseg') if facts.version(*FAMILIES[name])]
    cure = rebuild(facts, mmcv_requirement(facts))
    if users:
        text = f'mmcv is not installed and {" and ".join(users)} cannot run without it'
        yield Problem('error', 'mmcv', text, cure)
    else:
        text = 'no mmcv, mmdet or mmseg: the backbone works, the two tasks do not'
        yield Problem('warning', 'mmcv', text, 'make setup')


def mmcv_requirement(facts: Facts) -> str:
    """Return the requirement for the mmcv that suits the family installed."""
    for name in FAMILIES['mmcv']:
        if name in facts.versions:
            return f'{name}=={facts.versions[name]}'
    return 'mmcv==2.1.0' if 'mmengine' in facts.versions else 'onedl-mmcv'


def rebuild(facts: Facts, requirement: str) -> str:
    """Return the command that compiles mmcv against the torch that is there."""
    flags = ('--no-build-isolation', '--no-cache-dir', '--force-reinstall', '--no-deps')
    stack = STACKS['forks' if requirement.startswith('onedl') else 'originals']
    tools = facts.pip('install', *stack.build)
    return f"{tools} && CFLAGS='-g0 -O2' {facts.pip('install', *flags, requirement)}"


def check_detection(facts: Facts) -> Iterator[Problem]:
    """Releases of pycocotools that cannot read some annotation files."""
    coco = facts.version('pycocotools')
    cure = facts.pip('install', 'pycocotools>=2.0.11')
    if coco in ((2, 0, 9), (2, 0, 10)):
        text = (
            f'pycocotools {facts.versions["pycocotools"]} raises KeyError on '
            "annotation files without an 'info' entry"
        )
        yield Problem('error', 'pycocotools', text, cure)
    elif not coco and facts.version(*FAMILIES['mmdet']):
        text = 'pycocotools is not installed and mmdet cannot run without it'
        yield Problem('error', 'pycocotools', text, cure)


def check_segmentation(facts: Facts) -> Iterator[Problem]:
    """Packages that mmseg imports and its requirements forget."""
    missing = [name for name in ('ftfy', 'regex') if name not in facts.versions]
    if missing and facts.version(*FAMILIES['mmseg']):
        text = f'mmseg imports {" and ".join(missing)}, which nothing installed'
        yield Problem('error', 'mmseg', text, facts.pip('install', *missing))


def check_pkg_resources(facts: Facts) -> Iterator[Problem]:
    """A setuptools without pkg_resources beside the mmengine that imports it."""
    setuptools = facts.version('setuptools')
    if 'mmengine' in facts.versions and (not setuptools or setuptools >= (82,)):
        here = dotted(setuptools) if setuptools else 'missing'
        text = (
            'mmengine reads bases such as mmdet::_base_/... with pkg_resources, which '
            f'setuptools had until 81; it is {here} here'
        )
        cure = facts.pip('install', 'setuptools<80')
        yield Problem('error', 'setuptools', text, cure)


def check_timm(facts: Facts) -> Iterator[Problem]:
    """No timm."""
    if 'timm' not in facts.versions:
        cure = facts.pip('install', 'timm')
        yield Problem('error', 'timm', 'timm is not installed', cure)


def check_gpu(facts: Facts) -> Iterator[Problem]:
    """A GPU that torch cannot use, or that mmcv was not compiled for."""
    torch, ops = facts.data('torch'), facts.data('mmcv.ops')
    if facts.driver and torch and not torch.get('gpus'):
        cuda = torch.get('cuda')
        built = f'for CUDA {cuda}' if cuda else 'without CUDA'
        text = f'there is an NVIDIA driver and torch, built {built}, finds no GPU'
        yield Problem('warning', 'torch', text, 'nvidia-smi')
    if torch.get('gpus') and ops.get('cuda') == 'not available':
        text = (
            'the operators of mmcv were compiled for the CPU only: training on the GPU '
            'stops at the first one. Install the CUDA toolkit (nvcc), then build again'
        )
        yield Problem(
            'error', 'mmcv.ops', text, rebuild(facts, mmcv_requirement(facts))
        )


def check_threads(facts: Facts) -> Iterator[Problem]:
    """One thread on a machine with more cores."""
    if facts.data('torch').get('threads') == 1 and facts.cores > 1:
        text = f'torch uses 1 thread of {facts.cores} cores: OMP_NUM_THREADS is set'
        yield Problem('warning', 'torch', text, 'unset OMP_NUM_THREADS MKL_NUM_THREADS')


def blamed_on_needs(facts: Facts, name: str) -> bool:
    """Tell whether something that ``name`` needs has failed itself."""
    return any(
        facts.failed(need) or blamed_on_needs(facts, need)
        for need in NEEDS.get(name, ())
    )


def unexplained(facts: Facts, explained: set[str]) -> Iterator[Problem]:
    """Imports that failed for a reason of their own which no check knows."""
    for name, result in facts.probes.items():
        if not result.error or name in explained or blamed_on_needs(facts, name):
            continue
        if explained & set(NEEDS.get(name, ())):
            continue
        text = f'{name} cannot be imported: {result.error}'
        yield Problem('error', name, text, 'make setup VENV=.venv-new')


# ------------------------------------------------------------------------- printing


def dotted(version: tuple[int, ...]) -> str:
    """Return a version as text."""
    return '.'.join(map(str, version))


def rows(facts: Facts) -> list[tuple[str, str]]:
    """Return the table: what, and its version with what belongs to it."""
    return [
        ('mmpoolformer', __version__),
        ('python', f'{dotted(facts.python)} ({facts.system})'),
        ('torch', told(facts, 'torch')),
        ('torchvision', told(facts, 'torchvision')),
        ('GPU', describe_gpu(facts)),
        ('CPU', describe_cpu(facts)),
        *((name, told_family(facts, name)) for name in FAMILIES),
        ('mmcv.ops', describe_operators(facts)),
        ('cv2', describe_opencv(facts)),
        *((name, told(facts, name)) for name in ('timm', 'pycocotools', 'numpy')),
    ]


def told(facts: Facts, name: str) -> str:
    """Return the version of a distribution and whether it can be imported."""
    version = facts.versions.get(name, 'missing')
    return f'{version}, cannot be imported' if facts.failed(name) else version


def told_family(facts: Facts, module: str) -> str:
    """Return the versions of all distributions that provide a module."""
    there = [name for name in FAMILIES[module] if name in facts.versions]
    text = ' and '.join(f'{facts.versions[name]} from {name}' for name in there)
    failed = ', cannot be imported' if facts.failed(module) else ''
    return f'{text or "missing"}{failed}'


def describe_gpu(facts: Facts) -> str:
    """Return the GPUs that torch can use."""
    data = facts.data('torch')
    built = f' (torch is built for CUDA {data["cuda"]})' if data.get('cuda') else ''
    return f'{", ".join(data.get("gpus", [])) or "none"}{built}'


def describe_cpu(facts: Facts) -> str:
    """Return the processor, its instruction sets and how many threads are used."""
    threads = facts.data('torch').get('threads')
    used = f', {threads} used by torch' if threads else ''
    sets = f' ({", ".join(facts.features)})' if facts.features else ''
    return f'{facts.cpu or "unknown"}{sets}, {facts.cores} cores{used}'


def describe_operators(facts: Facts) -> str:
    """Return whether mmcv's compiled operators work, and on what."""
    if not facts.version('mmcv', 'onedl-mmcv'):
        return 'missing'
    if facts.failed('mmcv.ops'):
        return 'do not work'
    cuda = facts.data('mmcv.ops').get('cuda', 'not available')
    return 'work, CPU only' if cuda == 'not available' else f'work, CUDA {cuda}'


def describe_opencv(facts: Facts) -> str:
    """Return the OpenCV that is imported and the distributions it comes from."""
    if facts.failed('cv2'):
        return 'cannot be imported'
    data = facts.data('cv2')
    if not data:
        return 'missing'
    kind = 'headless' if data.get('headless') else 'with windows'
    there = [name for name in OPENCVS if name in facts.versions]
    return f'{data["version"]} {kind}, from {" and ".join(there) or "elsewhere"}'


def shell_lines(command: str, width: int) -> list[str]:
    """Break a command so that it fits and can still be copied to a shell."""
    lines = ['']
    for word in re.findall(r"(?:'[^']*'|\S)+", command):
        if lines[-1] and len(lines[-1]) + len(word) + 3 > width:
            lines[-1] += ' \\'
            lines.append('  ')
        lines[-1] += word if not lines[-1].strip() else f' {word}'
    return lines


def report(facts: Facts, problems: list[Problem]) -> str:
    """Return the table and the problems, at most 80 columns wide."""
    lines = []
    for name, value in rows(facts):
        first, later = f'{name:<14}', ' ' * 14
        lines += textwrap.wrap(
            value, WIDTH, initial_indent=first, subsequent_indent=later
        )
    for problem in problems:
        first, later = f'{problem.level + ":":<9}', ' ' * 9
        lines += ['']
        lines += textwrap.wrap(
            problem.text, WIDTH, initial_indent=first, subsequent_indent=later
        )
        command = shell_lines(problem.cure, WIDTH - 9)
        lines += [f'{"cure:":<9}{command[0]}', *(later + line for line in command[1:])]
    return '\n'.join([*lines, '', summary(problems)])


def summary(problems: list[Problem]) -> str:
    """Return one line: how many problems of which kind."""
    errors = sum(problem.level == 'error' for problem in problems)
    warnings = len(problems) - errors
    if not problems:
        return 'No problems found.'
    counts = (
        f'{count} {name}{"s" if count > 1 else ""}'
        for name, count in (('error', errors), ('warning', warnings))
        if count
    )
    stop = 'training would stop' if errors else 'training works'
    return f'{", ".join(counts)}: {stop}.'


def as_json(facts: Facts, problems: list[Problem]) -> str:
    """Return facts and problems for a program to read."""
    found = [asdict(problem) for problem in problems]
    return json.dumps({'facts': asdict(facts), 'problems': found}, indent=2)


def main(arguments: list[str] | None = None) -> int:
    """Print the report; return 1 if a problem would stop training, else 0."""
    parser = argparse.ArgumentParser(
        prog='python -m mmpoolformer.doctor',
        description='Tell what is installed, what is wrong with it, and the cure.',
        epilog='The exit status is 1 if a problem would stop training, else 0.',
    )
    parser.add_argument('--json', action='store_true', help='for a program to read')
    options = parser.parse_args(arguments)
    facts = gather()
    problems = diagnose(facts)
    print((as_json if options.json else report)(facts, problems))
    return int(any(problem.level == 'error' for problem in problems))


if __name__ == '__main__':
    sys.exit(main())
