"""Run PoolFormer-S12's ablation study."""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mmpoolformer.cli.options import (
    add_config_options,
    add_image_size_option,
    add_traceback_option,
    add_with_default,
    resume_hint,
    tool_parser,
)

DESCRIPTION = """\
Train the rows of PoolFormer-S12's ablation study on an image folder, all with the
same data, seed and schedule, and write one table (CSV, JSON and PNG) of accuracy,
parameters, MACs and throughput.

What is done already is skipped, and an interrupted run goes on where it stopped."""
EXAMPLES = """examples:
  some rows in minutes on a CPU, on the generated pictures:
    mmpoolformer demo-data
    mmpoolformer ablate data/demo/classification --epochs 2 --image-size 64 \\
        --batch-size 16 --rows poolformer_s12 mixer_identity hybrid_ppaa \\
        --cfg-options optim_wrapper.optimizer.lr=5e-4 model.mixup=None
  all of them as published, on ImageNet:
    mmpoolformer ablate data/imagenet
  what rows there are:
    mmpoolformer ablate --list
"""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = tool_parser('ablate', DESCRIPTION, EXAMPLES)

    add = partial(add_with_default, parser)
    parser.add_argument('data', nargs='?', help='image folder with train and val')
    add('--work-dir', 'work_dirs/ablation', 'folder of all results', metavar='DIR')
    add('--epochs', 300, 'epochs of each row', type=int, metavar='N')
    add_image_size_option(parser, 224, 'default: %(default)s')
    add('--batch-size', 128, 'pictures in an iteration', type=int, metavar='N')
    parser.add_argument('--rows', nargs='+', metavar='ROW', help='default: all')
    parser.add_argument('--list', action='store_true', help='list the rows and end')
    add_config_options(
        parser, 'change settings of configs/classification/ablation_poolformer_s12.py'
    )
    add_traceback_option(parser)
    args = parser.parse_args(argv)
    if not args.data and not args.list:
        parser.error('name an image folder, or --list')
    return args


def main(argv: Sequence[str]) -> None:
    """Do what the command line says."""
    args = parse(argv)
    # torch: not for --help
    from mmpoolformer.apps.ablation import ROWS, Ablation, run_ablation, table

    if args.list:
        for name, row in ROWS.items():
            print(f'{name:<16} {dict(row.changes)}')
        return
    job = Ablation(
        Path(args.data),
        Path(args.work_dir),
        tuple(args.rows or ROWS),
        args.epochs,
        args.image_size,
        args.batch_size,
        args.cfg_options,
    )
    with resume_hint():
        results = run_ablation(job)
    print(table(results))
    print(f'table: {job.work_dir / "ablation.csv"}, ablation.png')
