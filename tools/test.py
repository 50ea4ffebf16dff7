#!/usr/bin/env python
"""The command `mmpoolformer test`."""

import sys

from mmpoolformer.cli import run

if __name__ == '__main__':
    sys.exit(run('test', sys.argv[1:]))
