#!/usr/bin/env python
"""Train the model of a config; see `python tools/train.py --help`."""

import sys
from collections.abc import Sequence

from mmpoolformer.cli.arguments import parse_train
from mmpoolformer.engine.signals import StopRequest, run_stoppable


def main(argv: Sequence[str], stop: StopRequest) -> None:
    """Train as the command line says, until the end or a request to stop."""
    args = parse_train(argv)
    from mmpoolformer.engine.launch import train  # torch: not for --help

    train(args, stop)


if __name__ == '__main__':
    sys.exit(run_stoppable(main, sys.argv[1:]))
