"""Export a model as a file."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from mmpoolformer.cli.options import (
    MODEL,
    add_checkpoint_option,
    add_config_options,
    add_num_classes_option,
    add_traceback_option,
    add_trust_option,
    add_with_default,
    check_model,
    check_num_classes,
    tool_parser,
    with_entry,
)
from mmpoolformer.utils.errors import UsageError, as_user_error
from mmpoolformer.utils.paths import is_config

DESCRIPTION = """Export a model as a file that runs without this package.

The file is run and compared with the model for several image sizes and batches; if
they differ, no file is written. The ending of --out says the format: .onnx (opset 17,
for ONNX Runtime and others), .xml (OpenVINO, float32, with its weights in a .bin beside
it), .ts (TorchScript) or .pt2 (torch.export, torch 2.6 or newer). Models of timm are
not exported."""

EXAMPLES = """examples:
  a classifier, for images of any size:
    mmpoolformer export poolformer_s12 --checkpoint poolformer_s12.pth.tar \\
        --out poolformer_s12.onnx
  its four maps in place of the logits, with the published weights:
    mmpoolformer export poolformer_s12 --features --out backbone.onnx
  a detector, from images to boxes:
    mmpoolformer export configs/detection/retinanet_poolformer_s12_fpn_1x_coco.py \\
        --checkpoint work_dirs/NAME/epoch_12.pth --out retinanet.onnx
  the same for OpenVINO, as retinanet.xml and retinanet.bin:
    mmpoolformer export configs/detection/retinanet_poolformer_s12_fpn_1x_coco.py \\
        --checkpoint work_dirs/NAME/epoch_12.pth --out retinanet.xml
  a classifier with 8-bit integers, if that loses no more than 0.5 points of top-1:
    mmpoolformer export poolformer_s12 --checkpoint poolformer_s12.pth.tar \\
        --out poolformer_s12.xml --int8 --calibrate data/imagenet/val
  a segmentor for TorchScript, images of 512 x 512 only:
    mmpoolformer export configs/segmentation/fpn_poolformer_s12_ade20k_40k.py \\
        --checkpoint CHECKPOINT --fixed 512 512 --out fpn.ts
  run an ONNX file on a picture without torch:
    python docs/examples/onnx_inference.py retinanet.onnx street.jpg

what a file takes and gives:
  images, float32 (batch, channels, height, width), normalised. Their mean and std
  (for pixels 0 to 255), channel order and class names are in the file, as JSON: in
  ONNX's metadata and OpenVINO's rt_info under mmpoolformer, in .ts and .pt2 an extra
  file, mmpoolformer.json.
    classifier  logits (batch, classes)
    backbone    stage0 to stage3, the maps
    segmentor   logits (batch, classes, h, w) as its head gives them, of a quarter of
                the input's size in Semantic FPN; resized bilinearly (align_corners is
                in the JSON) to the picture, the largest is each pixel's class
    RetinaNet   boxes (batch, N, 4): left, top, right, bottom in pixels of the
                input, scores (batch, N), labels (batch, N). In .onnx and .xml
                these are detections, the rest filled up with score 0 and label -1;
                in .ts and .pt2 they are candidates, which still need the threshold
                and the suppression of overlapping boxes
                (torchvision.ops.batched_nms)
    Mask R-CNN  in .onnx and .xml only: the same, and masks (batch, N, 28, 28), each
                of its box and class, from 0 to 1 over the area of the box

8-bit integers (--int8, the extra [int8]):
  convolutions and matrix products are quantised by NNCF, the rest stays in float32.
  Half of the pictures of --calibrate (at most 256 for classifiers, 64 for others) set
  the ranges, as many others measure: with class folders a classifier's top-1, else how
  far the results agree with those in float32. As long as more than --max-drop is lost,
  attention, the last layers, those before them, the first ones and depthwise
  convolutions go back to float32, one group after the other. For the accuracy on a data
  set test the file itself.
"""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line.

    Raises:
        UsageError: If options contradict each other or files are missing.
    """
    parser = tool_parser('export', DESCRIPTION, EXAMPLES)
    add = parser.add_argument
    add('model', metavar='MODEL_OR_CONFIG', help=MODEL)
    add('--out', required=True, metavar='FILE', help='ends in .onnx, .xml, .ts or .pt2')
    add_checkpoint_option(parser)
    add('--features', action='store_true', help='the backbone alone: images to maps')
    add(
        '--fixed',
        nargs=2,
        type=int,
        metavar=('HEIGHT', 'WIDTH'),
        help='for images of this size only (default: any size)',
    )
    add_num_classes_option(parser)
    add(
        '--int8',
        action='store_true',
        help='quantise an .xml to 8-bit integers, by the pictures of --calibrate',
    )
    add(
        '--calibrate',
        metavar='FOLDER',
        help='pictures such as the model will see; half of them set the ranges of '
        'numbers, the others measure what is lost',
    )
    add(
        '--max-drop',
        type=float,
        metavar='X',
        help='points that int8 may lose: of top-1 where the folder has class folders, '
        "else of agreement with float32's results (default: 0.5)",
    )
    text = (
        'largest difference from the model, relative to the largest value of an output'
    )
    add_with_default(parser, '--tolerance', 1e-3, text, type=float, metavar='X')
    add_config_options(
        parser, 'change settings of the config, such as model.test_cfg.score_thr=0.3'
    )
    add_trust_option(parser)
    add_traceback_option(parser)
    return checked(parser.parse_args(argv))


def checked(args: argparse.Namespace) -> argparse.Namespace:
    """Refuse what can't be exported, before anything is built."""
    if Path(args.out).suffix not in ('.onnx', '.xml', '.ts', '.pt2'):
        raise UsageError(f'--out {args.out}: must end in .onnx, .xml, .ts or .pt2')
    if args.fixed and min(args.fixed) < 1:
        raise UsageError('--fixed: give height and width in pixels')
    if not args.tolerance > 0:
        raise UsageError(f'--tolerance {args.tolerance}: must be above 0')
    if args.int8 and Path(args.out).suffix != '.xml':
        raise UsageError(f'--out {args.out}: with --int8 it must end in .xml')
    if args.int8 != bool(args.calibrate):
        raise UsageError('--int8 and --calibrate FOLDER: give both or none')
    if args.calibrate and not Path(args.calibrate).is_dir():
        raise UsageError(f'--calibrate {args.calibrate}: no such folder')
    if args.max_drop is not None and not (args.int8 and args.max_drop >= 0):
        raise UsageError('--max-drop: a number from 0, with --int8')
    [args.checkpoint] = with_entry([args.checkpoint], args.entry)
    check_model(args.model, args.checkpoint)
    check_num_classes(args.num_classes, [args.checkpoint])
    if is_config(args.model) and args.num_classes is not None:
        raise UsageError('--num-classes: for named models; use --cfg-options')
    if not is_config(args.model) and args.cfg_options:
        raise UsageError('--cfg-options: for config files only')
    return args


def main(argv: Sequence[str]) -> None:
    """Export what the command line says."""
    args = parse(argv)
    # torch: not for --help
    from mmpoolformer.checkpoints.reading import TRUST_VARIABLE
    from mmpoolformer.export import export
    from mmpoolformer.inference.weights import report_random

    if args.trust:
        os.environ[TRUST_VARIABLE] = '1'

    size = args.fixed and tuple(args.fixed)
    int8 = None
    if args.int8:
        drop = {} if args.max_drop is None else {'max_drop': args.max_drop}
        int8 = export.Calibration(args.calibrate, **drop)
    with as_user_error('', (OSError, ValueError, RuntimeError, ImportError)):
        model, info, unfilled = build(args)
        report_random(args.model, unfilled)
        more = ', then quantising it' if int8 else ''
        print(f'exporting {args.model}, then comparing it with the model{more} ...')
        try:
            done = export.export_model(
                model, args.out, size, args.tolerance, info, int8
            )
        except export.ExportError as error:
            print(export.table(error.checks))
            raise
    print(export.table(done.checks))
    if done.quantised:
        print(done.quantised)
    takes = f'images of {size[0]} x {size[1]}' if size else 'images of any size'
    print(f'{done.path}: {export.FORMATS[done.path.suffix]}, {done.kind}, {takes}')


def build(args: argparse.Namespace) -> tuple:
    """Build the model of the command line.

    Returns:
        The model, the entries for its file's description, and which weights are random.
    """
    from mmpoolformer.export.sources import config_model, named_model

    if not is_config(args.model):
        return named_model(
            args.model,
            args.checkpoint,
            args.features,
            args.num_classes,
            args.trust,
        )
    from mmpoolformer.engine.config import load_config

    config = load_config(args.model, ('model',), overrides=args.cfg_options)
    return config_model(config, args.checkpoint, args.features, args.trust)
