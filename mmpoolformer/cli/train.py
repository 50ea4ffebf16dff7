"""Train the model of a config."""

import argparse
from collections.abc import Sequence

from mmpoolformer.cli.options import (
    add_verbose_option,
    config_parser,
    job_settings,
    parse_config_command,
)
from mmpoolformer.engine.signals import StopRequest

TRAIN_EXAMPLES = """examples:
  train on one GPU, or on the CPU where there is none:
    mmpoolformer train configs/detection/retinanet_poolformer_s12_fpn_1x_coco.py
  go on where the last run in the work dir stopped, if there is one:
    mmpoolformer train CONFIG --resume auto
  from scratch, with two images a step and the learning rate fitted to that:
    mmpoolformer train CONFIG --auto-scale-lr \\
        --cfg-options model.backbone.init_cfg=None train_dataloader.batch_size=2
  with pictures of another size, in training and validation:
    mmpoolformer train CONFIG --size 320 480
  on 8 GPUs (or 2 processes on the CPU):
    tools/dist_train.sh CONFIG 8
  the same with FSDP, if the model does not fit into one GPU's memory:
    tools/dist_train.sh CONFIG 8 --strategy fsdp
On SIGTERM or SIGUSR1 the current iteration is finished, a checkpoint is saved, and
the process exits with code 75.
"""


def main(argv: Sequence[str], stop: StopRequest | None = None) -> None:
    """Train as the command line says, until the end or a request to stop."""
    args = parse(argv)
    # torch: not for --help
    from mmpoolformer.engine.launch import Training, check_training, train

    job = Training(
        **job_settings(args),
        verbose=args.verbose,
        resume=args.resume,
        resume_settings=args.resume_settings,
        amp=args.amp,
        strategy=args.strategy,
        auto_scale_lr=args.auto_scale_lr,
        check=args.check,
        log=args.log,
    )
    if args.check_only:
        check_training(job)
    else:
        train(job, stop)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line.

    Raises:
        UsageError: If the config is not there.
    """
    parser = config_parser(
        'train',
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
        '--resume-settings',
        choices=('checkpoint', 'config'),
        default='checkpoint',
        help='whose learning rate, other optimizer settings and schedules a resumed '
        'run uses where they differ: those of the checkpoint, with a warning for each '
        '(default), or those of the config',
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
        help='scale the learning rate by (total batch size) / '
        '(auto_scale_lr.base_batch_size of the config)',
    )
    checks = parser.add_mutually_exclusive_group()
    checks.add_argument(
        '--no-check',
        dest='check',
        action='store_false',
        help='do not look at the data first (see mmpoolformer check-data); once it was '
        'found sound, only names, sizes and times of its files are compared',
    )
    checks.add_argument(
        '--check-only',
        action='store_true',
        help='look for the config, weights and data, as before a training, and end; '
        'tools/dist_train.sh does so before it starts several processes',
    )
    parser.add_argument(
        '--log',
        nargs='+',
        choices=('tensorboard', 'wandb', 'mlflow'),
        default=(),
        help='send losses and metrics there too (tensorboard gets them anyway where it '
        "is installed, if the config names no backend of the visualizer's)",
    )
    add_verbose_option(parser)
    return parse_config_command(parser, argv)
