"""Standard output without what libraries print of their doings."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TextIO

# Of mmdet and mmseg at import, and of pycocotools and faster-coco-eval, whose table of
# results goes to the log, if there is one.
PRINTS = (
    'Could not import OneDL',
    'loading annotations into memory',
    'Loading and preparing results',
    'creating index',
    'index created',
    'Running per image evaluation',
    'Evaluate annotation type',
    'Accumulating evaluation results',
    'COCOeval_opt.',
    'Done (t=',
    'DONE (t=',
)
SUMMARY = (' Average Precision ', ' Average Recall ')


class FilteredPrints:
    """Standard output without what libraries print of their doings.

    Args:
        stream: Gets the rest.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.dropped = stream, False

    def __getattr__(self, name: str) -> object:
        """Be the stream in all else."""
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write a text, or drop it with the end of its line, which `print` adds."""
        is_end, self.dropped = self.dropped and text == '\n', False
        if is_end:
            return 1
        self.dropped = text.startswith((*PRINTS, *SUMMARY))
        if text.startswith(SUMMARY):
            from mmengine.logging import print_log  # not for --help

            print_log(text, logger='current')
        return len(text) if self.dropped else self.stream.write(text)


@contextmanager
def filtered_prints() -> Iterator[None]:
    """Keep what libraries print of their doings from standard output."""
    with redirect_stdout(FilteredPrints(sys.stdout)):
        yield
