"""mmengine's training loops, resumable after any iteration.

mmengine resumes at the start of an epoch, and a loop over iterations by reading
everything that was seen before. Here the sampler skips it, unread, and the random
numbers of every picture depend on its place in the run alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice
from typing import NamedTuple

from mmengine.dist import get_rank
from mmengine.registry import DATA_SAMPLERS as ALL_SAMPLERS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from mmengine.runner.utils import calc_dynamic_intervals
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from mmpoolformer.registry import DATA_SAMPLERS
from mmpoolformer.utils.seeding import seeded

# Batches of the current epoch that are done, in mmengine's message hub.
DONE = 'batches_of_epoch'


class Placed(NamedTuple):
    """An index of a data set with the place of the picture in the run."""

    index: object
    place: tuple[int, ...]


@DATA_SAMPLERS.register_module()
class PlacedBatches(BatchSampler):
    """Batches of any batch sampler, with places, and without those to be skipped.

    Args:
        sampler: Sampler of pictures.
        batch_size: Pictures in a batch.
        drop_last: Whether a last batch that is smaller is left out.
        batch_sampler: Config of a batch sampler over `sampler`; None for torch's.

    Attributes:
        skip: Batches to leave out; counts down as they are.
        seed: The run's seed.
        epoch: The current epoch, counted from 0.
        placed: Whether the data set understands `Placed`.
    """

    def __init__(
        self,
        sampler: Sampler,
        batch_size: int,
        drop_last: bool = False,
        batch_sampler: dict | None = None,
    ) -> None:
        if batch_sampler is None:
            self.batches = BatchSampler(sampler, batch_size, drop_last)
        else:
            self.batches = ALL_SAMPLERS.build(
                batch_sampler,
                default_args=dict(sampler=sampler, batch_size=batch_size),
            )
            drop_last = getattr(self.batches, 'drop_last', drop_last)
        super().__init__(sampler, batch_size, drop_last)
        self.skip = self.seed = self.epoch = 0
        self.placed = False

    def __iter__(self) -> Iterator[list]:
        """Give the indices of each batch, as `Placed` where that is understood."""
        for number, batch in enumerate(self.batches):
            if self.skip:
                self.skip -= 1
                continue
            place = self.seed, self.epoch, number, get_rank()
            yield [
                Placed(index, (*place, i)) if self.placed else index
                for i, index in enumerate(batch)
            ]

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return len(self.batches)

    def set_epoch(self, epoch: int) -> None:
        """Let order and augmentation be those of an epoch."""
        self.epoch = epoch
        if hasattr(self.sampler, 'set_epoch'):
            self.sampler.set_epoch(epoch)


class SeededItems:
    """Reads the pictures of a batch, each with random numbers of its own.

    torch asks a data set that has `__getitems__` for whole batches.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __call__(self, keys: Sequence[Placed]) -> list:
        """Return the pictures."""
        return [self._item(key) for key in keys]

    def _item(self, key: Placed) -> object:
        with seeded(*key.place):
            return self.dataset[key.index]


class EpochLoop(EpochBasedTrainLoop):
    """mmengine's loop over epochs, resumable within one."""

    def run_epoch(self) -> None:
        """Train what is left of an epoch."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        hub = self.runner.message_hub
        done = hub.runtime_info.get(DONE, 0)
        for number, batch in enumerate(rest(self.dataloader, done), start=done):
            hub.update_info(DONE, number + 1)
            self.run_iter(number, batch)
        hub.update_info(DONE, 0)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def count_left(self) -> None:
        """Let the last iteration of a resumed run be the one that ends its epochs.

        With another batch size or number of processes an epoch has another length than
        it had, and the iterations done are not those of as many epochs now.
        """
        epochs = self._max_epochs - self._epoch
        done = self.runner.message_hub.runtime_info.get(DONE, 0)
        left = epochs * len(self.dataloader) - done
        self._max_iters = self._iter + max(left, 0)

    def is_validation_due(self) -> bool:
        """Tell whether a validation belongs to where the run is."""
        self._decide_current_val_interval()
        is_between = not self.runner.message_hub.runtime_info.get(DONE, 0)
        is_last = self._epoch == self._max_epochs
        is_time = is_last or self._epoch % self.val_interval == 0
        return is_between and self._epoch >= self.val_begin and is_time


class IterLoop(IterBasedTrainLoop):
    """mmengine's loop over iterations, resumable without reading what was seen.

    The arguments are those of mmengine's.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict,
        max_iters: int,
        val_begin: int = 1,
        val_interval: int = 1000,
        dynamic_intervals: list[tuple[int, int]] | None = None,
    ) -> None:
        # Not the parent's, which starts the data loader before a run is resumed.
        BaseLoop.__init__(self, runner, dataloader)
        if max_iters != int(max_iters):
            raise ValueError(f'max_iters={max_iters!r}: must be a whole number')
        self._max_iters, self._max_epochs = int(max_iters), 1
        self._iter = self._epoch = 0
        self.val_begin, self.val_interval = val_begin, val_interval
        self.stop_training = False
        runner.visualizer.dataset_meta = getattr(
            self.dataloader.dataset, 'metainfo', None
        )
        self.dynamic_milestones, self.dynamic_intervals = calc_dynamic_intervals(
            val_interval, dynamic_intervals
        )

    def run(self) -> None:
        """Train from where the run is to its end."""
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        batches = endless(self.dataloader, self._iter)
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(batches))
            if self.runner.val_loop is not None and self.is_validation_due():
                self.runner.val_loop.run()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')

    def is_validation_due(self) -> bool:
        """Tell whether a validation belongs to where the run is."""
        self._decide_current_val_interval()
        is_last = self._iter == self._max_iters
        is_time = is_last or self._iter % self.val_interval == 0
        return self._iter >= self.val_begin and is_time


# What configs call mmengine's loops.
LOOPS = {
    'EpochBasedTrainLoop': EpochLoop,
    'mmengine.EpochBasedTrainLoop': EpochLoop,
    EpochBasedTrainLoop: EpochLoop,
    'IterBasedTrainLoop': IterLoop,
    'mmengine.IterBasedTrainLoop': IterLoop,
    IterBasedTrainLoop: IterLoop,
}


def resumable_loop(loop: dict) -> dict:
    """Return a training loop's config with our class in place of mmengine's."""
    loop = dict(loop)
    if 'type' not in loop and 'by_epoch' in loop:
        loop['type'] = EpochLoop if loop.pop('by_epoch') else IterLoop
    elif loop.get('type') in LOOPS:
        loop['type'] = LOOPS[loop['type']]
    return loop


def placed_loader(loader: dict) -> dict:
    """Return a training data loader's config with `PlacedBatches`.

    One without a sampler, for data that comes in an order of its own, stays as it is.
    """
    if not isinstance(loader, dict) or not isinstance(loader.get('sampler'), dict):
        return loader
    loader = dict(loader)
    loader['batch_sampler'] = dict(
        type=PlacedBatches,
        drop_last=loader.pop('drop_last', False),
        batch_sampler=loader.get('batch_sampler'),
    )
    return loader


def seed_items(loader: DataLoader) -> None:
    """Let a data loader's pictures be drawn from their places, where it can be done.

    Not for data sets that read whole batches by themselves, and not for samplers that
    give places of their own (those of `mmpoolformer.classification`).
    """
    batches, dataset = loader.batch_sampler, loader.dataset
    has_own = getattr(batches.sampler, 'gives_places', False)
    if isinstance(batches, PlacedBatches) and not has_own:
        batches.placed = not hasattr(dataset, '__getitems__')
    if getattr(batches, 'placed', False):
        dataset.__getitems__ = SeededItems(dataset)


def rest(loader: DataLoader, done: int) -> Iterable:
    """Give an epoch's batches after those that are done, which are not read.

    But for data that comes in an order of its own: there they are read and dropped.
    """
    if isinstance(loader.batch_sampler, PlacedBatches):
        loader.batch_sampler.skip = done
        return loader
    return islice(loader, done, None)


def endless(loader: DataLoader, done: int) -> Iterator:
    """Give batches, epoch after epoch, after those that are done, as `rest` does.

    Raises:
        ValueError: If there is no batch in an epoch.
    """
    batches = loader.batch_sampler
    is_placed = isinstance(batches, PlacedBatches)
    for epoch in count():
        set_epoch(loader, epoch)
        if is_placed:
            batches.skip = done
        length = 0  # of the epoch
        for batch in loader:
            length += 1
            if is_placed or length > done:
                yield batch
        if is_placed:
            length += done - batches.skip
        if not length:
            raise ValueError('the training data has not one whole batch')
        done = max(done - length, 0)


def set_epoch(loader: DataLoader, epoch: int) -> None:
    """Tell the epoch to the batches, and to data that orders itself."""
    for part in (loader.batch_sampler, loader.dataset):
        if hasattr(part, 'set_epoch'):
            part.set_epoch(epoch)


def end_readers(loop: BaseLoop | dict | None) -> None:
    """End the processes that a loop's data loader has kept for another epoch.

    Left to garbage collection they would take 5 seconds each: it closes their queues
    before it asks them to end. Nothing is done for a loop that was not built.
    """
    if isinstance(loop, BaseLoop):
        loop.dataloader._iterator = None
