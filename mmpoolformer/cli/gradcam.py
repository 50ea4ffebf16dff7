"""Draw class-activation maps."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmpoolformer.cli.options import (
    MODEL,
    add_checkpoint_option,
    add_classes_option,
    add_num_classes_option,
    add_score_option,
    add_size_option,
    add_traceback_option,
    add_trust_option,
    add_with_default,
    check_model,
    check_num_classes,
    image_size,
    tool_parser,
    weights_of_each,
)
from mmpoolformer.utils.errors import UsageError, as_user_error
from mmpoolformer.utils.progress import progress_bar

# Not imported from the package: --help should not wait for torch.
METHODS = (
    'GradCAM',
    'GradCAMPlusPlus',
    'XGradCAM',
    'EigenCAM',
    'LayerCAM',
    'AblationCAM',
    'ScoreCAM',
)

DESCRIPTION = """Show where in a picture a model sees evidence for a class.

Several pictures and models come side by side on one page: classifiers, or detectors
and segmentors, where each box or region found gets a map of its own. Classes, size
and preprocessing of a classifier come from its checkpoint or config. The maps of random
weights show no evidence."""

EXAMPLES = f"""examples:
  two classifiers on two pictures:
    mmpoolformer gradcam cat.jpg dog.jpg --model poolformer_s12 timm/resnet50 \\
        --out cam.png
  another class than the most likely one, by another method:
    mmpoolformer gradcam cat.jpg --model poolformer_s12 \\
        --checkpoint poolformer_s12.pth.tar --class 'tiger cat' --method LayerCAM
  a classifier of your own, with the classes and the preprocessing of its training:
    mmpoolformer gradcam shoe.jpg --model poolformer_s12 --class sandal \\
        --checkpoint work_dirs/mine/epoch_20.pth
  the 4 surest boxes of a detector, a map for each:
    mmpoolformer gradcam street.jpg --top 4 --checkpoint epoch_12.pth \\
        --config configs/detection/retinanet_poolformer_s12_fpn_1x_coco.py

methods:
  {', '.join(METHODS[:5])}
  run a model once; {' and '.join(METHODS[5:])} once for each channel,
  which takes minutes for a classifier and hours for a detector on a CPU. GradCAM
  shows all places that look like what was found, LayerCAM those that it was found by.
  EigenCAM shows the strongest pattern, whatever the class."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line.

    Raises:
        UsageError: If options contradict each other or files are missing.
    """
    parser = tool_parser('gradcam', DESCRIPTION, EXAMPLES)
    add = parser.add_argument
    add('images', nargs='+', metavar='IMAGE', help='picture files')
    add(
        '--model',
        '--config',
        nargs='+',
        action='extend',
        required=True,
        metavar='MODEL_OR_CONFIG',
        help=MODEL,
    )
    add_checkpoint_option(parser, nargs='+')
    add(
        '--method',
        metavar='NAME',
        help='see below (default: GradCAM, and LayerCAM for boxes)',
    )
    add(
        '--class',
        dest='category',
        default='auto',
        metavar='CLASS',
        help='number or name of a class; auto is the most likely one, or the surest '
        'boxes and largest regions (default: %(default)s)',
    )
    add('--layer', help="module to look at, such as stages.2 (default: the model's)")
    add_size_option(parser, "for classifiers (default: the model's own)")
    add_num_classes_option(parser)
    add_score_option(parser)
    text = 'most boxes or regions of a picture'
    add_with_default(parser, '--top', 3, text, type=int, metavar='N')
    add('--out', default='cam.png', metavar='PNG', help='default: %(default)s')
    add_classes_option(parser)
    add_trust_option(parser)
    add_traceback_option(parser)
    return checked(parser.parse_args(argv))


def checked(args: argparse.Namespace) -> argparse.Namespace:
    """Refuse what can't be drawn, before anything is loaded; fill in the weights."""
    args.size = image_size(args.size)
    if args.top < 1:
        raise UsageError(f'--top {args.top}: give a whole number from 1')
    if not 0 <= args.score_thr <= 1:
        raise UsageError(f'--score-thr {args.score_thr}: must be from 0 to 1')
    if Path(args.out).suffix.lower() != '.png':
        raise UsageError(f'--out {args.out}: must end in .png')
    for path in args.images:
        if not Path(path).is_file():
            raise UsageError(f'{path}: no such file')
    args.checkpoint = weights_of_each(args.model, args.checkpoint, args.entry)
    check_num_classes(args.num_classes, args.checkpoint)
    for model, checkpoint in zip(args.model, args.checkpoint, strict=True):
        check_model(model, checkpoint)
    return args


def main(argv: Sequence[str]) -> None:
    """Draw what the command line says."""
    args = parse(argv)
    # torch: not for --help
    from mmpoolformer.analysis import gradcam_pages as pages
    from mmpoolformer.analysis.gradcam import method_named
    from mmpoolformer.visual.drawing import save_picture

    with as_user_error('', (OSError, ValueError)):
        settings = pages.Settings(
            args.method and method_named(args.method),
            None if args.category == 'auto' else args.category,
            args.layer,
            args.score_thr,
            args.top,
        )
        adapters = load_adapters(args)
        with progress_bar(len(args.images) * len(adapters), 'maps') as bar:
            page = pages.page_of(args.images, adapters, settings, bar.update)
        save_picture(page, args.out)
    print(f'{args.out}: {len(args.images)} pictures, {len(adapters)} models')


def load_adapters(args: argparse.Namespace) -> list:
    """Make the models of the command line ready; say which have random weights.

    Raises:
        ValueError: If one does not exist or its weights do not fit.
        UserError: If a config can't be used.
    """
    from mmpoolformer.data.class_names import read_class_names
    from mmpoolformer.inference.adapters import load_adapter
    from mmpoolformer.inference.weights import report_random

    classes = read_class_names(args.classes) if args.classes else ()
    adapters = []
    for model, checkpoint in zip(args.model, args.checkpoint, strict=True):
        adapter = load_adapter(
            model,
            checkpoint,
            args.trust,
            classes,
            size=args.size,
            num_classes=args.num_classes,
            may_be_random=True,
        )
        report_random(adapter.title, adapter.unfilled)
        adapters.append(adapter)
    return adapters
