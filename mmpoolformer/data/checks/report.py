"""What a check of data has found: how often, and where first."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

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
        self._add(ERROR, what, name)

    def warning(self, what: str, name: str = '') -> None:
        """Add a warning, at the place `name` if it has one."""
        self._add(WARNING, what, name)

    @property
    def errors(self) -> list[Finding]:
        """What stops a training."""
        return [one for one in self._found.values() if one.level == ERROR]

    @property
    def warnings(self) -> list[Finding]:
        """What does not."""
        return [one for one in self._found.values() if one.level == WARNING]

    def _add(self, level: str, what: str, name: str) -> None:
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

    def lines(self, width: int = 79) -> list[str]:
        """Return the summary, in lines of at most `width` columns.

        A path that is longer than that stays whole.
        """
        found = [*self.findings.errors, *self.findings.warnings]
        lines = _wrapped(self.title, '', width)
        lines += _wrapped(', '.join(self.facts), '  ', width)
        for one in found:
            lines += _wrapped(f'{one.level}: {one}', '  ', width)
        return lines


def shortened(text: str) -> str:
    """Return text without line breaks and control characters, cut if it is long."""
    text = ''.join(c if c.isprintable() else '?' for c in text)
    return text if len(text) <= LONGEST else f'{text[: LONGEST - 3]}...'


def _wrapped(text: str, indent: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=f'{indent}  ',
        break_long_words=False,
        break_on_hyphens=False,
    )
