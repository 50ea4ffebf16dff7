"""The options of tools that draw the demonstration data first."""

import argparse

from mmpoolformer.data.demo.scenes import DemoSettings
from mmpoolformer.utils.errors import UsageError


def add_demo_options(parser: argparse.ArgumentParser, work_dir: str) -> None:
    """Add where a demonstration keeps its files and what scenes it draws.

    Args:
        parser: The tool's parser.
        work_dir: Default folder of all but the pictures.
    """
    scenes = DemoSettings()

    def add(flag: str, value: object, text: str, **options: object) -> None:
        text = f'{text} (default: %(default)s)'
        parser.add_argument(flag, default=value, help=text, **options)

    add('--data', 'data/demo', 'folder of the pictures', metavar='DIR')
    add('--work-dir', work_dir, 'folder of all else', metavar='DIR')
    add('--train', scenes.train, 'scenes to train on', type=int, metavar='N')
    add('--val', scenes.val, 'scenes held out', type=int, metavar='N')
    add('--size', scenes.size, 'side in pixels', type=int, metavar='N')
    add('--seed', scenes.seed, 'seed of the scenes', type=int, metavar='N')


def demo_settings(args: argparse.Namespace) -> DemoSettings:
    """Return the scenes that `add_demo_options` has asked for.

    Raises:
        UsageError: If a number is out of its range.
    """
    try:
        return DemoSettings(args.train, args.val, args.size, args.seed)
    except ValueError as error:
        raise UsageError(f'--{error}') from error
