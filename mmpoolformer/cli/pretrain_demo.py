"""Pretrain a classifier, then a detector from it; see `--help`."""

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
Train a PoolFormer-S12 classifier on generated pictures, then RetinaNet twice with
equal seed and steps, from scratch and from the classifier: minutes on two CPU cores.

What is done already is skipped, and an interrupted run goes on where it stopped."""
EXAMPLES = """examples:
  the whole way, in data/demo and work_dirs/pretrain_demo:
    mmpoolformer pretrain-demo
  something to compare: half the pretraining
    mmpoolformer pretrain-demo --work-dir work_dirs/half \\
        --cfg-options train_cfg.max_epochs=4 param_scheduler.t_initial=4
"""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = tool_parser('pretrain-demo', DESCRIPTION, EXAMPLES)
    add_demo_options(parser, 'work_dirs/pretrain_demo')
    add_config_options(
        parser, 'change settings of configs/classification/demo_poolformer_s12.py'
    )
    add_config_options(
        parser,
        'change settings of both detectors, '
        'configs/detection/demo_retinanet_poolformer_s12.py',
        '--detector-options',
    )
    add_traceback_option(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """Do what the command line says."""
    args = parse(argv)
    settings = demo_settings(args)
    # torch: not for --help
    from mmpoolformer.apps.pretrain_demo import PretrainDemo, run_pretrain_demo, summary

    options = (*PretrainDemo.detector_options, *args.detector_options)
    job = PretrainDemo(
        Path(args.data), Path(args.work_dir), settings, args.cfg_options, options
    )
    with resume_hint():
        metrics = run_pretrain_demo(job)
    print(summary(job, metrics))
