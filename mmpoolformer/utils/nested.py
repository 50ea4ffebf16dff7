"""Dicts inside of dicts and lists, as in configs: all of them, or the data sets."""

from collections.abc import Iterator, Mapping

from mmengine.config import Config


def dicts_in(node: object, place: str = '') -> Iterator[tuple[str, Mapping | Config]]:
    """Give all dicts in a config, or in a part of one, and where each stands.

    Args:
        node: The config or part; it comes first if it is a dict itself.
        place: Where it stands, such as `model.neck`; numbers count entries of lists.
    """
    children = enumerate(node) if isinstance(node, list | tuple) else ()
    if isinstance(node, Mapping | Config):
        yield place, node
        children = node.items()
    for key, child in children:
        yield from dicts_in(child, f'{place}.{key}'.removeprefix('.'))


def leaf_datasets(dataset: Mapping | None) -> Iterator[Mapping]:
    """Find the data sets inside wrappers such as RepeatDataset and ConcatDataset."""
    if not isinstance(dataset, Mapping):
        return
    if isinstance(dataset.get('dataset'), Mapping):
        yield from leaf_datasets(dataset['dataset'])
    elif isinstance(dataset.get('datasets'), (list, tuple)):
        for one in dataset['datasets']:
            yield from leaf_datasets(one)
    else:
        yield dataset
