"""A user's mistake becomes one line; a fault in the program keeps its traceback."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

# Without them nothing runs: the wrong interpreter, mostly.
FOUNDATIONS = ('torch', 'mmengine', 'mmcv')
INTERRUPTED = 130  # what a shell reports for Ctrl-C

# What libraries raise when a setting is wrong: a file that is not there, an option
# that does not exist, a value out of its range, a package that is not installed.
SETTING_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AssertionError,
    ImportError,
)

# Those of them whose message usually says it all.
PLAIN_ERRORS = (OSError, SyntaxError, ValueError)


class UserError(Exception):
    """A mistake that the user can mend; told in one line, without a traceback."""

    exit_code = 1


class UsageError(UserError):
    """A mistake on the command line itself."""

    exit_code = 2


def one_line(error: BaseException) -> str:
    """Return an error's message without line breaks.

    Args:
        error: Any exception; a missing file is named before the reason.
    """
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f'{error.filename}: {error.strerror.lower()}'
    if isinstance(error, SyntaxError):
        return f'syntax error in line {error.lineno}: {error.msg}'
    # str() of a KeyError is the repr of its message.
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    return ' '.join(str(message).split()) or type(error).__name__


@contextmanager
def blame(
    what: str, kinds: tuple[type[BaseException], ...] = SETTING_ERRORS
) -> Iterator[None]:
    """Turn errors inside the block into a `UserError` that starts with `what`.

    Args:
        what: What the user gave, such as the name of a file; may be empty.
        kinds: The exceptions that count as the user's mistake here.

    Raises:
        UserError: In place of an exception of `kinds`.
    """
    try:
        yield
    except UserError:
        raise
    except kinds as error:
        text = one_line(error)
        if what and not text.startswith(what):
            text = f'{what}: {text}'
        if not isinstance(error, PLAIN_ERRORS):
            text += ' (--traceback shows where)'
        raise UserError(text) from error


def run_tool(main: Callable[[Sequence[str]], None], argv: Sequence[str]) -> int:
    """Run a tool's main function and report a user's mistake on stderr.

    Args:
        main: The tool; it gets the command line without the program's name.
        argv: That command line. With `--traceback` or `--debug` in it a mistake is
            shown with its whole traceback.

    Returns:
        The exit code. Other exceptions pass: they are faults of the program.
    """
    try:
        main(argv)
    except UserError as error:
        if {'--traceback', '--debug'} & set(argv):
            raise
        print(f'error: {error}', file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        if error.name not in FOUNDATIONS:
            raise
        print(
            f'error: {sys.executable} has no {error.name}: activate the environment '
            'that has, or see what is wrong by python -m mmpoolformer.doctor',
            file=sys.stderr,
        )
        return UserError.exit_code
    except (KeyboardInterrupt, SyntaxError) as error:
        # mmengine makes a SyntaxError of a Ctrl-C while it formats a config.
        causes = error, error.__context__
        if not any(isinstance(cause, KeyboardInterrupt) for cause in causes):
            raise
        print('error: interrupted', file=sys.stderr)
        return INTERRUPTED
    return 0
