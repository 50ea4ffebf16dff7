#!/usr/bin/env python
"""Evaluate a checkpoint on a config's test data; see `python tools/test.py --help`."""

import sys
from collections.abc import Sequence

from mmpoolformer.engine.arguments import parse_test
from mmpoolformer.engine.errors import run_tool


def main(argv: Sequence[str]) -> None:
    """Test as the command line says."""
    args = parse_test(argv)
    from mmpoolformer.engine.launch import test  # torch: not for --help

    test(args)


if __name__ == '__main__':
    sys.exit(run_tool(main, sys.argv[1:]))
