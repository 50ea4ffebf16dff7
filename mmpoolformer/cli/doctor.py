"""Say what is installed, what is wrong with it, and the cure."""

import sys
from collections.abc import Sequence

from mmpoolformer import doctor


def main(argv: Sequence[str]) -> None:
    """Print the report; exit with 1 if a problem would stop training."""
    sys.exit(doctor.main(list(argv)))
