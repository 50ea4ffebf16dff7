"""Lines in the log of a run."""

import logging

from mmengine.logging import print_log


def warn(text: str) -> None:
    """Write a warning to the log of the run; without a run it goes to the console."""
    print_log(text, logger='current', level=logging.WARNING)
