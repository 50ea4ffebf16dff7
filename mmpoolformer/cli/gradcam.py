"""Draw class-activation maps."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmpoolformer.cli.options import add_traceback_option, add_trust_option, tool_parser
from mmpoolformer.utils.errors import UsageError, blame
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
RANDOM = 'random'

DESCRIPTION = """Show where in a picture a model sees evidence for a class.

Several pictures and models come side by side on one page: classifiers by name
(--model), or detectors and segmentors by config (--config), where each box or
region found gets a map of its own. Nothing is downloaded that is not asked for:
without --checkpoint weights are random, and the maps show nothing but that."""

EXAMPLES = (
    """examples:
  two classifiers on two pictures:
    python tools/gradcam.py cat.jpg dog.jpg --model poolformer_s12 resnet50 \\
        --checkpoint zoo://poolformer_s12 timm://resnet50.a1_in1k --out cam.png
  another class than the most likely one, by another method:
    python tools/gradcam.py cat.jpg --model poolformer_s12 \\
        --checkpoint poolformer_s12.pth.tar --class 'tiger cat' --method LayerCAM
  a classifier of your own, with the classes and the preprocessing of its training:
    python tools/gradcam.py shoe.jpg --model poolformer_s12 --class sandal \\
        --checkpoint work_dirs/mine/epoch_20.pth
  the 4 surest boxes of a detector, a map for each:
    python tools/gradcam.py street.jpg --top 4 --checkpoint epoch_12.pth \\
        --config configs/detection/retinanet_poolformer_s12_fpn_1x_coco.py

methods:
  """
    + ', '.join(METHODS[:5])
    + """
  run a model once; """
    + ' and '.join(METHODS[5:])
    + """ once for each channel,
  which takes minutes for a classifier and hours for a detector on a CPU. GradCAM
  shows all places that look like what was found, LayerCAM those that it was found by.
  EigenCAM shows the strongest pattern, whatever the class."""
)


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
        nargs='+',
        metavar='NAME',
        help="classifiers: names of mmpoolformer.list_models() or timm's",
    )
    add('--config', nargs='+', metavar='FILE', help='configs of detectors, segmentors')
    add(
        '--checkpoint',
        nargs='+',
        metavar='WEIGHTS',
        help='weights of each model or config, in order: path, URL, zoo://NAME, '
        f'timm://NAME or {RANDOM}',
    )
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
    add(
        '--size',
        nargs='+',
        type=int,
        metavar='N',
        help='height and width for --model, or one number for both',
    )
    add(
        '--num-classes',
        type=int,
        metavar='N',
        help="classes of --model with random weights (default: 1000); a checkpoint's "
        'are its own',
    )
    add(
        '--score-thr',
        type=float,
        default=0.3,
        metavar='P',
        help='score threshold of boxes (default: %(default)s)',
    )
    add(
        '--top',
        type=int,
        default=3,
        metavar='N',
        help='most boxes or regions for --config (default: %(default)s)',
    )
    add('--out', default='cam.png', metavar='PNG', help='default: %(default)s')
    add_trust_option(parser)
    add_traceback_option(parser)
    return checked(parser.parse_args(argv))


def checked(args: argparse.Namespace) -> argparse.Namespace:
    """Refuse what can't be drawn, before anything is loaded; fill in the weights."""
    if bool(args.model) == bool(args.config):
        raise UsageError('give either --model or --config')
    if args.size and (not args.model or len(args.size) > 2 or min(args.size) < 1):
        raise UsageError('--size: give height and width in pixels, for --model')
    if args.top < 1 or (args.num_classes is not None and args.num_classes < 1):
        raise UsageError('--top and --num-classes: give a whole number from 1')
    if not 0 <= args.score_thr <= 1:
        raise UsageError(f'--score-thr {args.score_thr}: must be from 0 to 1')
    if Path(args.out).suffix.lower() != '.png':
        raise UsageError(f'--out {args.out}: must end in .png')
    names = args.model or args.config
    for path in (*args.images, *(args.config or ())):
        if not Path(path).is_file():
            raise UsageError(f'{path}: no such file')
    args.checkpoint = args.checkpoint or [RANDOM] * len(names)
    if len(args.checkpoint) != len(names):
        raise UsageError(
            f'--checkpoint: {len(args.checkpoint)} weights for {len(names)} models; '
            f'give one each, or {RANDOM}'
        )
    return args


def main(argv: Sequence[str]) -> None:
    """Draw what the command line says."""
    args = parse(argv)
    # torch: not for --help
    from mmpoolformer.analysis import gradcam_pages as pages
    from mmpoolformer.analysis.gradcam import method_named
    from mmpoolformer.visual.drawing import save_picture

    with blame('', (OSError, ValueError)):
        settings = pages.Settings(
            args.method and method_named(args.method),
            None if args.category == 'auto' else args.category,
            args.layer,
            args.score_thr,
            args.top,
        )
        pictures = [pages.read_picture(path) for path in args.images]
        models = load_models(args)
        draw = pages.classification_page if args.model else pages.config_page
        with progress_bar(len(pictures) * len(models), 'maps') as bar:
            page = draw(pictures, models, settings, bar.update)
        save_picture(page, args.out)
    print(f'{args.out}: {len(pictures)} pictures, {len(models)} models')


def load_models(args: argparse.Namespace) -> list:
    """Make the models of the command line ready; say which have random weights.

    Raises:
        UserError: If one does not exist or its weights do not fit.
    """
    from mmpoolformer.analysis import gradcam_pages as pages
    from mmpoolformer.inference.openmmlab import load_openmmlab

    size = args.size and tuple((args.size * 2)[:2])
    models = []
    for name, weights in zip(args.model or args.config, args.checkpoint, strict=True):
        given = None if weights == RANDOM else weights
        if given is None:
            print(
                f'note: {name} has random weights, so its maps show no evidence; '
                'give --checkpoint',
                file=sys.stderr,
            )
        if args.model:
            models.append(
                pages.load_classifier(
                    name, given, args.num_classes, size, args.trust_checkpoint
                )
            )
        else:
            models.append(
                load_openmmlab(read_config(name), given, args.trust_checkpoint)
            )
    return models


def read_config(path: str) -> 'Config':  # noqa: F821 (imported late)
    """Read a config file.

    Raises:
        UserError: If it is none, or lacks what pictures need.
    """
    from mmpoolformer.engine.config import load_config

    return load_config(path, ('model', 'test_dataloader'))
