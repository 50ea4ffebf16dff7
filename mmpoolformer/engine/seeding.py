"""Random numbers that depend on where a run is, not on how it got there.

A run that stops and resumes can only equal one that never stopped if no state of a
random generator has to survive. So every step of training, and every picture that is
augmented, starts the generators anew from the run's seed and its own place.
"""

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmpoolformer.engine.loops import set_epoch
from mmpoolformer.utils.seeding import start_generators


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
        """Tell the data the epoch; loops over iterations do so by themselves."""
        set_epoch(runner.train_dataloader, runner.epoch)

    def before_train_iter(self, runner: Runner, *_: object, **__: object) -> None:
        """Start the generators for this step and process."""
        start_generators(runner.seed, runner.iter, get_rank())
