"""Random numbers that depend on where a run is, not on how it got there.

A run that stops and resumes can only equal one that never stopped if no state of a
random generator has to survive. So every step of training, and every picture that is
augmented, starts the generators anew from the run's seed and its own place.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner


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


class SeedSteps(Hook):
    """Start the generators before each training step; tell the data seed and epoch.

    A resumed run takes its seed from the checkpoint, after the data loader was built
    with another one; so the sampler's seed is set again.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Give the run's seed to the samplers of the training data."""
        loader = runner.train_dataloader
        batches = loader.batch_sampler
        for sampler in (loader.sampler, batches, getattr(batches, 'sampler', None)):
            if hasattr(sampler, 'seed'):
                sampler.seed = runner.seed

    def before_train_epoch(self, runner: Runner) -> None:
        """Tell the epoch to the batches, and to data that orders itself."""
        loader = runner.train_dataloader
        for part in (loader.batch_sampler, loader.dataset):
            if hasattr(part, 'set_epoch'):
                part.set_epoch(runner.epoch)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Start the generators for this step and process."""
        start_generators(runner.seed, runner.iter, get_rank())
