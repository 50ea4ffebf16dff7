import re
from pathlib import Path

import pytest

from mmpoolformer.utils.errors import (
    UsageError,
    UserError,
    as_user_error,
    one_line,
    own_place,
    run_tool,
)


@pytest.mark.parametrize(
    ('error', 'line'),
    [
        (ValueError('two\n  lines'), 'two lines'),
        (KeyError('a key'), 'a key'),
        (ValueError(), 'ValueError'),
        (
            FileNotFoundError(2, 'No such file or directory', 'x.json'),
            'x.json: no such file or directory',
        ),
        (SyntaxError('invalid', ('x.py', 3, 1, '')), 'syntax error in line 3: invalid'),
    ],
)
def test_messages_fit_a_line(error: Exception, line: str) -> None:
    assert one_line(error) == line


def test_user_errors_name_what_was_given_once() -> None:
    with pytest.raises(UserError, match=r'^x\.py: bad$'), as_user_error('x.py'):
        raise ValueError('bad')
    with pytest.raises(UserError, match=r'^x\.py is bad$'), as_user_error('x.py'):
        raise ValueError('x.py is bad')
    with pytest.raises(UsageError, match=r'^own$'), as_user_error('x.py'):
        raise UsageError('own')


def test_other_errors_are_left_alone() -> None:
    with pytest.raises(ZeroDivisionError), as_user_error('x.py'):
        _ = 1 / 0


def test_vague_errors_come_with_a_way_to_see_more() -> None:
    with pytest.raises(UserError, match='--traceback'), as_user_error('x.py'):
        raise TypeError('unsupported operand')


REGISTRY = """
def build(kind):
    try:
        kind()
    except KeyError as error:
        raise TypeError("class Own") from error
"""


def _own(source: str, folder: Path) -> dict:
    """Run a file of the user's; return what it defines."""
    file = folder / 'own.py'
    file.write_text(source)
    names = {'__name__': 'own'}
    exec(compile(source, str(file), 'exec'), names)
    return names


@pytest.mark.parametrize(
    'line', ['{}["key"]', 'None + 1', 'assert False', 'import json; json.loads(1)']
)
def test_a_fault_in_code_of_the_users_is_told_with_its_place(
    line: str, tmp_path: Path
) -> None:
    own = _own(f'def work():\n    pass\n    {line}\n', tmp_path)
    place = re.escape(f'({tmp_path / "own.py"}, line 3; --traceback shows where)')
    with pytest.raises(UserError, match=rf'^x\.py: .+ {place}$'), as_user_error('x.py'):
        own['work']()


def test_the_place_is_found_behind_what_a_library_raises_anew(tmp_path: Path) -> None:
    folder = tmp_path / 'site-packages'
    folder.mkdir()
    own = _own('def work():\n    {}["key"]\n', tmp_path)['work']
    build = _own(REGISTRY, folder)['build']
    with pytest.raises(TypeError) as caught:
        build(own)
    place = own_place(_without_test(caught.value))
    assert place == f'{tmp_path / "own.py"}, line 2'


def test_errors_that_say_it_all_come_without_a_place(tmp_path: Path) -> None:
    own = _own('def work():\n    raise ValueError("bad")\n', tmp_path)
    with pytest.raises(UserError, match=r'^x\.py: bad$'), as_user_error('x.py'):
        own['work']()


def test_code_that_was_installed_is_not_the_users(tmp_path: Path) -> None:
    folder = tmp_path / 'site-packages'
    folder.mkdir()
    work = _own('def work():\n    {}["key"]\n', folder)['work']
    with pytest.raises(KeyError) as caught:
        work()
    assert own_place(_without_test(caught.value)) is None


def _without_test(error: BaseException) -> BaseException:
    """Take the frame of the test itself, which is no library's either, off."""
    return error.with_traceback(error.__traceback__.tb_next)


@pytest.mark.parametrize(
    ('error', 'code'),
    [(UserError('no'), 1), (UsageError('no'), 2), (KeyboardInterrupt(), 130)],
)
def test_exit_codes(
    error: BaseException, code: int, capsys: pytest.CaptureFixture
) -> None:
    def main(argv: list[str]) -> None:
        raise error

    assert run_tool(main, []) == code
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_interruption_is_told_whatever_a_library_makes_of_it(
    capsys: pytest.CaptureFixture,
) -> None:
    def main(argv: list[str]) -> None:
        try:
            raise KeyboardInterrupt
        except BaseException:
            raise SyntaxError('could not format it')  # noqa: B904

    assert run_tool(main, []) == 130
    assert capsys.readouterr().err == 'error: interrupted\n'
    with pytest.raises(SyntaxError):
        run_tool(lambda argv: compile('(', 'x.py', 'exec'), [])


def test_success_and_faults_pass() -> None:
    assert run_tool(lambda argv: None, []) == 0
    with pytest.raises(ZeroDivisionError):
        run_tool(lambda argv: 1 / 0, [])
    with pytest.raises(UserError):
        run_tool(lambda argv: _raise(UserError('no')), ['--debug'])


def _raise(error: Exception) -> None:
    raise error
