"""Output without what libraries print of their doings, and needless warnings."""

import sys
import warnings
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
# Warnings, mostly of mmdet and mmseg.
NOISE = (
    'faster_coco_eval is not installed',
    'Default ``avg_non_ignore`` is False',
    'The draw is False',
    '`reduce_zero_label` will be deprecated',
    'The shape of value will convert from',
    '``build_loss`` would be deprecated',
    'Detected call of `scheduler.step',  # true of every accumulation of gradients
    'Setting OMP_NUM_THREADS environment variable',
    'Setting MKL_NUM_THREADS environment variable',
    "'pin_memory' argument is set as true but no accelerator",
)


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


def ignore_noise() -> None:
    """Ignore warnings about what every config has or nobody asked for."""
    for message in NOISE:
        warnings.filterwarnings('ignore', message)
