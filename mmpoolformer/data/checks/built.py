"""Quick checks of what a Runner has built; `preflight` looks at every file."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mmengine.dataset import InfiniteSampler
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mmpoolformer.utils.errors import UserError
from mmpoolformer.utils.nested import leaf_datasets
from mmpoolformer.utils.text import first_few

# What mmengine's BaseDataset says when nothing is left in its list.
NOTHING_LEFT = 'need at least one array to concatenate'
# What mmengine's wrappers of data sets ask those inside for.
BASE_NAMES = ('full_init', 'metainfo')
SAMPLES = 100  # files looked for; more would be slow on a network disk
# A reader of labels that has no option with_seg, as the others do.
LABEL_READERS = ('LoadBiomedicalAnnotation',)


@contextmanager
def explain_empty(dataset: dict) -> Iterator[None]:
    """Turn what building an empty data set raises into a message that says so.

    Args:
        dataset: The config of the data set that is built inside the block.

    Raises:
        UserError: If all of its images were filtered out, or if it is one of mmengine's
            wrappers around data sets of another kind.
    """
    try:
        yield
    except AttributeError as error:
        if error.name not in BASE_NAMES:
            raise
        inside = dict.fromkeys(str(leaf.get('type')) for leaf in leaf_datasets(dataset))
        raise UserError(
            f"{dataset.get('type')}: is for mmengine's kind of data sets, not for "
            f'{first_few(tuple(inside))}; for classes in folders put links to all of '
            'them into one, and train for more epochs in place of repeating'
        ) from error
    except ValueError as error:
        if NOTHING_LEFT not in str(error):
            raise
        names = [
            f'{leaf.get("type")} {leaf.get("ann_file", "")}'.strip()
            for leaf in leaf_datasets(dataset)
        ]
        raise _nothing_to_use(' or '.join(names)) from error


def check_dataset(dataset: Dataset) -> None:
    """Refuse a data set that is empty or whose files are not there.

    At most `SAMPLES` entries, spread evenly, are looked for: pictures, and labels if
    a transform reads them. Data sets of an unknown kind, and files on other machines,
    are left alone.

    Args:
        dataset: A data set of mmengine's kind (`get_data_info`) or any other.

    Raises:
        UserError: Naming the data set, and the first missing file.
    """
    name = f'{type(dataset).__name__} {getattr(dataset, "ann_file", "") or ""}'.strip()
    if len(dataset) == 0:
        raise _nothing_to_use(name)
    if not hasattr(dataset, 'get_data_info'):
        return
    step = max(1, len(dataset) // SAMPLES)
    keys = ['img_path', *(['seg_map_path'] if _reads_labels(dataset) else [])]
    for index in range(0, len(dataset), step):
        info = dataset.get_data_info(index)
        for key in keys:
            _check_file(info.get(key), name)


def _reads_labels(part: object) -> bool:
    """Tell whether a transform of a data set, or of one inside, reads label maps."""
    name = type(part).__name__
    if getattr(part, 'with_seg', False) or name in LABEL_READERS:
        return True
    inner = [getattr(part, key, None) for key in ('pipeline', 'dataset')]
    for key in ('datasets', 'transforms'):
        several = getattr(part, key, None)
        inner += several if isinstance(several, list | tuple) else [several]
    return any(_reads_labels(one) for one in inner if one is not None)


def check_classes(model: nn.Module, dataset: Dataset) -> None:
    """Refuse a classifier for another number of classes than its data has.

    Args:
        model: The model; only those with `num_classes` of their own are looked at.
        dataset: Its data; class names are its `metainfo['classes']`.

    Raises:
        UserError: Naming both numbers.
    """
    classes = getattr(dataset, 'metainfo', {}).get('classes')
    count = getattr(model, 'num_classes', None)
    if count is None or not classes or count == len(classes):
        return
    raise UserError(wrong_class_count(count, classes))


def wrong_class_count(
    count: int, classes: Sequence[str], place: str = 'num_classes of the config'
) -> str:
    """Say that a model is for another number of classes than its data.

    Args:
        count: The model's.
        classes: The data's names.
        place: The setting to mend.
    """
    return (
        f'the model has {count} classes, the data {len(classes)} '
        f'({first_few(classes, 3)}): set {place} to {len(classes)}'
    )


def check_steps(loader: DataLoader) -> None:
    """Refuse training data that is smaller than a batch, where the rest is dropped.

    Args:
        loader: The training data.

    Raises:
        UserError: Naming the numbers and the setting to change.
    """
    endless = isinstance(loader.sampler, InfiniteSampler)
    batches = loader.batch_sampler
    if endless or isinstance(loader.dataset, IterableDataset) or not batches.drop_last:
        return
    count = len(loader.sampler)
    if count < batches.batch_size:
        raise UserError(smaller_than_a_batch(count, batches.batch_size))


def smaller_than_a_batch(count: int, batch_size: int) -> str:
    """Say that there are too few pictures for one step.

    Args:
        count: Pictures of each process, from 1.
        batch_size: Pictures of a batch.
    """
    most = max(1, count - count % 2)  # even, because Mixup and CutMix mix pairs
    return (
        f'{count} pictures (of each process), a batch of {batch_size} and '
        f'drop_last=True leave no step: set train_dataloader.batch_size to {most} or '
        'less'
    )


def is_elsewhere(file: str) -> bool:
    """Tell whether a file lies on another machine, by its scheme or backend."""
    return '://' in file or ':' in file.split('/')[0]


def check_pairs(model: nn.Module, loader: DataLoader) -> None:
    """Refuse batches of an odd size where pictures are mixed in pairs.

    Args:
        model: The model; only those with `mixup` are looked at.
        loader: Its training data.

    Raises:
        UserError: Naming the size.
    """
    if not getattr(model, 'mixup', None):
        return
    size = loader.batch_sampler.batch_size
    # A sampler's length is what one process gets, repeated or cut pictures included.
    last = 0 if loader.batch_sampler.drop_last else len(loader.sampler) % size
    if size % 2 or last % 2:
        raise UserError(
            f'train_dataloader: a batch of {size if size % 2 else last}, but Mixup and '
            'CutMix mix pairs; give an even batch_size and drop_last=True'
        )


def _nothing_to_use(name: str) -> UserError:
    return UserError(
        f'{name}: no image to use; check the paths, and that the class names '
        '(metainfo) are those of the annotations'
    )


def _check_file(file: object, name: str) -> None:
    if not isinstance(file, str) or is_elsewhere(file):
        return
    if not Path(file).is_file():
        raise UserError(
            f'{name}: {file} is missing; check data_root and data_prefix of the config'
        )
