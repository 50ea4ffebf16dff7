"""Every option that a message names is one of the tool that prints the message."""

import argparse
import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
from tool_process import ROOT

from mmpoolformer.cli import COMMANDS

PACKAGE = ROOT / 'mmpoolformer'
OPTION = re.compile(r'(?<![\w-])--[a-z][\w-]*')
# A command and what is said of it, up to the next one.
NAMED = re.compile(r'(?:mmpoolformer |tools/)(?P<name>[a-z][\w-]*)(?P<rest>.*)', re.S)
# Options of pip and of conda, which the doctor's cures run.
OTHERS = {
    '--force-reinstall',
    '--no-build-isolation',
    '--no-cache-dir',
    '--no-deps',
    '--yes',
}
# Of the command `mmpoolformer` itself, and of its torchrun.
OWN = {'--help', '--version', '--check-first'}
# Where more commands import a module than can print its messages that name options.
CALLED_BY = {
    'analysis/gradcam.py': 'gradcam',
    'apps/guided.py': 'ablate quickstart pretrain-demo',
    'apps/known_models.py': 'validate',
    'cli/options.py': 'export gradcam',  # of --num-classes
    'checkpoints/converting.py': 'convert',
    # The message says what stands for --entry in train.
    'checkpoints/errors.py': 'convert demo export gradcam infer predict test validate',
    'checkpoints/filling.py': 'train',  # for load_from
    'checkpoints/reading.py': 'check-data convert demo export gradcam infer predict '
    'test train validate',
    'data/checks/preflight.py': 'train',
    'engine/hooks/checkpoint.py': 'train',
    'engine/hooks/stop.py': 'train',
    'engine/picture_size.py': 'check-data test train',
    'engine/resumed_settings.py': 'train',
    'engine/resumed_state.py': 'train',
    'engine/resuming.py': 'train',
    'engine/runner.py': 'train',
    'export/export.py': 'export',
    'export/graphs.py': 'export',
    'inference/openmmlab.py': 'gradcam',
    'inference/weights.py': 'demo export gradcam infer predict validate',
}
MODULES = sorted(PACKAGE.rglob('*.py'))


class Parsed(Exception):
    """Carries a parser out of the function that makes it."""


def stop(parser: argparse.ArgumentParser, *_: object) -> None:
    raise Parsed(parser)


@pytest.fixture(scope='module')
def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for name in ('parse_args', 'parse_intermixed_args'):
            patch.setattr(argparse.ArgumentParser, name, stop)
        for command in COMMANDS:
            module = import_module(f'mmpoolformer.cli.{command.replace("-", "_")}')
            start = getattr(module, 'parse', module.main)
            with pytest.raises(Parsed) as caught:
                start([])
            found[command] = caught.value.args[0]
    return found


@pytest.fixture(scope='module')
def options(parsers: dict[str, argparse.ArgumentParser]) -> dict[str, set[str]]:
    """The options of each command."""
    return {name: set(one._option_string_actions) for name, one in parsers.items()}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding='utf-8'))


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the texts of a module with their lines; docstrings are no messages."""
    skipped = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Expr):
            skipped.add(node.value)
        if isinstance(node, ast.JoinedStr):
            parts = [v for v in node.values if isinstance(v, ast.Constant)]
            skipped.update(parts)
            yield node.lineno, '...'.join(part.value for part in parts)
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and node not in skipped:
            yield node.lineno, node.value


def file_of(module: str) -> Path | None:
    place = ROOT.joinpath(*module.split('.'))
    files = (place.with_suffix('.py'), place / '__init__.py')
    return next((file for file in files if file.is_file()), None)


@cache
def imported(path: Path) -> set[Path]:
    """Return the modules of this package that a module imports, anywhere in it."""
    names = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f'{node.module}.{alias.name}' for alias in node.names}
    ours = (name for name in names if name.split('.')[0] == 'mmpoolformer')
    return {file for file in map(file_of, ours) if file}


def reached(path: Path) -> set[Path]:
    seen, waiting = set(), {path}
    while waiting:
        seen |= waiting
        waiting = set().union(*map(imported, waiting)) - seen
    return seen


@pytest.fixture(scope='module')
def printers() -> dict[Path, set[str]]:
    """The commands that can print what a module says."""
    found = {path: set() for path in MODULES}
    for command in COMMANDS:
        for path in reached(file_of(f'mmpoolformer.cli.{command.replace("-", "_")}')):
            found[path].add(command)
    return found


def command_named(name: str) -> str | None:
    """Return the command that `mmpoolformer NAME` or `tools/NAME.py` runs."""
    if name in COMMANDS:
        return name
    shim = ROOT / 'tools' / f'{name}.py'
    found = re.search(r"run\('([\w-]+)'", shim.read_text()) if shim.is_file() else None
    return found and found.group(1)


def unknown(text: str, able: set[str], options: dict[str, set[str]]) -> set[str]:
    """Return the options that the command of the text, or one of `able`, lacks."""
    first = OPTION.match(text)
    if first:  # the user gave it, so the command has it
        own = {one for one, names in options.items() if first.group() in names}
        able = own & able or own or able
    parts = re.split(r'(?=\bmmpoolformer [a-z]|tools/\w+\.(?:py|sh))', text)
    wrong = set()
    for part in parts:
        named = NAMED.match(part)
        command = command_named(named['name']) if named else None
        having = {command} if command else able
        known = set.intersection(*(options[one] for one in having))
        wrong |= set(OPTION.findall(part)) - known - OTHERS - OWN
    return wrong


@pytest.mark.parametrize('path', MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_options_in_messages_are_those_of_a_tool_that_prints_them(
    path: Path, options: dict[str, set[str]], printers: dict[Path, set[str]]
) -> None:
    # What no command imports runs by itself or in the scripts of tools/.
    called = CALLED_BY.get(str(path.relative_to(PACKAGE)), '').split()
    able = set(called) or printers[path] or set(COMMANDS)
    assert able <= (printers[path] or able)
    wrong = {
        f'line {line}: {name}'
        for line, text in texts(path)
        for name in unknown(text, able, options)
    }
    assert not wrong


@pytest.mark.parametrize(
    ('option', 'commands'),
    [
        ('--checkpoint', 'predict validate demo infer export gradcam'),
        ('--device', 'predict validate demo infer benchmark'),
        ('--classes', 'predict validate infer gradcam'),
        ('--num-classes', 'export gradcam'),
        ('--score-thr', 'infer gradcam'),
        ('--topk', 'predict infer'),
        ('--entry', 'convert demo export gradcam infer predict test validate'),
        ('--trust-checkpoint', 'train test predict validate demo infer export gradcam'),
    ],
)
def test_an_option_means_the_same_in_every_command(
    option: str, commands: str, parsers: dict[str, argparse.ArgumentParser]
) -> None:
    found = {
        name: parser._option_string_actions[option]
        for name, parser in parsers.items()
        if option in parser._option_string_actions
    }
    assert set(commands.split()) <= set(found)
    several = ' of each model, in order'  # of commands that take several models
    meanings = {
        (one.metavar, one.default, one.help.replace(several, ''))
        for one in found.values()
    }
    assert len(meanings) == 1


def test_tools_that_read_checkpoints_can_trust_them(
    options: dict[str, set[str]],
) -> None:
    for command, own in options.items():
        if {'--checkpoint', '--checkpoints', '--resume'} & own:
            assert {'--trust', '--trust-checkpoint'} <= own, command
        if {'--checkpoint', '--checkpoints'} & own:
            assert '--entry' in own, command
    assert {'--trust', '--entry', '--to'} <= options['convert']


@pytest.mark.parametrize(
    ('text', 'able', 'wrong'),
    [
        ('or --force', 'convert', set()),
        ('or --forced', 'convert', {'--forced'}),
        ('use --entry NAME', 'train', {'--entry'}),
        ('exists: --force replaces it', 'convert train', {'--force'}),
        ('--amp: not with --strategy', 'train test', set()),
        ('by: mmpoolformer convert A B --entry NAME', 'train', set()),
        ('python tools/convert_checkpoint.py A B --topk 3', 'predict', {'--topk'}),
    ],
)
def test_what_this_test_finds(
    text: str, able: str, wrong: set[str], options: dict[str, set[str]]
) -> None:
    assert unknown(text, set(able.split()), options) == wrong
