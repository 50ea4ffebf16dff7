"""Evaluate classifiers."""

import argparse
from collections.abc import Sequence

from mmpoolformer.cli.options import (
    MODEL,
    add_dtype_option,
    add_image_size_option,
    add_inference_options,
    check_model,
    inference_settings,
    tool_parser,
    with_entry,
)

DESCRIPTION = """Measure top-1, top-5 and loss of a known model on an image folder.

Size, crop and normalisation are those published for the model; for checkpoints of
mmpoolformer train those of the training, for a config those of its test_dataloader. The
folder has one subfolder for each class, or a folder val (or test, ...) that has them.
Folders called like ImageNet's synsets (n01440764) are matched by name, so some of the
1000 will do."""

EXAMPLES = """examples:
  published weights, downloaded:
    mmpoolformer validate --model poolformer_s12 data/imagenet
  a checkpoint of one's own, in the names of any codebase or of mmpoolformer train:
    mmpoolformer validate --model poolformer_s12 \\
        --checkpoint work_dirs/NAME/epoch_300.pth data/mine
  all models that have a file (NAME.pth, NAME.pth.tar, ...) in a folder, to a table:
    mmpoolformer validate --model all --checkpoints weights \\
        --results results.csv data/imagenet
  explain the result in a page: top-1 of each class, confusion, calibration:
    mmpoolformer validate --model poolformer_s12 --report report data/imagenet
  some models; one of timm's, with a file in timm's names:
    mmpoolformer validate --model 'poolformer_*,caformer_s18' data/imagenet
    mmpoolformer validate --model timm/resnet50 --checkpoint r50.pth data/imagenet
"""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line.

    Raises:
        UsageError: If config or checkpoint are not there.
    """
    parser = tool_parser('validate', DESCRIPTION, EXAMPLES)
    parser.add_argument('data', help='folder of pictures, or a tar file')
    parser.add_argument(
        '--model',
        required=True,
        metavar='MODELS',
        help=f"{MODEL}; several, separated by commas; 'all', or patterns such as "
        "'caformer_*'",
    )
    parser.add_argument(
        '--checkpoints', metavar='DIR', help='folder with a file for each model'
    )
    parser.add_argument(
        '--results', metavar='FILE.csv', help='table, written anew after each model'
    )
    parser.add_argument(
        '--report',
        metavar='DIR',
        help='explain the accuracy of one model in DIR/report.html, as `mmpoolformer '
        'test --report` does',
    )
    numbers = parser.add_mutually_exclusive_group()
    add_dtype_option(
        numbers, ('fp32', 'bf16', 'fp16'), 'numbers of weights and pictures'
    )
    numbers.add_argument(
        '--amp',
        action='store_true',
        help='mixed precision: float16 on a GPU, bfloat16 on a CPU',
    )
    add_image_size_option(parser, None, "default: the model's own")
    parser.add_argument(
        '--crop-pct',
        type=float,
        metavar='SHARE',
        help="share of the resized picture that is seen, in place of the model's own",
    )
    add_inference_options(parser, batch_size=64)
    args = parser.parse_args(argv)
    if args.checkpoints:
        [args.checkpoints] = with_entry([args.checkpoints], args.entry)
    else:
        [args.checkpoint] = with_entry([args.checkpoint], args.entry)
    for model in args.model.split(','):
        check_model(model.strip(), args.checkpoint)
    return args


def main(argv: Sequence[str]) -> None:
    """Evaluate what the command line says."""
    args = parse(argv)
    # torch: not for --help
    from mmpoolformer.apps.known_models import Preparation, Settings, validate

    settings = Settings(**inference_settings(args), dtype=args.dtype, amp=args.amp)
    preparation = Preparation(args.image_size, args.crop_pct)
    validate(
        args.model,
        args.data,
        settings,
        args.checkpoints,
        preparation,
        args.results,
        args.report,
    )
