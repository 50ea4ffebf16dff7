#!/usr/bin/env python
"""The command `mmpoolformer ablate`."""

import sys

from mmpoolformer.cli import run

if __name__ == '__main__':
    sys.exit(run('ablate', sys.argv[1:]))
