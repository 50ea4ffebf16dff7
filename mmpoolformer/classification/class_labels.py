"""What the classes of a classifier are called, and which folder holds which."""

from collections.abc import Mapping, Sequence

from timm.data import ImageNetInfo, infer_imagenet_subset
from torch.utils.data import Dataset

from mmpoolformer.utils.errors import UserError
from mmpoolformer.utils.logs import warn
from mmpoolformer.utils.text import first_few, shown


def recorded_classes(content: Mapping) -> tuple[str, ...]:
    """Return the class names in a checkpoint of tools/train.py, or none."""
    meta = content.get('meta')
    about_data = meta.get('dataset_meta') if isinstance(meta, Mapping) else None
    classes = about_data.get('classes') if isinstance(about_data, Mapping) else None
    return tuple(str(name) for name in classes or ())


def describe_classes(classes: Sequence[str], num_classes: int) -> tuple[str, ...]:
    """Return names to show for the classes of a model.

    Args:
        classes: Names from its checkpoint, or none. Synsets of ImageNet such as
            `'n01440764'` become words.
        num_classes: Classes; without names, 1000 are ImageNet-1k's and 21,841 those of
            ImageNet-21k, and others become numbers.
    """
    subset = infer_imagenet_subset({'num_classes': num_classes})
    names = classes or imagenet_synsets(num_classes) or range(num_classes)
    words = ImageNetInfo(subset or 'imagenet-22k').label_descriptions(as_dict=True)
    return tuple(words.get(name, shown(str(name))) for name in names)


def imagenet_synsets(num_classes: int) -> tuple[str, ...]:
    """Return the synsets of the ImageNet with this number of classes, or none."""
    subset = infer_imagenet_subset({'num_classes': num_classes})
    return tuple(ImageNetInfo(subset).label_names()) if subset else ()


def match_classes(
    folders: Sequence[str], classes: Sequence[str], num_classes: int
) -> dict[str, int]:
    """Return which class of a model each class folder is.

    Args:
        folders: Names of the class folders, in the order of their labels. Classes of
            the model may be missing.
        classes: The model's class names, from its checkpoint or as given, or none. Then
            folders named by ImageNet's synsets, all or some of them, are matched by
            name, and others by their order.
        num_classes: The model's number of classes.

    Returns:
        The model's class of each folder's name.

    Raises:
        ValueError: If a folder is no class of the model, or of another number they
            can't be matched by order; names those that differ.
    """
    if classes and not set(folders) <= set(classes):
        raise ValueError(
            'other classes than those of the checkpoint: '
            f'{_names("only in the folder", set(folders) - set(classes))}; '
            f'{_names("only in the checkpoint", set(classes) - set(folders))}'
        )
    names = classes or imagenet_synsets(num_classes)
    if set(folders) <= set(names):
        return {name: i for i, name in enumerate(names)}
    if len(folders) != num_classes:
        raise ValueError(
            f'{len(folders)} classes ({first_few(folders)}), but the model '
            f'has {num_classes}'
        )
    return {name: i for i, name in enumerate(folders)}


def check_class_order(trained: Sequence[str], dataset: Dataset, source: str) -> None:
    """Refuse weights whose classes have other numbers in the data; warn of other names.

    Args:
        trained: Names of the classes that the weights are for, or none.
        dataset: The data; class names are its `metainfo['classes']`.
        source: Where the weights are from.

    Raises:
        UserError: If a class of the weights has another number in the data.
    """
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()
    # Files of published models name the classes in words, folders by synsets.
    ours, theirs = (describe_classes(x, len(x)) for x in (trained, classes))
    pairs = enumerate(zip(ours, theirs, strict=False))
    others = [(label, *pair) for label, pair in pairs if pair[0] != pair[1]]
    if any(name in ours for _, _, name in others):
        raise UserError(
            f'{source}: its classes are in the order {first_few(trained, 8)}, '
            f'but the data has {first_few(classes, 8)}: write the classes of the data '
            'in the order of the training'
        )
    if others:
        label, own, name = others[0]
        warn(
            f'label {label} is {own} in {source}, {name} in the data: the results are '
            'right only if both mean the same'
        )


def _names(where: str, names: set[str]) -> str:
    return f'{where}: {first_few(sorted(names)) or "none"}'
