import shlex

import pytest

from mmpoolformer.utils.text import (
    WIDTH,
    command_lines,
    did_you_mean,
    distinct,
    first_few,
    nearest,
)


@pytest.mark.parametrize(
    ('count', 'expected'),
    [(0, ''), (1, '0'), (3, '0, 1, 2'), (4, '0, 1, 2 and 1 more')],
)
def test_first_few_of_many(count: int, expected: str) -> None:
    assert first_few(range(count), 3) == expected


def test_first_few_cannot_steer_the_terminal_and_are_short() -> None:
    said = first_few(['a\x1b[2J', 'b' * 1000], between='; ')
    assert said == rf'a\x1b[2J; {"b" * 200}'


def test_a_long_command_is_one_for_a_shell() -> None:
    words = [
        'mmpoolformer',
        'test',
        'work dirs/a.py',
        *(f'{"x" * n}.py' for n in (60, 9)),
    ]
    lines = command_lines([*words, '--out', 'found'])
    assert len(lines) > 1 and max(map(len, lines)) <= WIDTH
    assert all(line.startswith('  ') for line in lines)
    joined = '\n'.join(lines).replace('\\\n', ' ')
    assert shlex.split(joined) == [*words, '--out', 'found']
    assert command_lines(['test', 'a b', 1]) == ["  test 'a b' 1"]


def test_similar_names_are_named() -> None:
    names = ['train', 'test', 'infer']
    assert did_you_mean('trian', names) == '; did you mean train?'
    assert did_you_mean('xyz', names) == ''


def test_nearest_names_the_first_if_none_is_similar() -> None:
    assert nearest('q', 'abcdef') == 'a, b, c, d, e, ...'
    assert nearest('q', 'ab') == 'a, b'


def test_distinct_names() -> None:
    assert distinct('a', {'b'}) == 'a'
    assert distinct('A', {'a', 'a (2)'}) == 'A (3)'
    assert distinct('a', {'a'}, '{}_{}') == 'a_2'
