"""What a check of data has found, kept so that a second start is fast.

A JSON file of reports without errors, with names, sizes and times of their files.
"""

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mmpoolformer.data.checks.report import DataReport, Finding, Findings
from mmpoolformer.data.checks.images import MOST_WORKERS
from mmpoolformer.utils.files import write_whole


def read_notes(path: Path) -> dict:
    """Read what was found before; a file that is damaged counts as none."""
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def sound_before(entry: object) -> DataReport | None:
    """Return what was found before, if all files are as they were.

    Args:
        entry: The data set's entry of `read_notes`; None if it has none.
    """
    if not isinstance(entry, dict):
        return None
    try:
        if _stamps(entry['report']) != entry['stamps']:
            return None
        record = dict(entry['report'])
        found = Findings([Finding(**one) for one in record.pop('warnings')])
        classes = tuple(record.pop('classes'))
        return DataReport(**record, classes=classes, findings=found)
    except (KeyError, TypeError, ValueError):
        return None


def write_notes(path: Path, reports: Mapping[str, DataReport]) -> None:
    """Write reports without errors, with the state of their files.

    Args:
        path: The file.
        reports: By a key that stands for all that decides them, but the files.
    """
    content = {}
    for key, report in reports.items():
        record = {**vars(report), 'warnings': list(map(vars, report.findings.warnings))}
        del record['findings']
        content[key] = {'report': record, 'stamps': _stamps(record)}
    text = json.dumps(content) + '\n'
    if not path.is_file() or path.read_text(encoding='utf-8') != text:
        write_whole(path, text)


def _stamps(report: Mapping) -> dict[str, list | None]:
    """Return size and time of change of a report's files and folders.

    A folder's time tells when files were added. What is not there has None.
    """
    places = [*report['files'], *report['folders']]
    with ThreadPoolExecutor(MOST_WORKERS) as pool:
        return dict(zip(places, pool.map(_stamp, places), strict=True))


def _stamp(path: str) -> list | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    size = 0 if os.path.isdir(path) else found.st_size
    return [size, found.st_mtime_ns]
