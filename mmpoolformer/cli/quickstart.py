"""Draw, train, evaluate and look."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmpoolformer.cli.demo_options import add_demo_options, demo_settings
from mmpoolformer.cli.options import (
    add_config_options,
    add_traceback_option,
    resume_hint,
    tool_parser,
)

DESCRIPTION = """\
Train RetinaNet with a PoolFormer-S12 from scratch on generated pictures, evaluate
it on others, and draw predictions and curves: minutes on two CPU cores.

What is done already is skipped, and an interrupted run goes on where it stopped."""
EXAMPLES = """examples:
  the whole way, in data/demo and work_dirs/quickstart:
    mmpoolformer quickstart
  again with other scenes, beside the first:
    mmpoolformer quickstart --seed 1 --data data/demo1 --work-dir work_dirs/demo1
  something to compare: half the training
    mmpoolformer quickstart --work-dir work_dirs/half \\
        --cfg-options train_cfg.max_epochs=2 param_scheduler.1.end=2
"""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = tool_parser('quickstart', DESCRIPTION, EXAMPLES)
    add_demo_options(parser, 'work_dirs/quickstart')
    add_config_options(
        parser, 'change settings of configs/detection/demo_retinanet_poolformer_s12.py'
    )
    add_traceback_option(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """Do what the command line says."""
    args = parse(argv)
    settings = demo_settings(args)
    # torch: not for --help
    from mmpoolformer.apps.quickstart import Quickstart, run_quickstart, summary

    job = Quickstart(Path(args.data), Path(args.work_dir), settings, args.cfg_options)
    with resume_hint():
        metrics = run_quickstart(job)
    print(summary(job, metrics))
