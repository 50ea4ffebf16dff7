#!/usr/bin/env python
"""The command `mmpoolformer export`."""

import sys

from mmpoolformer.cli import run

if __name__ == '__main__':
    sys.exit(run('export', sys.argv[1:]))
