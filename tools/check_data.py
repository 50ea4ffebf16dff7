#!/usr/bin/env python
"""The command `mmpoolformer check-data`."""

import sys

from mmpoolformer.cli import run

if __name__ == '__main__':
    sys.exit(run('check-data', sys.argv[1:]))
