"""Batches of a training that counts iterations, from wherever it resumes."""

from collections.abc import Iterator
from itertools import islice

import pytest
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler

from mmpoolformer.engine.loops import PlacedBatches, endless

PICTURES, BATCH = 10, 2


class Stream(IterableDataset):
    """Numbers in an order of their own, without a sampler; others in each epoch."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        start = PICTURES * self.epoch
        return iter(range(start, start + PICTURES))


def stream() -> DataLoader:
    return DataLoader(Stream(), batch_size=BATCH)


def placed() -> DataLoader:
    numbers = range(PICTURES)
    batches = PlacedBatches(SequentialSampler(numbers), BATCH)
    return DataLoader(numbers, batch_sampler=batches)


def given(loader: DataLoader, done: int) -> list[int]:
    batches = islice(endless(loader, done), 8)
    return [number for batch in batches for number in batch.tolist()]


@pytest.mark.parametrize('done', [0, 3, 5, 7, 10, 12])
def test_a_run_goes_on_after_what_is_done_in_any_epoch(done: int) -> None:
    numbers = range(BATCH * done, BATCH * (done + 8))
    assert given(stream(), done) == list(numbers)
    assert given(placed(), done) == [number % PICTURES for number in numbers]


def test_data_without_a_batch_is_refused() -> None:
    loader = DataLoader(Stream(), batch_size=PICTURES + 1, drop_last=True)
    with pytest.raises(ValueError, match='not one whole batch'):
        next(endless(loader, 3))
