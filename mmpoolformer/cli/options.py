"""Options that several commands have, and the checks of what they are given."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mmpoolformer.utils.errors import UsageError
from mmpoolformer.utils.paths import RANDOM, is_config, split_entry

# How all commands name a model, and what its weights may be; see
# `mmpoolformer.inference.weights`, which finds them.
MODEL = 'a name of mmpoolformer.list_models(), timm/NAME, or a config file'
WEIGHTS = f'path, URL, zoo://NAME, timm://NAME, hf://OWNER/NAME or {RANDOM}'
NO_CHECKPOINT = (
    "default: a name's published weights, which are downloaded, or those that the "
    'config names: its load_from, else its init_cfg'
)

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
    check_config(args.config)
    args.size = image_size(args.size)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def job_settings(args: argparse.Namespace) -> dict[str, object]:
    """Return what all commands with a config have, for `engine.launch.Job`."""
    return dict(
        config=args.config,
        size=args.size,
        overrides=args.cfg_options,
        work_dir=args.work_dir,
        launcher=args.launcher,
        trust=args.trust,
    )


def _add_common_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--work-dir',
        metavar='DIR',
        help='where logs, checkpoints and results go '
        '(default: work_dir of the config, else work_dirs/NAME_OF_THE_CONFIG)',
    )
    add_size_option(
        parser,
        'of the pictures in training, validation and test: what they are resized, '
        'cropped and padded to',
    )
    add_config_options(
        parser,
        'change settings of the config, such as model.backbone.arch=s24, '
        'model.backbone.init_cfg=None or train_cfg.max_epochs=3; lists as '
        'key="[a,b]", quoted for the shell',
    )
    text = 'what started the processes of a distributed job'
    launchers = ['none', 'pytorch', 'slurm', 'mpi']
    add_with_default(parser, '--launcher', 'none', text, choices=launchers)
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS
    )
    add_trust_option(parser)
    add_traceback_option(parser)


def add_verbose_option(parser: argparse.ArgumentParser) -> None:
    """Add `--verbose`."""
    parser.add_argument(
        '--verbose',
        action='store_true',
        help='print all that mmengine logs: environment, config, hooks, every figure '
        '(the log file in the work dir has it anyway)',
    )


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


def add_with_default(
    parser: argparse.ArgumentParser,
    flag: str,
    value: object,
    text: str,
    **options: object,
) -> None:
    """Add an option whose help ends in its default.

    Args:
        parser: The tool's parser.
        flag: The option.
        value: Its default.
        text: Its help before that.
        options: See `argparse.ArgumentParser.add_argument`.
    """
    text = f'{text} (default: %(default)s)'
    parser.add_argument(flag, default=value, help=text, **options)


@contextmanager
def resume_hint() -> Iterator[None]:
    """Say at a Ctrl-C in the block that the same command goes on from there."""
    try:
        yield
    except KeyboardInterrupt:
        print('\nThe same command goes on from here.', file=sys.stderr)
        raise


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
    parser: argparse._ActionsContainer,
    choices: Sequence[str],
    text: str,
    several: bool = False,
) -> None:
    """Add `--dtype`, one of `choices`; torch's own names stand for the same.

    Args:
        parser: The tool's parser, or a group of it.
        choices: Some of `DTYPES`, the default first.
        text: The option's help.
        several: Whether it takes one or more, and gives a list.
    """
    first = choices[0]
    parser.add_argument(
        '--dtype',
        nargs='+' if several else None,
        type=lambda name: SHORT_DTYPES.get(name, name),
        choices=choices,
        default=[first] if several else first,
        help=f'{text} (default: {first})',
    )


def add_classes_option(parser: argparse.ArgumentParser) -> None:
    """Add `--classes FILE`, the names of the classes in the order of the labels."""
    parser.add_argument(
        '--classes',
        metavar='FILE',
        help='text file of class names, one per line, in the order of the labels '
        "(default: those in the checkpoint, else the config's or ImageNet's)",
    )


def add_size_option(
    parser: argparse.ArgumentParser, text: str, default: Sequence[int] | None = None
) -> None:
    """Add `--size`, height and width of an image, which `image_size` checks."""
    parser.add_argument(
        '--size',
        nargs='+',
        type=int,
        default=default,
        metavar='N',
        help=f'height and width in pixels, or one number for both {text}',
    )


def image_size(size: Sequence[int] | None) -> tuple[int, int] | None:
    """Return height and width of what `--size` gives.

    Raises:
        UsageError: If it is no size.
    """
    if size is None:
        return None
    if len(size) > 2 or min(size) < 1:
        raise UsageError(
            f'--size {" ".join(map(str, size))}: give height and width in pixels, or '
            'one number for both'
        )
    return size[0], size[-1]


def add_image_size_option(
    parser: argparse.ArgumentParser, default: int | None, text: str
) -> None:
    """Add `--image-size`, the side of square images of a classifier."""
    parser.add_argument(
        '--image-size',
        '--img-size',
        type=int,
        default=default,
        metavar='N',
        help=f"side of the network's input in pixels ({text})",
    )


def add_batch_size_option(parser: argparse.ArgumentParser, default: int) -> None:
    """Add `--batch-size`, the pictures that a model sees at a time."""
    text = 'pictures at a time'
    add_with_default(parser, '--batch-size', default, text, type=int, metavar='N')


def add_topk_option(parser: argparse.ArgumentParser) -> None:
    """Add `--topk`, how many classes are told of a picture."""
    text = 'classes for each picture'
    add_with_default(parser, '--topk', 5, text, type=int, metavar='K')


def add_score_option(parser: argparse.ArgumentParser) -> None:
    """Add `--score-thr`, the score threshold of boxes."""
    text = (
        'score threshold of boxes; 0 keeps all that the model gives, as for computing '
        'AP'
    )
    add_with_default(parser, '--score-thr', 0.3, text, type=float, metavar='P')


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Add `--device`, a name for `mmpoolformer.utils.devices.choose_device`."""
    parser.add_argument(
        '--device',
        metavar='NAME',
        help='such as cuda:1 or cpu (default: cuda where there is one, else cpu)',
    )


def add_checkpoint_option(
    parser: argparse.ArgumentParser, nargs: str | None = None
) -> None:
    """Add `--checkpoint`, the weights of the model, or with `nargs` of several."""
    parser.add_argument(
        '--checkpoint',
        nargs=nargs,
        metavar='WEIGHTS',
        help=f'{"weights of each model, in order" if nargs else "weights"}: {WEIGHTS} '
        f'({NO_CHECKPOINT})',
    )
    add_entry_option(parser)


def add_entry_option(parser: argparse.ArgumentParser) -> None:
    """Add `--entry`, one of several models in a file, for `with_entry`."""
    parser.add_argument(
        '--entry',
        metavar='NAME',
        help='the entry to take of a file that holds weights in several, such as '
        'teacher; FILE#NAME says the same',
    )


def with_entry(
    checkpoints: Sequence[str | None], entry: str | None
) -> list[str | None]:
    """Return checkpoints with what `--entry` gives, as `FILE#ENTRY`.

    Raises:
        UsageError: If there are none, or one of them is no file.
    """
    if entry is None:
        return list(checkpoints)
    if not checkpoints or {None, RANDOM} & set(checkpoints):
        raise UsageError(
            f'--entry {entry}: goes with weights of your own, --checkpoint FILE for '
            f'each model (in a config: load_from=FILE#{entry})'
        )
    return [f'{source}#{entry}' for source in checkpoints]


def add_num_classes_option(parser: argparse.ArgumentParser) -> None:
    """Add `--num-classes`, which `check_num_classes` checks."""
    parser.add_argument(
        '--num-classes',
        type=int,
        metavar='N',
        help=f'classes of a named model with --checkpoint {RANDOM}; other weights say '
        'themselves for how many they are, and must agree (default: as published)',
    )


def check_model(model: str, checkpoint: str | None = None) -> None:
    """Refuse a config or a file of weights that is not there.

    Raises:
        UsageError: Naming it.
    """
    if is_config(model):
        check_config(model)
    if checkpoint not in (None, RANDOM):
        check_checkpoint(checkpoint)


def check_config(path: str) -> None:
    """Refuse a config that is not there.

    Raises:
        UsageError: Naming it.
    """
    if not Path(path).is_file():
        raise UsageError(f'{path}: no such config file')


def check_checkpoint(source: str) -> None:
    """Refuse a file of weights that is not there.

    Raises:
        UsageError: Naming it.
    """
    source = split_entry(source)[0]
    if '://' not in source and not Path(source).expanduser().exists():
        raise UsageError(f'{source}: no such checkpoint')


def weights_of_each(
    models: Sequence[str], checkpoints: Sequence[str] | None, entry: str | None
) -> list[str | None]:
    """Return the checkpoint of each model; without any, `None` for each.

    Raises:
        UsageError: If there are more or fewer than models, or none for the entry.
    """
    if not checkpoints:
        return with_entry([None] * len(models), entry)
    if len(checkpoints) != len(models):
        raise UsageError(
            f'--checkpoint: {len(checkpoints)} weights for {len(models)} models; give '
            f'one each, or {RANDOM}'
        )
    return with_entry(checkpoints, entry)


def check_num_classes(number: int | None, weights: Sequence[str | None]) -> None:
    """Refuse `--num-classes` that is no number of classes or has no use.

    Raises:
        UsageError: With the cure.
    """
    if number is None:
        return
    if number < 1:
        raise UsageError(f'--num-classes {number}: give a whole number from 1')
    if not any(weights):
        raise UsageError(
            f'--num-classes {number}: for named models with --checkpoint {RANDOM}; '
            'published weights are for those they were trained on'
        )


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """Add `--trust-checkpoint`, which lets checkpoints hold more than data."""
    parser.add_argument(
        '--trust-checkpoint',
        '--trust',
        dest='trust',
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
    """Add what tools have in common that run classifiers.

    Args:
        parser: The tool's parser.
        batch_size: Default number of pictures at a time.
    """
    add_checkpoint_option(parser)
    parser.add_argument(
        '--skip-unreadable',
        action='store_true',
        help='go on after pictures that can not be read, and count them',
    )
    add_batch_size_option(parser, batch_size)
    parser.add_argument(
        '--workers',
        type=int,
        metavar='N',
        help='processes that read pictures (default: one for each core, at most 4)',
    )
    add_device_option(parser)
    parser.add_argument(
        '--force', action='store_true', help='replace existing files of results'
    )
    add_classes_option(parser)
    add_trust_option(parser)
    add_traceback_option(parser)


def inference_settings(args: argparse.Namespace) -> dict[str, object]:
    """Return what predict and validate have, for `apps.known_models.Settings`."""
    return dict(
        checkpoint=args.checkpoint,
        trust=args.trust,
        classes=args.classes,
        batch_size=args.batch_size,
        workers=args.workers,
        device=args.device,
        skip_unreadable=args.skip_unreadable,
        force=args.force,
    )
