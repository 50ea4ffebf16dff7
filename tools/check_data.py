#!/usr/bin/env python
"""Check the data of a config; see `python tools/check_data.py --help`."""

import sys
from collections.abc import Sequence

from mmpoolformer.cli.arguments import parse_check
from mmpoolformer.utils.errors import run_tool


def main(argv: Sequence[str]) -> None:
    """Check what the command line says."""
    args = parse_check(argv)
    from mmpoolformer.engine.launch import check  # torch: not for --help

    check(args)


if __name__ == '__main__':
    sys.exit(run_tool(main, sys.argv[1:]))
