"""The command `mmpoolformer`: one module a command, each with `main(argv)`.

No module here imports torch before its options are read, so that `--help` is fast.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib import import_module

from mmpoolformer.engine.signals import run_stoppable
from mmpoolformer.utils.errors import UsageError, run_tool
from mmpoolformer.utils.prints import filtered_prints
from mmpoolformer.utils.text import nearest
from mmpoolformer.version import __version__

COMMANDS = {
    'train': 'train a detector, segmentor or classifier from a config',
    'test': 'evaluate a checkpoint: AP, mIoU or top-1',
    'infer': 'run a model on images and videos, write and draw its results',
    'predict': 'print the most likely classes of pictures',
    'validate': 'measure top-1 and top-5 of classifiers on an image folder',
    'export': 'write a model as a file for ONNX Runtime, OpenVINO or torch',
    'gradcam': 'draw class activation maps',
    'complexity': 'count parameters and MACs by stage',
    'benchmark': 'time models beside their peers',
    'check-data': 'check the data of a config before training',
    'browse-data': 'draw what a data loader feeds the model',
    'plot-curves': 'draw losses and metrics of training runs',
    'ablate': 'train the ablation study of PoolFormer-S12',
    'demo': 'show models in a web page',
    'demo-data': 'draw the demonstration data',
    'convert': 'give a checkpoint the names of another codebase',
    'doctor': 'say what is installed, what is wrong with it, and the cure',
    'quickstart': 'train, evaluate and draw a small detector on generated data',
    'pretrain-demo': 'pretrain a classifier, then train a detector from it',
}

# SIGTERM and SIGUSR1 end these in order; their `main` gets a `StopRequest` too.
STOPPABLE = ('train', 'test')


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The command and its options; None for those of the process.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] in (['-h'], ['--help'], ['help'], []):
        print(usage())
        return 0 if words else 2
    if words[0] == '--version':
        print(f'mmpoolformer {__version__}')
        return 0
    return run(words[0], words[1:])


def run(command: str, argv: Sequence[str]) -> int:
    """Run a command with its options and return the exit code."""
    with nullcontext() if '--verbose' in argv else filtered_prints():
        # A command is imported where its errors are told, and signals end it in order.
        start = run_stoppable if command in STOPPABLE else run_tool
        return start(lambda *given: _main_of(command)(*given), argv)


def usage() -> str:
    """Return the list of commands."""
    lines = [f'  {name:<14} {what}' for name, what in COMMANDS.items()]
    head = 'usage: mmpoolformer COMMAND [options]\n'
    end = '\nmmpoolformer COMMAND --help explains a command with examples.'
    return '\n'.join([head, *lines, end])


def _main_of(command: str) -> Callable[..., None]:
    if command not in COMMANDS:
        raise UsageError(
            f'no command {command!r}: did you mean {nearest(command, COMMANDS)}? '
            'mmpoolformer --help lists all'
        )
    name = command.replace('-', '_')
    return import_module(f'mmpoolformer.cli.{name}').main
