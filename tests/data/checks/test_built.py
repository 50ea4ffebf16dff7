"""What a Runner has built: training data that is smaller than a batch."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import DataLoader, TensorDataset

from mmpoolformer.data.checks.built import check_pairs, check_steps
from mmpoolformer.data.samplers import SeededSampler
from mmpoolformer.utils.errors import UserError

SAMPLERS = {'plain': DefaultSampler, 'seeded': SeededSampler}


def loader(count: int, batch_size: int, sampler: type, drop_last: bool) -> DataLoader:
    data = TensorDataset(torch.zeros(count, 1))
    return DataLoader(
        data, batch_size, sampler=sampler(data, seed=0), drop_last=drop_last
    )


@pytest.mark.parametrize('sampler', SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize(
    ('count', 'batch_size', 'most'), [(6, 128, 6), (5, 6, 4), (1, 2, 1)]
)
def test_no_step_is_refused(
    count: int, batch_size: int, most: int, sampler: type
) -> None:
    message = f'{count} pictures .* a batch of {batch_size} .*batch_size to {most} or'
    with pytest.raises(UserError, match=message):
        check_steps(loader(count, batch_size, sampler, drop_last=True))
    check_steps(loader(count, most, sampler, drop_last=True))
    check_steps(loader(count, batch_size, sampler, drop_last=False))


def test_endless_samplers_fill_any_batch() -> None:
    check_steps(loader(2, 8, InfiniteSampler, drop_last=True))


@pytest.mark.parametrize(
    ('pictures', 'fits'), [(7, True), (8, True), (6, False), (10, False)]
)
def test_pairs_are_counted_in_each_process(
    pictures: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda: (1, 2))
    data = range(pictures)
    loader = DataLoader(data, batch_size=4, sampler=DefaultSampler(data, seed=0))
    assert all(len(batch) % 2 == 0 for batch in loader.batch_sampler) == fits
    with nullcontext() if fits else pytest.raises(UserError, match='a batch of'):
        check_pairs(SimpleNamespace(mixup=True), loader)
