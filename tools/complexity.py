#!/usr/bin/env python
"""The command `mmpoolformer complexity`."""

import sys

from mmpoolformer.cli import run

if __name__ == '__main__':
    sys.exit(run('complexity', sys.argv[1:]))
