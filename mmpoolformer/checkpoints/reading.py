"""Reading checkpoint files without running what is in them.

A `.pth` file is a pickle, and a pickle may call any function. `torch.load` guards
against that with `weights_only=True`, but not well enough for us:

- torch 2.1, which we support, can be made to run code in spite of it
  (CVE-2025-32434), and it can't be told that numpy arrays or mmengine's
  `HistoryBuffer`, which every mmengine checkpoint holds, are harmless;
- newer versions can be told, but for the whole process, and mmengine's own list
  contains `getattr`.

So files are read here, by one mechanism for all versions of torch: a pickle machine
that knows data and nothing else, see `unpickling`. There is no fall-back: who knows a
file says `trust=True` or sets `MMPOOLFORMER_TRUST_CHECKPOINTS=1`.

Tensors come to the CPU, whatever device they were saved from.
"""

import errno
import io
import os
import re
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from mmpoolformer.checkpoints.errors import (
    CheckpointError,
    UntrustedCheckpointError,
    cause_of,
)
from mmpoolformer.checkpoints.paddle import SUFFIX, read_paddle
from mmpoolformer.checkpoints.unpickling import STREAM_ERRORS, TABLE, Unpickler

PICKLE = b'\x80'  # the first byte since protocol 2
TRUST_VARIABLE = 'MMPOOLFORMER_TRUST_CHECKPOINTS'

# How a damaged file can fail.
_ERRORS = (*STREAM_ERRORS, zipfile.BadZipFile)

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001


def read_checkpoint(path: str | os.PathLike, *, trust: bool = False) -> dict:
    """Read a checkpoint file without running anything in it.

    Args:
        path: A file written by `torch.save` (today's or the format before 1.6), a
            `.safetensors` file, or a `.pdparams` file of Paddle's.
        trust: Whether to let the file run whatever it asks for, as pickle does by
            itself. Only for files that you or people you trust have made. The
            environment variable `MMPOOLFORMER_TRUST_CHECKPOINTS=1` says the same for
            every file. Files of Paddle's never get more.

    Returns:
        What the file holds, its tensors on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        UntrustedCheckpointError: If the file asks for more than data.
        CheckpointError: If it is damaged or no checkpoint at all.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f'no checkpoint file {str(path)!r}')
    with path.open('rb') as file:
        head = file.read(64)
    if path.suffix == '.safetensors' or head[8:10] == b'{"':
        content = _read_safetensors(path)
    elif path.suffix == SUFFIX and head[:1] == PICKLE:
        content = read_paddle(path)
    elif trust or os.environ.get(TRUST_VARIABLE) == '1':
        content = _read_trusted(path)
    else:
        content = _read_safely(path, head)
    if not isinstance(content, dict):
        raise CheckpointError(
            f'{path} holds a {type(content).__name__}, not a dict of weights'
        )
    return content


def _read_safetensors(path: Path) -> dict:
    # Imported here: the other formats don't need it.
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device='cpu')
    except (SafetensorError, *STREAM_ERRORS) as error:
        cause = cause_of(error)
        raise CheckpointError(f'{path} is damaged or truncated: {cause}') from error


def _read_trusted(path: Path) -> object:
    try:
        return torch.load(path, map_location='cpu', weights_only=False)
    except _ERRORS as error:
        cause = cause_of(error)
        raise CheckpointError(f'{path} is damaged or no checkpoint: {cause}') from error


def _read_safely(path: Path, head: bytes) -> object:
    try:
        if head[:4] == b'PK\x03\x04':
            return _read_zip(path)
        if head[:1] == PICKLE:
            return _read_legacy(path)
    except UntrustedCheckpointError as error:
        wanted = str(error)[:200]
        raise UntrustedCheckpointError(
            f'{path} asks for {wanted}, which is more than weights need and could run '
            'code, so it was not read. If you trust who made the file, say so with '
            f'trust=True (--trust in the tools) or {TRUST_VARIABLE}=1'
        ) from None
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place before the file's start
            raise
        cause = cause_of(error)
        raise CheckpointError(f'{path} is damaged or truncated: {cause}') from error
    except _ERRORS as error:
        cause = cause_of(error)
        raise CheckpointError(f'{path} is damaged or truncated: {cause}') from error
    raise CheckpointError(f'{path} is no checkpoint: {_other_kind(path, head)}')


def _other_kind(path: Path, head: bytes) -> str:
    """Say what a file that is no checkpoint is instead."""
    if not head:
        return 'it is empty'
    if head.lstrip()[:1] == b'<':
        return 'it is a web page, as servers send in place of a missing file'
    if head.startswith(b'version https://git-lfs'):
        return 'it is a Git LFS pointer; fetch the file itself with "git lfs pull"'
    if tarfile.is_tarfile(path):
        return 'it is a tar archive (of a torch before 0.1.10, or yet to be unpacked)'
    return 'it does not start like a file of torch.save, safetensors or Paddle'


def _read_zip(path: Path) -> object:
    """Read the format of torch.save since 1.6: a zip archive of one pickle and data."""
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in records if re.fullmatch('[^/]+/data.pkl', name)]
        if len(pickles) != 1:
            raise ValueError('the archive is not one of torch.save')
        root = pickles[0].removesuffix('data.pkl')
        if f'{root}constants.pkl' in records:
            raise UntrustedCheckpointError('a TorchScript program')
        for info in records.values():
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f'{info.filename!r} is not as torch.save writes it')
        # Records could lie over each other, so that few bytes stand for many.
        if sum(info.file_size for info in archive.infolist()) > path.stat().st_size:
            raise ValueError('its records are larger than the file')
        order = f'{root}byteorder'
        if order in records and archive.read(order) != b'little':
            raise ValueError('it was saved on a big-endian machine')
        storages = _ZipStorages(archive, records, root)
        return Unpickler(io.BytesIO(archive.read(pickles[0])), TABLE, storages).load()


class _ZipStorages:
    """Hands out the tensors' memory from the records of a zip archive."""

    def __init__(
        self,
        archive: zipfile.ZipFile,
        records: Mapping[str, zipfile.ZipInfo],
        root: str,
    ) -> None:
        self.archive = archive
        self.records = records
        self.root = root
        self.loaded = {}

    def __call__(
        self, dtype: torch.dtype, key: str, count: int, *rest: object
    ) -> Tensor:
        """Return the storage called `key` as a tensor (count,)."""
        if rest or not isinstance(key, str):
            raise ValueError('a storage is described in an unknown way')
        if (key, dtype) not in self.loaded:
            record = self.records[f'{self.root}data/{key}']
            size = _size(dtype, count)
            if record.file_size != size:
                raise ValueError(
                    f'storage {key!r} has {record.file_size} bytes, not {size}'
                )
            raw = torch.empty(size, dtype=torch.uint8)
            with self.archive.open(record) as stream:
                _fill(raw, stream)
            self.loaded[key, dtype] = raw.view(dtype)
        return self.loaded[key, dtype]


def _read_legacy(path: Path) -> object:
    """Read the format of torch.save before 1.6: pickles, then data, in a row."""
    with path.open('rb') as file:
        storages = _LegacyStorages(path.stat().st_size)

        def load() -> object:
            return Unpickler(file, TABLE, storages).load()

        if load() != _LEGACY_MAGIC:
            raise ValueError(
                'it is a pickle, but not one of torch.save; the name of a file of '
                f'Paddle must end in {SUFFIX}'
            )
        if load() != _LEGACY_VERSION or load()['little_endian'] is not True:
            raise ValueError('it was saved in an unknown way')
        content = load()
        keys = load()
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise ValueError('its list of storages is wrong')
        if set(keys) != set(storages.raw):
            raise ValueError('its list of storages is wrong')
        for key in keys:
            storages.fill(key, file)
        return content


class _LegacyStorages:
    """Hands out memory that is filled later, as the old format has the data last."""

    def __init__(self, file_size: int) -> None:
        self.bytes_left = file_size
        self.raw = {}

    def __call__(
        self, dtype: torch.dtype, key: str, count: int, view: tuple | None = None
    ) -> Tensor:
        """Return the storage called `key`, or a part of it, as a tensor (count,)."""
        size = _size(dtype, count)
        if not isinstance(key, str):
            raise ValueError('a storage is described in an unknown way')
        if key not in self.raw:
            self.bytes_left -= size
            if self.bytes_left < 0:
                raise ValueError('it is shorter than its storages')
            self.raw[key] = torch.empty(size, dtype=torch.uint8), dtype
        raw, _ = self.raw[key]
        flat = raw.view(dtype)
        if view is not None:
            _, start, count = view
            flat = flat[start : start + count]
        return flat

    def fill(self, key: str, file: BinaryIO) -> None:
        """Read the data of the storage called `key`."""
        raw, dtype = self.raw[key]
        (count,) = struct.unpack('<q', file.read(8))
        if _size(dtype, count) != raw.numel():
            raise ValueError(f'storage {key!r} is not as long as announced')
        _fill(raw, file)


def _size(dtype: torch.dtype, count: int) -> int:
    """Return the bytes that `count` numbers take."""
    if not isinstance(dtype, torch.dtype) or type(count) is not int or count < 0:
        raise ValueError('a storage is described in an unknown way')
    return count * torch.empty(0, dtype=dtype).element_size()


def _fill(raw: Tensor, stream: BinaryIO) -> None:
    """Read bytes from a stream into a tensor (size,) of uint8."""
    rest = memoryview(raw.numpy())
    while rest:
        read = stream.readinto(rest)
        if not read:
            raise EOFError(f'{len(rest)} bytes of a tensor are missing')
        rest = rest[read:]
