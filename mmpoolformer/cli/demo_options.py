"""The options of tools that draw the demonstration data first."""

import argparse
from functools import partial

from mmpoolformer.cli.options import add_with_default
from mmpoolformer.data.demo.scenes import DemoSettings
from mmpoolformer.utils.errors import UsageError


def add_demo_options(parser: argparse.ArgumentParser, work_dir: str) -> None:
    """Add where a demonstration keeps its files and what scenes it draws.

    Args:
        parser: The tool's parser.
        work_dir: Default folder of all but the pictures.
    """
    add = partial(add_with_default, parser, metavar='DIR')
    add('--data', 'data/demo', 'folder of the pictures')
    add('--work-dir', work_dir, 'folder of all else')
    add_scene_options(parser)


def add_scene_options(parser: argparse.ArgumentParser) -> None:
    """Add what scenes are drawn, see `demo_settings`."""
    scenes = DemoSettings()
    add = partial(add_with_default, parser, type=int, metavar='N')
    add('--train', scenes.train, 'scenes to train on')
    add('--val', scenes.val, 'scenes held out')
    add('--size', scenes.size, 'side in pixels')
    add('--seed', scenes.seed, 'same seed, same bytes')


def demo_settings(args: argparse.Namespace) -> DemoSettings:
    """Return the scenes that `add_scene_options` has asked for.

    Raises:
        UsageError: If a number is out of its range.
    """
    try:
        return DemoSettings(args.train, args.val, args.size, args.seed)
    except ValueError as error:
        raise UsageError(f'--{error}') from error
