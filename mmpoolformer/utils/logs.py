"""Lines in the log of a run."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.logging import MMLogger, print_log


def warn(text: str) -> None:
    """Write a warning to the log of the run; without a run it goes to the console."""
    print_log(text, logger='current', level=logging.WARNING)


@contextmanager
def warnings_alone() -> Iterator[None]:
    """Drop mmengine's notes while the block runs."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(level)
