"""`python -m mmpoolformer` is the command `mmpoolformer`."""

import sys

from mmpoolformer.cli import main

sys.exit(main())
