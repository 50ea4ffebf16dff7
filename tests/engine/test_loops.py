"""Batches of a training that counts iterations, from wherever it resumes."""

from itertools import chain, cycle, islice

import pytest
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler

from mmpoolformer.engine.loops import PlacedBatches, endless

PICTURES, BATCH = 10, 2


class Stream(IterableDataset):
    """Numbers in an order of their own, without a sampler."""

    def __iter__(self) -> range:
        return iter(range(PICTURES))


def stream() -> DataLoader:
    return DataLoader(Stream(), batch_size=BATCH)


def placed() -> DataLoader:
    numbers = range(PICTURES)
    batches = PlacedBatches(SequentialSampler(numbers), BATCH)
    return DataLoader(numbers, batch_sampler=batches)


@pytest.mark.parametrize('done', [0, 3, 5, 7, 10, 12])
@pytest.mark.parametrize('build', [stream, placed])
def test_a_run_goes_on_after_what_is_done_in_any_epoch(build, done: int) -> None:
    numbers = islice(cycle(range(PICTURES)), BATCH * done, BATCH * (done + 8))
    given = [batch.tolist() for batch in islice(endless(build(), done), 8)]
    assert list(chain(*given)) == list(numbers)


def test_data_without_a_batch_is_refused() -> None:
    loader = DataLoader(Stream(), batch_size=PICTURES + 1, drop_last=True)
    with pytest.raises(ValueError, match='not one whole batch'):
        next(endless(loader, 3))
