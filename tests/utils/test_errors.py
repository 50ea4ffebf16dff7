import pytest

from mmpoolformer.utils.errors import UsageError, UserError, blame, one_line, run_tool


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


def test_blame_names_what_was_given_once() -> None:
    with pytest.raises(UserError, match=r'^x\.py: bad$'), blame('x.py'):
        raise ValueError('bad')
    with pytest.raises(UserError, match=r'^x\.py is bad$'), blame('x.py'):
        raise ValueError('x.py is bad')
    with pytest.raises(UsageError, match=r'^own$'), blame('x.py'):
        raise UsageError('own')


def test_blame_leaves_other_errors_alone() -> None:
    with pytest.raises(ZeroDivisionError), blame('x.py'):
        _ = 1 / 0


def test_vague_errors_come_with_a_way_to_see_more() -> None:
    with pytest.raises(UserError, match='--traceback'), blame('x.py'):
        raise TypeError('unsupported operand')


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
