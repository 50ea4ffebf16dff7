"""Changes that last as long as a block of code."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """Set an attribute of an object or module; put the old one back at the end."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode, and every part back in its own afterwards."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Let a Ctrl-C wait for the end of the block.

    For what a KeyboardInterrupt breaks: `torch.save`, whose writer may then end after
    its file and aborts the process; forks, where Python ignores exceptions.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # a Ctrl-C goes to the main thread
        return
    held = []
    before = signal.signal(signal.SIGINT, lambda *_: held.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if held:
            signal.raise_signal(signal.SIGINT)
