"""Printing what `checks` found."""

import json
import re
from dataclasses import asdict

from mmpoolformer.doctor.checks import Facts, Problem
from mmpoolformer.stacks import OPENCVS, STACKS
from mmpoolformer.utils.text import WIDTH, wrapped
from mmpoolformer.version import __version__

MODULES = ('mmengine', 'mmcv', 'mmdet', 'mmseg')
INDENT = ' ' * 9  # below the head of a problem


def rows(facts: Facts) -> list[tuple[str, str]]:
    """Return the table: what, and its version with what belongs to it."""
    torch, cuda = facts.data('torch'), facts.data('mmcv.ops').get('cuda', '')
    built = f' (torch is built for CUDA {torch["cuda"]})' if torch.get('cuda') else ''
    operators = 'do not work' if facts.error('mmcv.ops') else f'work, CUDA {cuda}'
    if cuda == 'not available':
        operators = 'work, CPU only'
    families = {name: [s.packages[name] for s in STACKS.values()] for name in MODULES}
    return [
        ('mmpoolformer', __version__),
        ('python', f'{".".join(map(str, facts.python))} ({facts.system})'),
        *((name, versions(facts, name, [name])) for name in ('torch', 'torchvision')),
        ('GPU', f'{", ".join(torch.get("gpus", [])) or "none"}{built}'),
        *((name, versions(facts, name, names)) for name, names in families.items()),
        ('mmcv.ops', operators if 'mmcv.ops' in facts.probes else 'missing'),
        ('cv2', versions(facts, 'cv2', OPENCVS)),
        *((n, versions(facts, n, [n])) for n in ('timm', 'pycocotools', 'numpy')),
        ('disk', f'{facts.free / 10**9:.0f} GB free'),
        ('pip', f'configured by {" and ".join(facts.pip_files) or "no file"}'),
    ]


def versions(facts: Facts, module: str, names: list[str]) -> str:
    """Return the versions of all distributions that provide a module."""
    texts = (
        facts.versions[name] + (f' from {name}' if len(names) > 1 else '')
        for name in names
        if name in facts.versions
    )
    failed = ', cannot be imported' if facts.error(module) else ''
    return f'{" and ".join(texts) or "missing"}{failed}'


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
        lines += wrapped(value, f'{name:<14}', ' ' * 14)
    for problem in problems:
        first, *more = shell_lines(problem.cure, WIDTH - len(INDENT))
        lines += ['', *wrapped(problem.text, f'{problem.level + ":":<9}', INDENT)]
        lines += [f'{"cure:":<9}{first}', *(f'{INDENT}{line}' for line in more)]
    return '\n'.join([*lines, '', summary(problems)])


def summary(problems: list[Problem]) -> str:
    """Return one line: how many problems of which kind."""
    errors = sum(problem.level == 'error' for problem in problems)
    if not problems:
        return 'No problems found.'
    counts = (
        f'{count} {name}{"s" if count > 1 else ""}'
        for name, count in (('error', errors), ('warning', len(problems) - errors))
        if count
    )
    stop = 'training would stop' if errors else 'training works'
    return f'{", ".join(counts)}: {stop}.'


def as_json(facts: Facts, problems: list[Problem]) -> str:
    """Return facts and problems for a program to read."""
    found = [asdict(problem) for problem in problems]
    return json.dumps({'facts': asdict(facts), 'problems': found}, indent=2)
