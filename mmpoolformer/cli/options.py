"""The command lines of the tools that run a config, and parts of others."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from mmpoolformer.utils.errors import UsageError

# Names of number types, and torch's for them.
DTYPES = {'fp32': 'float32', 'bf16': 'bfloat16', 'fp16': 'float16'}
SHORT_DTYPES = {long: short for short, long in DTYPES.items()}


def config_parser(
    name: str, description: str, examples: str
) -> argparse.ArgumentParser:
    """Return a parser for a command that runs a config; see `tool_parser`."""
    parser = tool_parser(name, description, examples)
    parser.add_argument('config', help='config file')
    return parser


def parse_config_command(
    parser: argparse.ArgumentParser, argv: Sequence[str]
) -> argparse.Namespace:
    """Read a command line with the options that all commands with a config have.

    Raises:
        UsageError: If the config is not there.
    """
    _add_common_options(parser)
    args = parser.parse_args(argv)
    if not Path(args.config).is_file():
        raise UsageError(f'{args.config}: no such config file')
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def _add_common_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--work-dir',
        metavar='DIR',
        help='where logs, checkpoints and results go '
        '(default: work_dir of the config, else work_dirs/NAME_OF_THE_CONFIG)',
    )
    add_config_options(
        parser,
        'change settings of the config, such as model.backbone.arch=s24, '
        'model.backbone.init_cfg=None or train_cfg.max_epochs=3; lists as '
        'key="[a,b]", quoted for the shell',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what started the processes of a distributed job (default: none)',
    )
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS
    )
    add_trust_option(parser)
    add_traceback_option(parser)


def tool_parser(name: str, description: str, examples: str) -> argparse.ArgumentParser:
    """Return a parser whose help keeps the lines of its texts.

    Args:
        name: The command.
        description: What it does.
        examples: Printed below the options.
    """
    return argparse.ArgumentParser(
        prog=f'mmpoolformer {name}',
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_config_options(
    parser: argparse.ArgumentParser, text: str, flag: str = '--cfg-options'
) -> None:
    """Add `--cfg-options KEY=VALUE ...`, which may be given several times.

    Args:
        parser: The tool's parser.
        text: The option's help.
        flag: Its name.
    """
    parser.add_argument(
        flag,
        nargs='+',
        action='extend',
        default=[],
        metavar='KEY=VALUE',
        help=text,
    )


def add_dtype_option(
    parser: argparse._ActionsContainer, choices: Sequence[str], text: str
) -> None:
    """Add `--dtype`, one of `choices`; torch's own names stand for the same.

    Args:
        parser: The tool's parser, or a group of it.
        choices: Some of `DTYPES`, the default first.
        text: The option's help.
    """
    parser.add_argument(
        '--dtype',
        type=lambda name: SHORT_DTYPES.get(name, name),
        choices=choices,
        default=choices[0],
        help=f'{text} (default: %(default)s)',
    )


def add_classes_option(parser: argparse.ArgumentParser) -> None:
    """Add `--classes FILE`, the names of the classes in the order of the labels."""
    parser.add_argument(
        '--classes',
        metavar='FILE',
        help='text file of class names, one per line, in the order of the labels '
        "(default: those in the checkpoint, else the config's or ImageNet's)",
    )


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """Add `--trust-checkpoint`, which lets checkpoints hold more than data."""
    parser.add_argument(
        '--trust-checkpoint',
        '--trust',
        action='store_true',
        help='read checkpoints that hold more than weights and plain data; such a '
        'file can run any program, so only for files of your own',
    )


def add_traceback_option(parser: argparse.ArgumentParser) -> None:
    """Add `--traceback`, which `mmpoolformer.utils.errors.run_tool` looks for."""
    parser.add_argument(
        '--traceback',
        '--debug',
        action='store_true',
        help='show where an error comes from, not just its line',
    )


def add_inference_options(parser: argparse.ArgumentParser, batch_size: int) -> None:
    """Add what tools have in common that run known models without a config.

    Args:
        parser: The tool's parser.
        batch_size: Default number of pictures at a time.
    """
    parser.add_argument(
        '--checkpoint',
        metavar='FILE',
        help='path, URL, zoo://NAME or timm://NAME (default: the published weights)',
    )
    parser.add_argument(
        '--skip-unreadable',
        action='store_true',
        help='go on after pictures that can not be read, and count them',
    )
    parser.add_argument(
        '--batch-size',
        type=int,
        default=batch_size,
        metavar='N',
        help='pictures at a time (default: %(default)s)',
    )
    parser.add_argument(
        '--workers',
        type=int,
        metavar='N',
        help='processes that read pictures (default: one for each core, at most 4)',
    )
    parser.add_argument(
        '--device', metavar='NAME', help='such as cuda:1 (default: cuda or else cpu)'
    )
    parser.add_argument(
        '--force', action='store_true', help='replace existing files of results'
    )
    add_trust_option(parser)
    add_traceback_option(parser)
