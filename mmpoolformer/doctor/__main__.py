"""`python -m mmpoolformer.doctor`."""

import sys

from mmpoolformer.doctor import main

sys.exit(main())
