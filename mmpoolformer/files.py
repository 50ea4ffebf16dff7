"""Files that are whole or not there."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path


def write_whole(path: str | os.PathLike, text: str) -> None:
    """Write a text file under another name first, and then give it its own.

    Args:
        path: The file; its folder is made if need be.
        text: What to write, as UTF-8.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + '.part')
    part.write_text(text, encoding='utf-8', newline='')
    os.replace(part, path)


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
    write_whole(path, text.getvalue())
