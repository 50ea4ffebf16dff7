"""Random numbers that depend on a place in a run alone."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def start_generators(*place: int) -> None:
    """Start the generators of Python, NumPy and torch (all devices) for a place.

    Args:
        place: Whole numbers from 0 that name the place, such as seed, epoch, index.
    """
    torch.manual_seed(_start_on_cpu(place))


def _start_on_cpu(place: tuple[int, ...]) -> int:
    words = np.random.SeedSequence(place).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.default_generator.manual_seed(int(words[2]))
    return int(words[2])


@contextmanager
def seeded(*place: int) -> Iterator[None]:
    """Run a block with generators started for its place; leave them as they were.

    Those of Python, NumPy and torch on the CPU; a GPU's run on.

    Args:
        place: See `start_generators`; without any the generators run on untouched.
    """
    if not place:
        yield
        return
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    _start_on_cpu(place)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
