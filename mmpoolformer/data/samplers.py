"""Samplers whose order, and whose pictures' augmentation, depend on seed and epoch."""

from collections.abc import Iterable, Iterator, Sized

from mmengine.dataset import DefaultSampler
from mmengine.dist import get_dist_info, sync_random_seed
from timm.data.distributed_sampler import RepeatAugSampler

from mmpoolformer.registry import DATA_SAMPLERS

Place = tuple[int, int, int, int]


@DATA_SAMPLERS.register_module()
class SeededSampler(DefaultSampler):
    """mmengine's DefaultSampler that also says where in the run each index stands.

    Args:
        dataset: The data set, such as `TimmDataset`.
        shuffle: Whether the order changes with every epoch.
        seed: The run's seed.
        round_up: Whether indices are repeated so that all processes get as many.
        multiple_of: Indices of an epoch and process are cut to a multiple of this, for
            epochs of whole steps; 1 keeps them all.

    Raises:
        ValueError: If no index is left.
    """

    gives_places = True

    def __init__(
        self,
        dataset: Sized,
        shuffle: bool = True,
        seed: int | None = None,
        round_up: bool = True,
        multiple_of: int = 1,
    ) -> None:
        super().__init__(dataset, shuffle, seed, round_up)
        self.num_samples = whole_steps(self.num_samples, multiple_of)

    def __iter__(self) -> Iterator[Place]:
        """Give (index, seed, epoch, place in the epoch) for each picture."""
        return placed(self, super().__iter__())


@DATA_SAMPLERS.register_module()
class RepeatedSampler(RepeatAugSampler):
    """timm's sampler for repeated augmentation (arXiv 1901.09335), as DeiT trains.

    Args:
        dataset: The data set, such as `TimmDataset`.
        num_repeats: How often each picture comes, each time augmented anew; an epoch
            keeps its length, so it sees fewer pictures.
        shuffle: Whether the order changes with every epoch.
        seed: The run's seed; the augmentation depends on it, the order (timm's) on the
            epoch alone.
        multiple_of: See `SeededSampler`.

    Raises:
        ValueError: If no index is left.
    """

    gives_places = True

    def __init__(
        self,
        dataset: Sized,
        num_repeats: int = 3,
        shuffle: bool = True,
        seed: int | None = None,
        multiple_of: int = 1,
    ) -> None:
        rank, world_size = get_dist_info()
        super().__init__(dataset, world_size, rank, shuffle, num_repeats)
        self.world_size = world_size
        self.seed = sync_random_seed() if seed is None else seed
        self.num_selected_samples = whole_steps(self.num_selected_samples, multiple_of)

    def __iter__(self) -> Iterator[Place]:
        """Give (index, seed, epoch, place in the epoch) for each picture."""
        return placed(self, super().__iter__())


def placed(
    sampler: SeededSampler | RepeatedSampler, indices: Iterable[int]
) -> Iterator[Place]:
    """Add to each index of this process its place among those of all processes."""
    for i, index in zip(range(len(sampler)), indices, strict=False):
        place = i * sampler.world_size + sampler.rank
        yield index, sampler.seed, sampler.epoch, place


def whole_steps(samples: int, multiple_of: int) -> int:
    """Return the largest multiple that is not above the number of samples.

    Raises:
        ValueError: If that is 0.
    """
    kept = samples // multiple_of * multiple_of
    if kept == 0:
        raise ValueError(
            f'{samples} pictures for each process are fewer than the {multiple_of} of '
            'one step (batch size x accumulation): make the batch smaller'
        )
    return kept
