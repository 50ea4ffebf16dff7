"""What is otherwise while a block runs."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """Give an object or a module another attribute in place of one that it has."""
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
