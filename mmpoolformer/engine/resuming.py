"""Which checkpoints a training can resume from, and what they may say to it.

All of it is data to be checked: types first, then names of files. A file of somebody
else's must end the run in one line, and never touch other files.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mmpoolformer.checkpoints.errors import CheckpointError, UntrustedCheckpointError
from mmpoolformer.engine.distributed import all_true
from mmpoolformer.utils.errors import UserError, one_line
from mmpoolformer.utils.logs import warn

POINTER = 'last_checkpoint'
LONGEST = 2**16  # bytes of it that are read
STARTED = '.started'  # as old as the run that was started last in a work dir
# Files that hold all that a training needs to go on; `best_*.pth` do not.
RESUMABLE = re.compile(r'(epoch|iter)_\d+\.pth')

MOST_FILES = 10_000  # that a checkpoint may name
LARGEST = 2**53  # of epochs and iterations

# What the safe checkpoint hook and mmengine's keep in the message hub on files.
STEPS, OUTDATED, INTERRUPTED = 'keep_ckpt_ids', 'outdated_ckpts', 'interrupted_ckpt'
BEST = 'best_ckpt'  # also best_ckpt_METRIC


def refused(filename: str, part: str, problem: str) -> UserError:
    """Return the error for a part, such as `optimizer.state`, that can't be used."""
    return UserError(f'{filename}: can not be resumed: {part}: {problem}')


def kind(value: object) -> str:
    """Name the type of something, for messages."""
    return type(value).__name__


def is_count(value: object) -> bool:
    """Tell whether something is a number of epochs or iterations."""
    return type(value) is int and 0 <= value <= LARGEST


def is_name(value: object) -> bool:
    """Tell whether something can be the name of a file: one line of text."""
    return isinstance(value, str) and value.isprintable() and 0 < len(value) <= 4096


def is_best(key: str) -> bool:
    """Tell whether an entry of the message hub names a best checkpoint."""
    return key == BEST or key.startswith(f'{BEST}_')


def check_files(facts: Mapping, filename: str) -> None:
    """Check what the `runtime_info` of a checkpoint says about other checkpoints.

    Raises:
        UserError: If there is anything but few numbers and names of files.
    """
    for key, is_right in ((STEPS, is_count), (OUTDATED, is_name)):
        found = facts.get(key, [])
        where = f'message_hub.{key}'
        if not isinstance(found, list | tuple) or len(found) > MOST_FILES:
            raise refused(filename, where, f'not a list of at most {MOST_FILES} files')
        if not all(map(is_right, found)):
            what = 'iterations or epochs' if key == STEPS else 'names of files'
            raise refused(filename, where, f'not a list of {what}')
    for key in facts:
        is_one = key == INTERRUPTED or is_best(key)
        if is_one and facts[key] is not None and not is_name(facts[key]):
            raise refused(filename, f'message_hub.{key}', 'not the name of a file')


def take_files(facts: dict) -> dict:
    """Take out of a message hub, and return, what it says about other checkpoints."""
    keys = [k for k in facts if k in (STEPS, OUTDATED, INTERRUPTED) or is_best(k)]
    return {key: facts.pop(key) for key in keys}


def resumable(work_dir: str | Path) -> list[Path]:
    """Return the checkpoints that a training in a work dir can go on from.

    First the one that `last_checkpoint` names, then the others, newest first. The
    folder may have been moved since. Whether they can be read is not looked at.
    """
    folder = Path(work_dir)
    found = [p for p in folder.glob('*.pth') if RESUMABLE.fullmatch(p.name)]
    found.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    named = last_named(folder)
    if named is None:
        return found
    return [named, *(path for path in found if path.name != named.name)]


def mark_start(work_dir: str | Path) -> None:
    """Note in a work dir that a run starts there now that goes on from none in it."""
    Path(work_dir).mkdir(parents=True, exist_ok=True)
    Path(work_dir, STARTED).touch()


def since_start(work_dir: str | Path) -> list[Path]:
    """Return those of `resumable` that are of the run that was started last."""
    mark = Path(work_dir, STARTED)
    start = mark.stat().st_mtime_ns if mark.is_file() else 0
    found = [path for path in resumable(work_dir) if path.is_file()]
    return [path for path in found if path.stat().st_mtime_ns >= start]


def last_named(work_dir: Path) -> Path | None:
    """Return the checkpoint that a work dir's `last_checkpoint` stands for, if any.

    That is a file of the work dir, which may have been moved since; or of a folder
    called as the work dir, where mmengine saves by `out_dir`. Whether there is such a
    file is not looked at.

    Raises:
        UserError: If it names no checkpoint, or one elsewhere.
    """
    pointer = work_dir / POINTER
    if not pointer.is_file():
        return None
    with pointer.open('rb') as file:
        text = file.read(LONGEST).decode('utf-8', 'replace').strip()
    if not text:
        return None
    if not is_name(text) or not text.endswith('.pth'):
        shown = repr(text[:80])
        raise UserError(
            f'{pointer}: names no checkpoint (*.pth) but {shown}: delete it, or choose '
            'a checkpoint by --resume FILE'
        )
    named, moved = Path(text), work_dir / Path(text).name
    if moved.is_file():
        return moved
    if named.is_file() and named.parent.name != work_dir.resolve().name:
        raise UserError(
            f'{pointer}: names {text}, which is not in this folder: if you want to go '
            f'on from it, say --resume {text}'
        )
    return named


def read_first(
    paths: Sequence[str | Path], read: Callable[[str], dict]
) -> tuple[str, dict]:
    """Read the first of some checkpoints that can be read, by all processes alike.

    Args:
        paths: Files, the wanted one first; the others are taken with a warning.
        read: What reads one.

    Returns:
        Which one it was, and what it holds.

    Raises:
        CheckpointError: If none can be read; also `OSError`.
    """
    problems = []
    for path in paths:
        try:
            content = read(str(path))
            problem = None
        except UntrustedCheckpointError:
            raise
        except (CheckpointError, OSError) as error:
            problem = error
        if all_true(problem is None):
            break
        problems.append(problem or CheckpointError(f'{path}: not read everywhere'))
    else:
        raise problems[0]
    if problems:
        warn(f'{one_line(problems[-1])}: goes on from {path}, which is older')
    return str(path), content
