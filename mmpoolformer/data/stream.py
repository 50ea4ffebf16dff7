"""Pictures that come one after another: webdataset, TFDS, Hugging Face streaming."""

from collections.abc import Iterator
from multiprocessing import Value

from mmengine.dist import get_rank, get_world_size
from timm.data import create_dataset, create_transform
from torch.utils.data import IterableDataset, get_worker_info

from mmpoolformer.registry import DATASETS
from mmpoolformer.utils.images import convert_picture
from mmpoolformer.utils.seeding import seeded


@DATASETS.register_module()
class TimmStream(IterableDataset):
    """Pictures with class labels in the forms that timm can't read by index.

    In a config, with `sampler=None` and without shuffling (the reader shuffles):
    `train_dataloader=dict(sampler=None, dataset=dict(type='mmpoolformer.TimmStream',
    name='tfds/imagenet2012', split='train', batch_size=128, num_workers=8, ...))`.
    Items are those of `TimmDataset`. The order is the reader's own, so a resumed run
    starts an epoch anew but need not see it in the same order; use `TimmDataset` where
    a run has to be repeated to the last bit.

    Args:
        name: timm's name, starting with `wds/`, `tfds/` or `hfids/`.
        root: Folder of the data, or where downloads go.
        split: The reader's name of the part.
        transform: Options of `timm.data.create_transform`.
        batch_size: The data loader's, from which readers work out shares.
        num_workers: The data loader's, likewise.
        seed: Seed of order and augmentation.
        classes: Class names in the order of the labels, where wanted.
        options: More options of `timm.data.create_dataset`.

    Raises:
        ValueError: If the data set is one that is read by index, or if it is not for
            training and there are several processes: shares of a stream miss some
            pictures and have others twice.
        ImportError: If the reader's package is not installed.
    """

    def __init__(
        self,
        name: str,
        root: str = '',
        split: str = 'train',
        transform: dict | None = None,
        batch_size: int = 1,
        num_workers: int = 0,
        seed: int = 0,
        classes: tuple[str, ...] = (),
        options: dict | None = None,
    ) -> None:
        transform = dict(transform or {})
        self.transform = create_transform(**transform)
        self.is_training = bool(transform.get('is_training'))
        if not self.is_training and get_world_size() > 1:
            raise ValueError(
                f'name={name!r}: a stream can be evaluated by one process only; use '
                "type='mmpoolformer.TimmDataset' (folders or a tar file), or train "
                'without validation (val_dataloader, val_cfg and val_evaluator None) '
                'and test in one process'
            )
        self.data = create_dataset(
            name,
            root=root,
            split=split,
            is_training=self.is_training,
            batch_size=batch_size,
            seed=seed,
            **options or {},
        )
        if not isinstance(self.data, IterableDataset):
            raise ValueError(
                f"name={name!r}: is read by index; use type='mmpoolformer.TimmDataset'"
            )
        self.data.set_loader_cfg(num_workers=num_workers)
        self.name, self.seed = name, seed
        self.metainfo = {'classes': tuple(classes)} if classes else {}
        self._epoch = Value('i', 0)  # shared with the loader's processes

    def __len__(self) -> int:
        """Return the number of pictures of an epoch.

        In training as the reader estimates it for this process. In an evaluation its
        estimate is too low for some numbers of workers, and mmengine would leave out
        the last results.
        """
        return len(self.data) if self.is_training else self.data.reader.num_samples

    def set_epoch(self, epoch: int) -> None:
        """Let order and augmentation be those of an epoch, counted from 0."""
        self._epoch.value = epoch
        self.data.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict]:
        """Give the pictures of an epoch, see `TimmDataset`."""
        info = get_worker_info()
        worker = info.id if info else 0
        for count, (picture, label) in enumerate(self.data):
            path = f'{self.name}[{worker}:{count}]'
            picture = convert_picture(picture, picture.mode, path)
            with seeded(self.seed, self._epoch.value, get_rank(), worker, count):
                inputs = self.transform(picture)
            yield {'inputs': inputs, 'targets': label, 'img_path': path}
