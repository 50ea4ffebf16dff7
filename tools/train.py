#!/usr/bin/env python
"""Train the model of a config; see `python tools/train.py --help`."""

import sys
from collections.abc import Sequence

from mmpoolformer.engine.arguments import parse_train
from mmpoolformer.engine.errors import run_tool


def main(argv: Sequence[str]) -> None:
    """Train as the command line says."""
    args = parse_train(argv)
    from mmpoolformer.engine.launch import train  # torch: not for --help

    train(args)


if __name__ == '__main__':
    sys.exit(run_tool(main, sys.argv[1:]))
