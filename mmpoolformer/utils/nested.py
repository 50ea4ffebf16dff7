"""Dicts inside of dicts and lists, as in configs."""

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
