"""Names in messages."""

import difflib
import shlex
import textwrap
from collections.abc import Container, Iterable

LONGEST = 200  # characters of one name in a list
WIDTH = 79  # columns of what is printed


def shown(text: str) -> str:
    """Make text of a file fit for a terminal, which control characters would steer."""
    return ''.join(
        c if c.isprintable() else c.encode('unicode_escape').decode() for c in text
    )


def wrapped(text: str, first: str = '', rest: str = '  ') -> list[str]:
    """Break text into lines of at most `WIDTH` columns; words stay whole, and paths.

    Args:
        text: The text.
        first: What the first line starts with.
        rest: What the others start with.
    """
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def command_lines(words: Iterable[object], indent: str = '  ') -> list[str]:
    """Return a command for a shell, in lines of at most `WIDTH` columns if words fit.

    Args:
        words: The program and its arguments.
        indent: What the first line starts with, and the others twice more.
    """
    first, *rest = (shlex.quote(str(word)) for word in words)
    lines = [indent + first]
    for word in rest:
        if len(f'{lines[-1]} {word} \\') > WIDTH:
            lines[-1] += ' \\'
            lines.append(3 * indent + word)
        else:
            lines[-1] += f' {word}'
    return lines


def first_few(names: Iterable[object], most: int = 5, between: str = ', ') -> str:
    """Name the first few of many, and say how many there are more.

    Args:
        names: The names, or other things by their texts.
        most: Names to give at most.
        between: What stands between them.

    Returns:
        The names, such as `a, b and 3 more`; empty if there are none.
    """
    names = list(names)
    few = between.join(shown(str(name)[:LONGEST]) for name in names[:most])
    return few + (f' and {len(names) - most} more' if len(names) > most else '')


def type_name(kind: object) -> str:
    """Return the bare name of a config's `type`: a class, or its name in a scope."""
    return getattr(kind, '__name__', str(kind).rsplit('.', 1)[-1])


def did_you_mean(name: str, names: Iterable[str], most: int = 3) -> str:
    """Return `; did you mean A, B?` for names that are similar; empty if none is."""
    close = difflib.get_close_matches(name, list(names), n=most)
    return f'; did you mean {", ".join(close)}?' if close else ''


def distinct(name: str, taken: Container[str], form: str = '{} ({})') -> str:
    """Return a name that is not taken, also not in other capitals.

    Args:
        name: The one wanted.
        taken: The names that are, each by its `casefold()`.
        form: How a number, from 2 on, is added to a name.
    """
    candidate, number = name, 1
    while candidate.casefold() in taken:
        number += 1
        candidate = form.format(name, number)
    return candidate


def nearest(name: str, names: Iterable[str]) -> str:
    """Say which names may have been meant.

    Args:
        name: A name that is none of them.
        names: The known names.

    Returns:
        The most similar names, or the first ones if none is similar; five at most.
    """
    names = list(names)
    if len(names) <= 5:
        return ', '.join(names)
    close = difflib.get_close_matches(name, names, n=5)
    return ', '.join(close or [*names[:5], '...'])
