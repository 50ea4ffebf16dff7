"""A user's mistake becomes one line; a fault in the program keeps its traceback."""

import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

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

# Files below these are not the user's.
PACKAGE = Path(__file__).parents[1]
STANDARD_LIBRARY = Path(sysconfig.get_path('stdlib'))
INSTALLED = {'site-packages', 'dist-packages'}


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
def as_user_error(
    what: str, kinds: tuple[type[BaseException], ...] = SETTING_ERRORS
) -> Iterator[None]:
    """Turn errors inside the block into a `UserError` that starts with `what`.

    Of errors that say little the place is added, where code of the user's had a part.

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
            place = own_place(error)
            text += f' ({place}; ' if place else ' ('
            text += '--traceback shows where)'
        raise UserError(text) from error


def own_place(error: BaseException) -> str | None:
    """Return file and line where an error left the user's own code, if it did.

    Args:
        error: An exception that was raised; those that it came from are looked at
            too, as some libraries raise anew what the user's code has raised.
    """
    one: BaseException | None = error
    while one is not None:
        for frame in reversed(traceback.extract_tb(one.__traceback__)):
            if _is_own(Path(frame.filename)):
                return f'{frame.filename}, line {frame.lineno}'
        one = one.__cause__ or one.__context__
    return None


def _is_own(file: Path) -> bool:
    """Tell whether a file is the user's; what a config ran has no file."""
    is_installed = INSTALLED & set(file.parts) or any(
        file.is_relative_to(folder) for folder in (PACKAGE, STANDARD_LIBRARY)
    )
    return not is_installed and file.is_file()


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
