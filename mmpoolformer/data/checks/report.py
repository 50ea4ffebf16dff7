"""What a check of data has found: how often, and where first."""

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from mmpoolformer.data.checks.images import MOST_WORKERS
from mmpoolformer.utils.files import json_or_none, write_atomically
from mmpoolformer.utils.text import wrapped

ERROR, WARNING = 'error', 'warning'
SHOWN = 3  # names kept of each finding
LONGEST = 200  # characters of a name in a message


@dataclass
class Finding:
    """One kind of fault.

    Attributes:
        level: `'error'` or `'warning'`.
        what: What is wrong, in words to which a number can be added.
        count: How often.
        names: Where, the first few.
    """

    level: str
    what: str
    count: int = 0
    names: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Say it in one line."""
        if not self.names:
            return self.what
        more = ', ...' if self.count > len(self.names) else ''
        return f'{self.what}: {self.count} ({", ".join(self.names)}{more})'


class Findings:
    """Collects faults of the same kind under one entry.

    An error is what would end the training later, or let it learn something else than
    the data says; a warning is what is left out or looks odd.
    """

    def __init__(self, found: Sequence[Finding] = ()) -> None:
        self._found = {(one.level, one.what): one for one in found}

    def error(self, what: str, name: str = '') -> None:
        """Add an error, at the place `name` if it has one."""
        self.add(ERROR, what, name)

    def warning(self, what: str, name: str = '') -> None:
        """Add a warning, at the place `name` if it has one."""
        self.add(WARNING, what, name)

    @property
    def errors(self) -> list[Finding]:
        """What stops a training."""
        return [one for one in self._found.values() if one.level == ERROR]

    @property
    def warnings(self) -> list[Finding]:
        """What does not."""
        return [one for one in self._found.values() if one.level == WARNING]

    def add(self, level: str, what: str, name: str) -> None:
        """Add a finding of a level, at the place `name` if it has one."""
        one = self._found.setdefault((level, what), Finding(level, what))
        one.count += 1
        if name and len(one.names) < SHOWN:
            one.names.append(shortened(name))


@dataclass
class DataReport:
    """What is known of one data set.

    Attributes:
        title: Which one it is.
        facts: What it holds, in a few words each.
        findings: What is wrong with it.
        files: The files that this was found from.
        folders: The folders whose lists of files matter.
        classes: Its class names; empty if they are not known.
    """

    title: str
    facts: list[str] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    classes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return the summary, in lines that fit a terminal.

        A path that is longer than that stays whole.
        """
        found = [*self.findings.errors, *self.findings.warnings]
        lines = wrapped(self.title)
        lines += wrapped(', '.join(self.facts), '  ', '    ')
        for one in found:
            lines += wrapped(f'{one.level}: {one}', '  ', '    ')
        return lines


def shortened(text: str) -> str:
    """Return text without line breaks and control characters, cut if it is long."""
    text = ''.join(c if c.isprintable() else '?' for c in text)
    return text if len(text) <= LONGEST else f'{text[: LONGEST - 3]}...'


def read_notes(path: Path) -> dict[str, dict]:
    """Read what was found before: by setting, such as `train_dataloader`, its notes.

    A file that is damaged counts as none.
    """
    content = json_or_none(path)
    parts = content.items() if isinstance(content, dict) else ()
    return {name: part for name, part in parts if isinstance(part, dict)}


def sound_before(entry: object) -> DataReport | None:
    """Return what was found before, if all files are as they were.

    Args:
        entry: The data set's note (`as_note`); None if it has none.
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


def as_note(report: DataReport) -> dict:
    """Return a report without its errors, and the state of its files."""
    record = {**vars(report), 'warnings': list(map(vars, report.findings.warnings))}
    del record['findings']
    return {'report': record, 'stamps': _stamps(record)}


def write_notes(path: Path, notes: Mapping[str, Mapping[str, dict]]) -> None:
    """Write notes of reports without errors, by setting and what decides a report."""
    text = json.dumps(notes) + '\n'
    if not path.is_file() or path.read_text(encoding='utf-8') != text:
        write_atomically(path, text)


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
