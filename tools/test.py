#!/usr/bin/env python
"""Evaluate a checkpoint on a config's test data; see `python tools/test.py --help`."""

import sys
from collections.abc import Sequence

from mmpoolformer.cli.arguments import parse_test
from mmpoolformer.engine.signals import StopRequest, run_stoppable


def main(argv: Sequence[str], stop: StopRequest) -> None:
    """Test as the command line says, until the end or a request to stop."""
    args = parse_test(argv)
    from mmpoolformer.engine.launch import test  # torch: not for --help

    test(args, stop)


if __name__ == '__main__':
    sys.exit(run_stoppable(main, sys.argv[1:]))
