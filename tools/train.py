#!/usr/bin/env python
"""The command `mmpoolformer train`."""

import sys

from mmpoolformer.cli import run

if __name__ == '__main__':
    sys.exit(run('train', sys.argv[1:]))
