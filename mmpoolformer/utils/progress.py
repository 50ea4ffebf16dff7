"""One look for every progress bar."""

import sys
from typing import TextIO

from tqdm import tqdm

WIDTH = 79
LAYOUT = '{desc} {bar} {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]'
# How often a bar is drawn anew, in seconds: on a screen, and in a file, where each
# time adds a line.
SCREEN_INTERVAL, FILE_INTERVAL = 0.1, 10


def progress_bar(
    total: int,
    text: str,
    done: int = 0,
    shown: bool = True,
    file: TextIO | None = None,
    layout: str = LAYOUT,
    leave: bool = True,
) -> tqdm:
    """Return a bar that fits 80 columns.

    Args:
        total: Number of steps.
        text: What is being done.
        done: Steps done already, by an earlier run.
        shown: Whether it is drawn at all.
        file: Where it is drawn, by default stderr.
        layout: What it shows, in tqdm's `bar_format`.
        leave: Whether it stays on the screen when it is closed.
    """
    file = file or sys.stderr
    interval = SCREEN_INTERVAL if file.isatty() else FILE_INTERVAL
    return tqdm(
        total=total,
        desc=text,
        initial=done,
        file=file,
        ncols=WIDTH,
        mininterval=interval,
        maxinterval=max(interval, 10),
        disable=not shown,
        bar_format=layout,
        leave=leave,
    )


def say(text: str, end: str = '\n') -> None:
    """Print text at once, above the bars.

    Args:
        text: The text.
        end: What follows it.
    """
    tqdm.write(text, end=end)
    sys.stdout.flush()
