#!/usr/bin/env python
"""The command `mmpoolformer plot-curves`."""

import sys

from mmpoolformer.cli import run

if __name__ == '__main__':
    sys.exit(run('plot-curves', sys.argv[1:]))
