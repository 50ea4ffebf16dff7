#!/usr/bin/env python
"""The command `mmpoolformer quickstart`."""

import sys

from mmpoolformer.cli import run

if __name__ == '__main__':
    sys.exit(run('quickstart', sys.argv[1:]))
