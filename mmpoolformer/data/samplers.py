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
    """

    gives_places = True

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
    """

    gives_places = True

    def __init__(
        self,
        dataset: Sized,
        num_repeats: int = 3,
        shuffle: bool = True,
        seed: int | None = None,
    ) -> None:
        rank, world_size = get_dist_info()
        super().__init__(dataset, world_size, rank, shuffle, num_repeats)
        self.world_size = world_size
        self.seed = sync_random_seed() if seed is None else seed

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
