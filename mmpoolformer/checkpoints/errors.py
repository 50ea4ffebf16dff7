"""What can be wrong with a checkpoint."""

import contextlib
import errno
import os
import pickle
import shlex
import struct
import zipfile
from collections.abc import Iterator

from mmpoolformer.utils.text import shown

# How a damaged or malicious file can fail.
STREAM_ERRORS = (
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    SystemError,
    TypeError,
    ValueError,
)


class CheckpointError(ValueError):
    """A file that is no checkpoint, is damaged, or does not fit."""


class UntrustedCheckpointError(CheckpointError):
    """A file that asks for more than data, which could run code."""


class DownloadError(CheckpointError):
    """A download that failed; nothing is left under the file's final name."""


class MissingFileError(DownloadError):
    """A file that a repository of the Hugging Face hub does not have."""


def entry_cure(entry: str) -> str:
    """Say how one of several models in a file is chosen.

    Args:
        entry: The entry, or what stands before the names, of one of them.
    """
    name = shown(entry)
    return (
        f'choose one by --entry {shlex.quote(name)} (in train, configs and Python: '
        f'{shlex.quote(f"FILE#{name}")})'
    )


def cause_of(error: BaseException) -> str:
    """Say in a short line why a file can't be read; it may hold anything."""
    text = shown(' '.join(str(error).split())) or type(error).__name__
    return text if len(text) <= 300 else f'{text[:297]}...'


@contextlib.contextmanager
def errors_of(path: str | os.PathLike, advice: str = '', *more: type) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into one line that names it.

    Args:
        path: The file.
        advice: What to say of files that ask for more than data.
        more: Errors that damage may cause beside `STREAM_ERRORS`.

    Raises:
        UntrustedCheckpointError: If the file asks for more than data.
        CheckpointError: If it is damaged.
    """
    try:
        yield
    except UntrustedCheckpointError as error:
        wanted = cause_of(error)[:200]
        raise UntrustedCheckpointError(f'{path} asks for {wanted}{advice}') from None
    except (*STREAM_ERRORS, *more, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise  # that one is of a place before the file's start
        cause = cause_of(error)
        raise CheckpointError(f'{path} is damaged or truncated: {cause}') from error
