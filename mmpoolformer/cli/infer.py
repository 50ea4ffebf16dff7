"""Run a model on pictures and videos."""

import argparse
from collections.abc import Sequence
from dataclasses import fields

from mmpoolformer.cli.options import (
    MODEL,
    add_batch_size_option,
    add_checkpoint_option,
    add_classes_option,
    add_device_option,
    add_dtype_option,
    add_score_option,
    add_topk_option,
    add_traceback_option,
    add_trust_option,
    check_model,
    tool_parser,
    with_entry,
)

DESCRIPTION = """Run a detector, segmentor or classifier on pictures and videos.

What it sees is drawn, and written as other programs read it. Class names are those in
the checkpoint, or else those of the config."""

EXAMPLES = """examples:
  a detector on a folder and all below it:
    mmpoolformer infer configs/detection/retinanet_poolformer_s12_fpn_1x_coco.py \\
        work_dirs/NAME/epoch_12.pth photos --out found
  on some files, a pattern (quoted) and a video, surer boxes only:
    mmpoolformer infer CONFIG CHECKPOINT a.jpg 'b/**/*.png' street.mp4 \\
        --out found --score-thr 0.5
  a file of mmpoolformer export in place of the checkpoint, by ONNX Runtime:
    mmpoolformer infer CONFIG model.onnx photos --out found
  every box, for pycocotools: COCO('val.json').loadRes('found/predictions.json')
    mmpoolformer infer CONFIG CHECKPOINT photos --out found --score-thr 0 \\
        --ids val.json
  faster, where the CPU or GPU computes bfloat16:
    mmpoolformer infer CONFIG CHECKPOINT photos --out found --dtype bf16
  a classifier by name, with a file of weights, and with the published ones:
    mmpoolformer infer poolformer_s12 poolformer_s12.pth.tar photos --out classes
    mmpoolformer infer poolformer_s12 photos --out classes

results in the folder of --out:
  pictures/NAME.jpg   the pictures with what was found; videos/NAME.mp4 likewise
  predictions.json    detectors: COCO's list of results (masks run-length encoded),
  images.json         and what its ids mean; pycocotools reads them by
                      COCO('images.json').loadRes('predictions.json')
  masks/NAME.png      segmentors: the number of the class, from 0, in each pixel, with
  classes.csv         the classes' colours as palette, and what the numbers mean
  predictions.csv     classifiers: the likeliest classes with their probabilities
Frames of videos are called NAME.mp4#000000, their masks masks/NAME/000000.png. Of
inputs with the same name the later ones get a number: NAME_2.

What can not be read is named and skipped; the exit code is then 1, with the results of
all others in place. Of a video that is cut short the frames until there are kept. If
nothing at all can be read, nothing is written."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line.

    Raises:
        UsageError: If config or checkpoint are not there.
    """
    parser = tool_parser('infer', DESCRIPTION, EXAMPLES)
    add = parser.add_argument
    add('model', metavar='MODEL_OR_CONFIG', help=MODEL)
    add(
        'weights',
        nargs='?',
        metavar='CKPT',
        help='stands for --checkpoint where that is not given and several words follow '
        'the model',
    )
    add(
        'inputs',
        nargs='+',
        metavar='INPUT',
        help='pictures, videos, folders and patterns',
    )
    add('--out', required=True, metavar='DIR', help='folder of the results, new')
    add_score_option(parser)
    add_topk_option(parser)
    add(
        '--ids',
        metavar='ANNOTATIONS.json',
        help="give the results of a detector this COCO file's ids of images, found by "
        'their file names, and of classes',
    )
    add_batch_size_option(parser, default=1)
    add_device_option(parser)
    add_dtype_option(
        parser,
        ('fp32', 'bf16'),
        'type that the model computes in; heads for which bfloat16 is not known to be '
        "safe keep fp32, and of exported files only OpenVINO's can compute in it",
    )
    add('--force', action='store_true', help='write into a folder that is not empty')
    add_checkpoint_option(parser)
    add_classes_option(parser)
    add_trust_option(parser)
    add_traceback_option(parser)
    # Intermixed: options may stand before an optional word, too.
    args = parser.parse_intermixed_args(argv)
    if args.checkpoint is None:
        args.checkpoint = args.weights
    elif args.weights is not None:
        args.inputs.insert(0, args.weights)
    [args.checkpoint] = with_entry([args.checkpoint], args.entry)
    check_model(args.model, args.checkpoint)
    return args


def main(argv: Sequence[str]) -> None:
    """Run the model of the command line."""
    args = parse(argv)
    from mmpoolformer.apps.infer import Inference, infer  # torch: not for --help

    # The fields of a job are called like the options.
    names = [field.name for field in fields(Inference)]
    infer(Inference(**{name: getattr(args, name) for name in names}))
