"""A console to read: what users need; the log file in the work dir has everything."""

import logging
import os
import sys

from mmengine.logging import MessageHub, MMLogger

from mmpoolformer.engine.runner import ToolRunner
from mmpoolformer.utils.progress import say
from mmpoolformer.utils.text import wrapped

# What these say is for the log file, but for what begins so.
LIBRARIES = ('mmengine', 'mmcv', 'mmdet', 'mmseg')
SHOWN = ('Loaded ', 'resumed epoch', 'LR is set based on')
TABLES = ('per class results', '\n+')  # of a test
# mmengine's lines of figures; a bar stands for them on a terminal.
FIGURES = ('Epoch(train)', 'Iter(train)', 'Epoch(test)', 'Iter(test)')
# Warnings about what every config has.
NOISE = (
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias',
    'The prefix is not set in metric class',
    'Please make sure that the mlflow server is running',  # there may be none
)


class QuietRunner(ToolRunner):
    """`ToolRunner` whose console is for users."""

    def build_logger(self, *arguments: object, **options: object) -> MMLogger:
        """Build mmengine's logger; what is on the console is chosen and wrapped."""
        logger = super().build_logger(*arguments, **options)
        for handler in logger.handlers:
            if type(handler) is logging.StreamHandler:
                handler.addFilter(is_shown)
                handler.setFormatter(ShortFormatter(handler.formatter))
                handler.setStream(AboveBars())
        return logger


class ShortFormatter(logging.Formatter):
    """Messages in lines of 79 columns, without time and place.

    Args:
        full: Formats mmengine's lines of figures, which scripts look for.
    """

    def __init__(self, full: logging.Formatter) -> None:
        super().__init__()
        self.full = full

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        text = record.getMessage()
        if text.startswith(FIGURES) or record.exc_info:
            return self.full.format(record)
        if record.levelno >= logging.WARNING:
            text = f'{record.levelname.lower()}: {text}'
        return text.strip('\n') if '\n' in text else '\n'.join(wrapped(text))


class AboveBars:
    """Standard output, where text does not run into a progress bar."""

    closed = False  # mmengine's MLflow backend asks

    def write(self, text: str) -> None:
        """Write text above the bars."""
        say(text, end='')

    def flush(self) -> None:
        """Write what is held back."""
        sys.stdout.flush()


def has_bars() -> bool:
    """Tell whether progress is a bar here, not lines."""
    return sys.stdout.isatty()


def is_shown(record: logging.LogRecord) -> bool:
    """Tell whether a record of mmengine's logger is for the console."""
    text = record.getMessage()
    if record.levelno >= logging.WARNING:
        return not text.startswith(NOISE)
    if text.startswith(FIGURES):
        return not has_bars()
    if text.startswith(TABLES):
        stage = MessageHub.get_current_instance().runtime_info.get('loop_stage')
        return stage == 'test'
    modules = [sys.modules[name] for name in LIBRARIES if name in sys.modules]
    folders = tuple(os.path.join(os.path.dirname(m.__file__), '') for m in modules)
    return text.startswith(SHOWN) or not record.pathname.startswith(folders)
