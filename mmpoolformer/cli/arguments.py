"""The command lines of the tools that run a config, and parts of others."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from mmpoolformer.utils.errors import UsageError

TRAIN_EXAMPLES = """examples:
  train on one GPU, or on the CPU where there is none:
    python tools/train.py configs/detection/retinanet_poolformer_s12_fpn_1x_coco.py
  go on where the last run in the work dir stopped, if there is one:
    python tools/train.py CONFIG --resume auto
  from scratch, with two images a step and the learning rate fitted to that:
    python tools/train.py CONFIG --auto-scale-lr \\
        --cfg-options model.backbone.init_cfg=None train_dataloader.batch_size=2
  on 8 GPUs (or 2 processes on the CPU):
    tools/dist_train.sh CONFIG 8
  the same, each with a slice of the model, for want of memory:
    tools/dist_train.sh CONFIG 8 --strategy fsdp
SIGTERM and SIGUSR1 end a run after its iteration, saved, with exit code 75.
"""
TEST_EXAMPLES = """examples:
  measure a checkpoint on the config's test data:
    python tools/test.py CONFIG work_dirs/NAME/epoch_12.pth
  keep the predictions, and pictures of them beside the truth:
    python tools/test.py CONFIG CHECKPOINT --out predictions.pkl --show-dir pictures
  with test-time augmentation:
    python tools/test.py CONFIG CHECKPOINT --tta
  faster, where the CPU or GPU computes bfloat16:
    python tools/test.py CONFIG CHECKPOINT --optimize --dtype bf16
  on 8 GPUs (or 2 processes on the CPU):
    tools/dist_test.sh CONFIG CHECKPOINT 8
"""
CHECK_EXAMPLES = """examples:
  look at the data of a config, as tools/train.py does before it starts:
    python tools/check_data.py configs/detection/retinanet_poolformer_s12_fpn_1x_coco.py
  read every picture to its last pixel (COCO: some minutes on 16 cores):
    python tools/check_data.py CONFIG --decode
  another annotation file:
    python tools/check_data.py CONFIG --cfg-options \\
        train_dataloader.dataset.ann_file=annotations/mine.json

Errors end it with exit code 1; warnings do not.
"""


def parse_train(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line of tools/train.py.

    Raises:
        UsageError: If the config is not there.
    """
    parser = _parser(
        'train.py',
        'Train the model of a config: detection, segmentation or classification.',
        TRAIN_EXAMPLES,
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='FILE',
        help='go on from a checkpoint with everything it holds; without FILE, or with '
        '"auto", from the latest one in the work dir, or from the start if there is '
        'none',
    )
    parser.add_argument(
        '--amp',
        action='store_true',
        help='mixed precision: float16 with loss scaling on a GPU, bfloat16 on a CPU',
    )
    parser.add_argument(
        '--strategy',
        choices=('ddp', 'fsdp'),
        help='what several processes do: ddp keeps a whole model in each (default), '
        'fsdp shards parameters, gradients and optimizer state over the processes',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='multiply the learning rate by (images a step) / '
        '(auto_scale_lr.base_batch_size of the config)',
    )
    parser.add_argument(
        '--no-check',
        dest='check',
        action='store_false',
        help='do not look at the data first (see tools/check_data.py); once it was '
        'found sound, only names, sizes and times of its files are compared',
    )
    return _parse(parser, argv)


def parse_test(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line of tools/test.py.

    Raises:
        UsageError: If the config or the checkpoint is not there.
    """
    parser = _parser(
        'test.py', 'Evaluate a checkpoint on the test data of a config.', TEST_EXAMPLES
    )
    parser.add_argument(
        'checkpoint', help='path, URL or zoo://NAME of the weights of the whole model'
    )
    parser.add_argument(
        '--out', metavar='FILE.pkl', help='write the predictions to a pickle file'
    )
    parser.add_argument(
        '--show-dir',
        metavar='DIR',
        help='draw truth beside prediction of every image into this folder',
    )
    parser.add_argument(
        '--show', action='store_true', help='show the drawings in a window'
    )
    parser.add_argument(
        '--wait-time',
        type=float,
        default=2,
        metavar='SECONDS',
        help='how long --show shows each (default: %(default)s)',
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help="test-time augmentation, the config's tta_model and tta_pipeline or "
        'else horizontal flips',
    )
    parser.add_argument(
        '--optimize',
        action='store_true',
        help='fold constants into weights first: the same results up to rounding, '
        'sooner',
    )
    parser.add_argument(
        '--dtype',
        choices=('fp32', 'bf16'),
        default='fp32',
        help='type that the backbone computes in with --optimize (default: fp32)',
    )
    args = _parse(parser, argv)
    if args.dtype != 'fp32' and not args.optimize:
        raise UsageError(f'--dtype {args.dtype}: goes with --optimize')
    if '://' not in args.checkpoint and not Path(args.checkpoint).is_file():
        raise UsageError(f'{args.checkpoint}: no such checkpoint')
    return args


def parse_check(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line of tools/check_data.py.

    Raises:
        UsageError: If the config is not there, or a number is none.
    """
    parser = _parser(
        'check_data.py',
        'Check the data of a config: paths, classes, annotations, pictures, labels.',
        CHECK_EXAMPLES,
    )
    parser.add_argument(
        '--decode',
        action='store_true',
        help='read every picture whole; without it only headers, files that lack '
        'their end, and up to 1000 pictures of labels',
    )
    parser.add_argument(
        '--workers',
        type=int,
        metavar='N',
        help='threads that read (default: some more than there are cores)',
    )
    parser.add_argument(
        '--anew',
        action='store_true',
        help='look again at what was found sound before (work_dir/data_check.json)',
    )
    args = _parse(parser, argv)
    if args.workers is not None and args.workers < 1:
        raise UsageError(f'--workers {args.workers}: give a number from 1')
    return args


def _parser(name: str, description: str, examples: str) -> argparse.ArgumentParser:
    parser = tool_parser(name, description, examples)
    parser.add_argument('config', help='config file')
    return parser


def _parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
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
        name: The tool's file.
        description: What it does.
        examples: Printed below the options.
    """
    return argparse.ArgumentParser(
        prog=name,
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
