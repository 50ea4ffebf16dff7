"""Converting checkpoint files from one codebase's names to another's."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from mmpoolformer.checkpoints import paddle
from mmpoolformer.checkpoints.errors import CheckpointError
from mmpoolformer.checkpoints.keymaps import (
    convert_state_dict,
    find_prefix,
    under,
    with_dot,
    with_linear_turned,
)
from mmpoolformer.checkpoints.loading import (
    WRAPPERS,
    file_format,
    state_of,
    unwrap,
)
from mmpoolformer.checkpoints.reading import read_checkpoint
from mmpoolformer.checkpoints.zoo import resolve_source
from mmpoolformer.utils.files import atomic_file
from mmpoolformer.utils.paths import split_entry
from mmpoolformer.utils.temporary import interrupts_held
from mmpoolformer.utils.text import first_few

# Training states are lists in the order of the parameters, which codebases number
# differently: under other names they would silently go to other parameters.
TRAINING_STATES = re.compile('optim|sched|scaler|message_hub')


@dataclass(frozen=True)
class ConversionReport:
    """What `convert_file` did.

    Attributes:
        source: The format found in the file; empty if it was not looked for.
        target: The format made; empty if names stayed.
        prefix: What stood before the names, and still does.
        entries: The entries of the file that were converted; `''` is the file itself.
        renamed: Number of tensors with names of the format, over all entries.
        kept: Number of other tensors (a detector's neck and heads), left as they were.
        dropped: Entries that are not in the new file.
    """

    source: str
    target: str
    prefix: str
    entries: tuple[str, ...]
    renamed: int
    kept: int
    dropped: tuple[str, ...]

    def __str__(self) -> str:
        """Say it in one line."""
        parts = [
            f'{self.renamed} tensors from {self.source} to {self.target} names'
            if self.target
            else f'{self.kept} tensors under their own names'
        ]
        if self.entries != ('',):
            parts.append(f'in {first_few(self.entries)}')
        if self.prefix:
            parts.append(f'under {self.prefix!r}')
        if self.kept and self.target:
            parts.append(f'{self.kept} others kept')
        if self.dropped:
            parts.append(f'without {first_few(self.dropped)}')
        return ', '.join(parts)


def convert_file(
    source: str | os.PathLike,
    destination: str | os.PathLike,
    target: str | None,
    *,
    source_format: str | None = None,
    prefix: str | None = None,
    entry: str | None = None,
    trust: bool = False,
    force: bool = False,
) -> ConversionReport:
    """Write a checkpoint anew with the names of another codebase.

    Values don't change, and converting back gives the same weights. Weights stay in
    the entry in which they were (`state_dict`, and averaged ones in theirs), beside
    other data; training states are left out. A `.safetensors` file holds the weights
    alone, averaged ones if there are some.

    Args:
        source: What `read_source` takes.
        destination: The file to make, whole or not at all.
        target: The format to make, one of `FORMATS`; for a `.pdparams` file `paddle`.
            None leaves the names of any model as they are.
        source_format: The format of the source; detected automatically.
        prefix: What stands before the backbone's names, such as `'backbone'`; detected
            automatically if not given.
        entry: The entry to take, see `unwrap`; the new file holds no other weights.
        trust: See `read_checkpoint`.
        force: Whether to replace an existing file.

    Returns:
        What was done.

    Raises:
        FileExistsError: If the destination exists, without `force`.
        ValueError: If the file can't be read or converted.
    """
    destination = Path(destination).expanduser()
    if destination.exists() and not force:
        raise FileExistsError(f'{destination} exists: choose another name, or --force')
    if destination.suffix == paddle.SUFFIX and target != 'paddle':
        raise ValueError(
            f'{destination}: a {paddle.SUFFIX} file takes the names of paddle; choose '
            'that format, or another ending'
        )
    source, entry = split_entry(source, entry)
    path = resolve_source(source)
    content = read_checkpoint(path, trust=trust)
    if path.suffix == paddle.SUFFIX and source_format == 'paddle':
        source_format = None  # the reader has turned the linear weights
    flat = destination.suffix in FLAT
    entries = _entries(content, source, entry, only_first=flat)
    first = next(iter(entries.values()))
    if target is None:
        part, converted = {}, entries
    else:
        prefix = find_prefix(first) if prefix is None else with_dot(prefix)
        part = under(prefix, first)
        converted = {
            name: convert_state_dict(weights, target, source_format, prefix)
            for name, weights in entries.items()
        }
    if destination.suffix == paddle.SUFFIX:  # the others' linear weights too
        for weights in converted.values():
            others = {k: v for k, v in weights.items() if not k.startswith(prefix)}
            weights.update(with_linear_turned(others))
    result = _result(content, converted, flat, entry)
    _write(result, destination)
    return ConversionReport(
        source=file_format(path, part) if target else '',
        target=target or '',
        prefix=prefix or '',
        entries=tuple(entries),
        renamed=len(part) * len(entries),
        kept=(len(first) - len(part)) * len(entries),
        dropped=tuple(
            key
            for key in content
            if '' not in entries and key not in entries and key not in result
        ),
    )


def _entries(
    content: Mapping, name: str, entry: str | None, only_first: bool
) -> dict[str, dict[str, Tensor]]:
    """Return the entries that hold weights, the preferred one first."""
    first, weights = unwrap(content, name, entry)
    entries = {first: weights}
    if first and entry is None and not only_first:
        others = (w for w in WRAPPERS if w != first)
        entries |= {
            w: content[w] for w in others if isinstance(content.get(w), Mapping)
        }
    return entries


def _result(
    content: Mapping, converted: Mapping[str, dict], flat: bool, entry: str | None
) -> dict:
    first = next(iter(converted))
    if flat or first == '':
        return converted[first]
    if entry is not None or first not in content:
        return state_of(converted[first], content)
    return {
        key: converted.get(key, value)
        for key, value in content.items()
        if not TRAINING_STATES.search(key)
    }


def _write(result: dict, destination: Path) -> None:
    try:
        with interrupts_held(), atomic_file(destination) as file:
            FLAT.get(destination.suffix, torch.save)(result, file)
    except RuntimeError as error:  # as torch reports a full disk
        raise CheckpointError(f'cannot write {destination}: {error}') from error


def write_safetensors(weights: Mapping[str, Tensor], file: BinaryIO) -> None:
    """Write weights as a `.safetensors` file."""
    # Imported here: the other formats don't need it.
    from safetensors.torch import save

    # The format knows neither views nor shared memory.
    file.write(save({k: v.contiguous().clone() for k, v in weights.items()}, META))


META = {'format': 'pt'}  # transformers asks for it
# What writes the files that hold weights and nothing else, by their endings.
FLAT = {'.safetensors': write_safetensors, paddle.SUFFIX: paddle.write_paddle}
