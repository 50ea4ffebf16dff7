#!/usr/bin/env python
"""The command `mmpoolformer benchmark`."""

import sys

from mmpoolformer.cli import run

if __name__ == '__main__':
    sys.exit(run('benchmark', sys.argv[1:]))
