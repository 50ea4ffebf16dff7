#!/usr/bin/env python
"""The command `mmpoolformer demo`."""

import sys

from mmpoolformer.cli import run

if __name__ == '__main__':
    sys.exit(run('demo', sys.argv[1:]))
