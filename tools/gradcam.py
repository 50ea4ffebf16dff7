#!/usr/bin/env python
"""The command `mmpoolformer gradcam`."""

import sys

from mmpoolformer.cli import run

if __name__ == '__main__':
    sys.exit(run('gradcam', sys.argv[1:]))
