#!/usr/bin/env python
"""The command `mmpoolformer validate`."""

import sys

from mmpoolformer.cli import run

if __name__ == '__main__':
    sys.exit(run('validate', sys.argv[1:]))
