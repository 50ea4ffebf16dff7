#!/usr/bin/env python
"""The command `mmpoolformer pretrain-demo`."""

import sys

from mmpoolformer.cli import run

if __name__ == '__main__':
    sys.exit(run('pretrain-demo', sys.argv[1:]))
