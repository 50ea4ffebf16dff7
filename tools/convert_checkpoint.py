#!/usr/bin/env python
"""The command `mmpoolformer convert`."""

import sys

from mmpoolformer.cli import run

if __name__ == '__main__':
    sys.exit(run('convert', sys.argv[1:]))
