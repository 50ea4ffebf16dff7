#!/usr/bin/env python
"""The command `mmpoolformer predict`."""

import sys

from mmpoolformer.cli import run

if __name__ == '__main__':
    sys.exit(run('predict', sys.argv[1:]))
