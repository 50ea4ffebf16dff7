#!/usr/bin/env python
"""The command `mmpoolformer infer`."""

import sys

from mmpoolformer.cli import run

if __name__ == '__main__':
    sys.exit(run('infer', sys.argv[1:]))
