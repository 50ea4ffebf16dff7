#!/usr/bin/env python
"""The command `mmpoolformer browse-data`."""

import sys

from mmpoolformer.cli import run

if __name__ == '__main__':
    sys.exit(run('browse-data', sys.argv[1:]))
