"""Look at what a config feeds its model."""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mmpoolformer.cli.options import (
    add_config_options,
    add_traceback_option,
    add_with_default,
    check_config,
    tool_parser,
)
from mmpoolformer.utils.errors import UsageError, as_user_error
from mmpoolformer.utils.progress import progress_bar

DESCRIPTION = """Draw the pictures that a config's data pipeline gives the model.

They are shown after all augmentation, resizing and padding, with the normalisation
undone, and with the annotation that goes with them: boxes and masks, the class of each
pixel, or the class of the picture. So a wrong path, a shifted box, a lost class or an
augmentation too strong is seen before the training."""

EXAMPLES = """examples:
  16 pictures of the training data on one page:
    mmpoolformer browse-data configs/detection/demo_mask_rcnn_poolformer_s12.py \\
        --out look
  one file for each of 50 pictures of the validation data:
    mmpoolformer browse-data CONFIG --split val --number 50 --single --out look
  of one's own data:
    DATA_ROOT=data/mine mmpoolformer browse-data \\
        configs/segmentation/fpn_poolformer_s12_folder_40k.py --out look

Mixup and CutMix of classification configs mix pictures later, in the model, and are not
shown."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line.

    Raises:
        UsageError: If the config is not there or a number is not one.
    """
    parser = tool_parser('browse-data', DESCRIPTION, EXAMPLES)
    add = parser.add_argument
    add('config', help='config file')
    splits = ('train', 'val', 'test')
    add_with_default(parser, '--split', 'train', 'which data', choices=splits)
    add_number = partial(add_with_default, parser, type=int, metavar='N')
    add_number('--number', 16, 'pictures, drawn at random')
    add('--out', required=True, metavar='DIR', help='folder of the PNG files')
    add('--single', action='store_true', help='a file for each picture, in full size')
    add_number('--columns', 4, 'pictures in a row of the page')
    add_number('--side', 320, 'pixels of the longer side on the page')
    add('--seed', type=int, default=0, help='of choice and augmentation (default: 0)')
    add_config_options(parser, 'change settings of the config')
    add_traceback_option(parser)
    args = parser.parse_args(argv)
    check_config(args.config)
    if min(args.number, args.columns) < 1 or args.side < 32:
        raise UsageError('--number and --columns from 1, --side from 32')
    return args


def main(argv: Sequence[str]) -> None:
    """Draw what the command line says."""
    args = parse(argv)
    from mmpoolformer.analysis import browsing  # torch: not for --help
    from mmpoolformer.engine.config import load_config
    from mmpoolformer.utils.images import limit_formats
    from mmpoolformer.visual.drawing import save_picture

    config = load_config(
        args.config, (f'{args.split}_dataloader',), overrides=args.cfg_options
    )
    limit_formats()
    folder = Path(args.out)
    with as_user_error(args.config):
        data = browsing.open_data(config, args.split)
        number = min(args.number, len(data.dataset))
        pictures = []
        with progress_bar(number, 'pictures') as bar:
            for picture in data.pictures(number, args.seed):
                pictures.append(picture)
                if args.single:
                    name = f'{len(pictures):04d}_{Path(picture.name).stem}.png'
                    save_picture(browsing.draw_fed(picture, data), folder / name)
                    pictures[-1] = None  # of thousands, none is kept in memory
                bar.update()
    if args.single:
        print(f'{folder}: {number} pictures of {len(data.dataset)}')
        return
    title = f'{Path(args.config).stem}, {args.split}: {number} of {len(data.dataset)}'
    path = folder / f'{args.split}.png'
    with as_user_error('', (OSError,)):
        page = browsing.draw_page(pictures, data, title, args.columns, args.side)
        save_picture(page, path)
    print(f'{path}: {number} pictures of {len(data.dataset)}')
