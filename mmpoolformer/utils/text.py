"""Names for messages."""

import difflib
from collections.abc import Iterable


def nearest(name: str, names: Iterable[str], most: int = 5) -> str:
    """Say which names may have been meant.

    Args:
        name: A name that is none of them.
        names: The known names.
        most: Names to give at most.

    Returns:
        The most similar names, or the first ones if none is similar.
    """
    names = list(names)
    if len(names) <= most:
        return ', '.join(names)
    close = difflib.get_close_matches(name, names, n=most)
    return ', '.join(close or [*names[:most], '...'])
