"""Where configs lie, and how users name models and weights."""

import os
import re
from os import PathLike
from pathlib import Path

from mmpoolformer.utils.text import nearest

# In place of a checkpoint, for no weights at all.
RANDOM = 'random'

# A URL with its hash, and the entry after it.
_URL = re.compile('([^#]*(?:#sha256=[^#]*)?)(?:#(.*))?', re.DOTALL)

_PACKAGE = Path(__file__).resolve().parent.parent


def config_root() -> Path:
    """Return the folder ``configs``.

    An installed package carries it in ``mmpoolformer/.mim``, as OpenMMLab's own
    packages do; an editable install uses the repository's.

    Raises:
        FileNotFoundError: if the package came without its configs.
    """
    for root in (_PACKAGE / '.mim' / 'configs', _PACKAGE.parent / 'configs'):
        if root.is_dir():
            return root
    raise FileNotFoundError(
        f'no configs beside {_PACKAGE}: install the package anew with '
        '`pip install .` from a clone of the repository'
    )


def list_configs() -> list[str]:
    """Return all configs that can be run, relative to ``configs``, sorted.

    Files below a folder ``_base_`` are parts of others and left out.
    """
    root = config_root()
    names = (path.relative_to(root) for path in root.rglob('*.py'))
    return sorted(name.as_posix() for name in names if '_base_' not in name.parts)


def config_path(name: str) -> Path:
    """Return the file of a config by its name.

    Args:
        name: path relative to ``configs``, with or without the ending, such as
            ``'detection/retinanet_poolformer_s12_fpn_1x_coco.py'``.

    Returns:
        The absolute path, for ``mmengine.Config.fromfile``.

    Raises:
        ValueError: if there is no such config; names the closest ones.
        FileNotFoundError: if the package came without its configs.
    """
    root = config_root()
    relative = name.removeprefix('configs/').removesuffix('.py') + '.py'
    path = root / relative
    if path.is_file() and path.resolve().is_relative_to(root.resolve()):
        return path
    known = list_configs()
    raise ValueError(f'no config {name!r}: did you mean {nearest(relative, known)}?')


def is_config(model: str | PathLike) -> bool:
    """Tell whether a model is given by a config file, not by a name."""
    return Path(model).suffix in ('.py', '.json', '.yaml', '.yml')


def is_exported(source: str | PathLike | None) -> bool:
    """Tell whether a file in place of a checkpoint is an exported one that can run."""
    return source is not None and Path(source).suffix in ('.onnx', '.xml')


def split_entry(
    source: str | PathLike, entry: str | None = None
) -> tuple[str, str | None]:
    """Part `SOURCE#ENTRY`, one of several entries of weights in a file.

    Args:
        source: A path or a URL, whose hash (`#sha256=...`) stands before the entry. A
            file that exists is one, also with `#` in its name.
        entry: The entry, as if it stood behind the source.

    Returns:
        The source alone, and the entry; None if there is none.
    """
    text = os.fspath(source) + ('' if entry is None else f'#{entry}')
    if '://' in text:
        return _URL.fullmatch(text).groups()
    place = text
    while '#' in place and not Path(place).expanduser().exists():
        place = place.rpartition('#')[0]
    return place, None if place == text else text[len(place) + 1 :]
