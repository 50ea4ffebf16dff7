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
    for flag, folder, text in (
        ('--data', 'data/demo', 'folder of the pictures'),
        ('--work-dir', work_dir, 'folder of all else'),
    ):
        text = f'{text} (default: %(default)s)'
        parser.add_argument(flag, default=folder, metavar='DIR', help=text)
    add_scene_options(parser)


def add_scene_options(parser: argparse.ArgumentParser) -> None:
    """Add what scenes are drawn, see `demo_settings`."""
    scenes = DemoSettings()
    for flag, number, text in (
        ('--train', scenes.train, 'scenes to train on'),
        ('--val', scenes.val, 'scenes held out'),
        ('--size', scenes.size, 'side in pixels'),
        ('--seed', scenes.seed, 'same seed, same bytes'),
    ):
        text = f'{text} (default: %(default)s)'
        parser.add_argument(flag, type=int, default=number, metavar='N', help=text)


def demo_settings(args: argparse.Namespace) -> DemoSettings:
    """Return the scenes that `add_scene_options` has asked for.

    Raises:
        UsageError: If a number is out of its range.
    """
    try:
        return DemoSettings(args.train, args.val, args.size, args.seed)
    except ValueError as error:
        raise UsageError(f'--{error}') from error
