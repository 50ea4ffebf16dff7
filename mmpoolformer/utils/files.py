"""Files that are whole or not there."""

import csv
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

# What the name of a file ends on while it is written.
PART = '.part'


@contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Open a file that gets its name when it is whole and on the disk.

    Until then it is called `NAME.part`, and a file with its name stays as it is; also
    through a crash of the machine. What an error leaves half-written is removed.

    Args:
        path: The file; its folder is made if need be.

    Yields:
        The file, open for writing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + PART)
    try:
        with part.open('wb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk; Windows does that by itself."""
    if os.name == 'nt':
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Give another name to write a file under; it gets its own if nothing fails.

    For what opens files by itself; others take `atomic_file`, which lasts through a
    crash of the machine.

    Args:
        path: The file; its folder is made if need be. Nothing happens to it if nothing
            is written.

    Yields:
        The other name, with the same ending.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.{path.name}{PART}{path.suffix}')
    try:
        yield part
        if part.exists():
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_atomically(path: str | os.PathLike, text: str) -> None:
    """Write a text file under another name first, and then give it its own.

    Args:
        path: The file; its folder is made if need be.
        text: What to write, as UTF-8.
    """
    with atomic_file(path) as file:
        file.write(text.encode('utf-8'))


def write_csv(path: str | os.PathLike, rows: Sequence[Mapping]) -> None:
    """Write a table, whole or not at all.

    Args:
        path: The file; its folder is made if need be.
        rows: One or more rows; the names of the first one's entries are the head.
    """
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator='\n')
    table.writeheader()
    table.writerows(rows)
    write_atomically(path, text.getvalue())


def plain(value: object) -> object:
    """Turn a metric into what JSON holds; numbers that are not finite become None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.floating):
        value = float(str(value))  # the shortest number that a float32 stands for
    if hasattr(value, 'tolist'):  # tensors and NumPy's arrays and numbers
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: str | Path, content: object) -> None:
    """Write a JSON file, whole or not at all.

    Args:
        path: The file; its folder is made if need be.
        content: Dicts, lists, numbers, strings; also tensors and arrays.
    """
    write_atomically(path, json.dumps(plain(content), indent=2) + '\n')


def json_or_none(path: str | Path) -> object:
    """Return what a JSON file holds; None if it is missing or damaged."""
    try:
        return json.loads(Path(path).read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError):
        return None


def read_lines(path: str | Path) -> list[dict]:
    """Read a file of one JSON object a line; a last line cut short is left out."""
    path = Path(path)
    text = path.read_text(encoding='utf-8') if path.is_file() else ''
    return [json.loads(line) for line in text.splitlines(True) if line.endswith('\n')]


def write_lines(path: str | Path, lines: Sequence[dict]) -> None:
    """Write a file of one JSON object a line, whole or not at all."""
    write_atomically(path, ''.join(json.dumps(line) + '\n' for line in lines))
