"""What can be wrong with a checkpoint."""


class CheckpointError(ValueError):
    """A file that is no checkpoint, is damaged, or does not fit."""


class UntrustedCheckpointError(CheckpointError):
    """A file that asks for more than data, which could run code."""


class DownloadError(CheckpointError):
    """A download that failed; nothing is left under the file's final name."""


def shown(text: str) -> str:
    """Make text of a file fit for a terminal, which control characters would steer."""
    return ''.join(
        c if c.isprintable() else c.encode('unicode_escape').decode() for c in text
    )


def cause_of(error: BaseException) -> str:
    """Say in a short line why a file can't be read; it may hold anything."""
    text = shown(' '.join(str(error).split())) or type(error).__name__
    return text if len(text) <= 300 else f'{text[:297]}...'
