"""Draw the demonstration data."""

import argparse
from collections.abc import Sequence
from functools import partial

from mmpoolformer.cli.demo_options import add_scene_options, demo_settings
from mmpoolformer.cli.options import (
    add_traceback_option,
    add_with_default,
    tool_parser,
)
from mmpoolformer.data.demo import scenes as demo_data
from mmpoolformer.utils.errors import as_user_error

EXAMPLES = """examples:
  what the demo configs train on: 400 scenes and 100 held out, in data/demo:
    mmpoolformer demo-data
  more and larger scenes, beside the others:
    mmpoolformer demo-data --out data/demo512 --train 2000 --size 512
  other scenes in place of those that are there:
    mmpoolformer demo-data --seed 1 --force

layout of the folder:"""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    layout = demo_data.__doc__.split('::\n\n')[1].split('\n\n')[0]
    parser = tool_parser(
        'demo-data',
        'Draw scenes of textured shapes, and write them for detection\n'
        '(COCO), segmentation (ADE20K) and classification (ImageNet).',
        f'{EXAMPLES}\n{layout}',
    )
    add = partial(add_with_default, parser)
    add('--out', 'data/demo', 'folder to make', metavar='DIR')
    add_scene_options(parser)
    add('--workers', None, 'processes; None is one a core', type=int, metavar='N')
    parser.add_argument(
        '--force', action='store_true', help='replace demonstration data that differ'
    )
    add_traceback_option(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """Draw what the command line says."""
    args = parse(argv)
    settings = demo_settings(args)
    with as_user_error('', (OSError, ValueError)):
        drawn = demo_data.make_demo_data(args.out, settings, args.workers, args.force)
    print(f'{args.out}: {"made" if drawn else "is there already, nothing to do"}')
