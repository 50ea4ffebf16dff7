"""Check the data of a config."""

import argparse
from collections.abc import Sequence

from mmpoolformer.cli.options import config_parser, job_settings, parse_config_command
from mmpoolformer.utils.errors import UsageError

CHECK_EXAMPLES = """examples:
  look at the data of a config, as mmpoolformer train does before it starts:
    mmpoolformer check-data configs/detection/retinanet_poolformer_s12_fpn_1x_coco.py
  read every picture to its last pixel (COCO: some minutes on 16 cores):
    mmpoolformer check-data CONFIG --decode
  another annotation file:
    mmpoolformer check-data CONFIG --cfg-options \\
        train_dataloader.dataset.ann_file=annotations/mine.json

Errors end it with exit code 1; warnings do not.
"""


def main(argv: Sequence[str]) -> None:
    """Check what the command line says."""
    args = parse(argv)
    # torch: not for --help
    from mmpoolformer.data.checks.part import Options
    from mmpoolformer.engine.launch import Job, check

    options = Options(args.decode, args.workers)
    check(Job(**job_settings(args)), options, cached=not args.anew)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line.

    Raises:
        UsageError: If the config is not there, or a number is none.
    """
    parser = config_parser(
        'check-data',
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
        help='check all files again, ignoring the cached results in '
        'WORK_DIR/data_check.json',
    )
    args = parse_config_command(parser, argv)
    if args.workers is not None and args.workers < 1:
        raise UsageError(f'--workers {args.workers}: give a number from 1')
    return args
