#!/usr/bin/env python
"""The command `mmpoolformer demo-data`."""

import sys

from mmpoolformer.cli import run

if __name__ == '__main__':
    sys.exit(run('demo-data', sys.argv[1:]))
