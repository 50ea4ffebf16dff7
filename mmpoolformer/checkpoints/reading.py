"""Reading checkpoint files without running what is in them.

A `.pth` file is a pickle, and a pickle may call any function. Files are read by
`torch.load(weights_only=True)`, which is told that numpy arrays and mmengine's
`HistoryBuffer`, which every mmengine checkpoint holds, are harmless. Before that
`pickle_check` looks at what torch doesn't, and here the records of zip archives are
looked at: torch believes their sizes and doesn't compare their checksums.

torch before 2.6 can be made to run code in spite of `weights_only` (CVE-2025-32434);
there only `.safetensors` and `.pdparams` files are read. There is no fall-back: who
knows a file says `trust=True` or sets `MMPOOLFORMER_TRUST_CHECKPOINTS=1`.

Tensors come to the CPU, whatever device they were saved from.
"""

import argparse
import io
import mmap
import os
import pickle
import re
import tarfile
import threading
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from torch import Tensor, nn, serialization

from mmpoolformer.checkpoints.errors import (
    CheckpointError,
    UntrustedCheckpointError,
    errors_of,
)
from mmpoolformer.checkpoints.folders import (
    OURS,
    checkpoint_files,
    class_names,
    joined,
    preparation,
    read_config,
)
from mmpoolformer.checkpoints.keymaps import without_marks
from mmpoolformer.checkpoints.paddle import SUFFIX, read_paddle
from mmpoolformer.checkpoints.pickle_check import (
    ARRAY_NAMES,
    HISTORY,
    METHODS,
    NUMPY,
    ONE_CYCLE,
    STORAGES,
    TORCH_NAMES,
    PickleCheck,
)
from mmpoolformer.utils.paths import is_exported
from mmpoolformer.utils.text import first_few

PICKLE = b'\x80'  # the first byte since protocol 2
SAFE_TORCH = (2, 6)
MOST_HEADER = 2**24  # bytes of safetensors' table, 100 or so a tensor
TRUST_VARIABLE = 'MMPOOLFORMER_TRUST_CHECKPOINTS'

# torch.save writes pickles of this protocol, and torch's safe reader knows no other.
_PROTOCOL = 2
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001


def read_checkpoint(path: str | os.PathLike, *, trust: bool = False) -> dict:
    """Read a checkpoint file without running anything in it.

    Args:
        path: A file written by `torch.save` (today's or the format before 1.6), a
            `.safetensors` file, a `.pdparams` file of Paddle's, or a folder with
            such files, as transformers' `save_pretrained` writes it.
        trust: Whether to let the file run whatever it asks for, as pickle does by
            itself. Only for files that you or people you trust have made. The
            environment variable `MMPOOLFORMER_TRUST_CHECKPOINTS=1` says the same for
            every file. Files of Paddle's never get more.

    Returns:
        What the file holds, its tensors on the CPU; of a folder also the names
        of the classes and the preparation of pictures that it gives, in `meta`.

    Raises:
        FileNotFoundError: If there is no such file.
        UntrustedCheckpointError: If the file asks for more than data.
        CheckpointError: If it is damaged or no checkpoint at all.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        shards = (read_checkpoint(p, trust=trust) for p in checkpoint_files(path))
        whole, meta = joined(path, shards), {}
        if names := class_names(path):  # where checkpoints of tools/train.py have them
            meta['dataset_meta'] = {'classes': names}
        if prepared := preparation(path):
            meta['preparation'] = prepared
        if OURS in read_config(path):
            meta[OURS] = True
        return {**whole, 'meta': meta} if meta else whole
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
        _check_torch(path)
        content = _read_safely(path, head)
    if not isinstance(content, dict):
        raise CheckpointError(
            f'{path} holds a {type(content).__name__}, not a dict of weights'
        )
    _check_names(path, content)
    return without_marks(
        {k: without_marks(v) if isinstance(v, dict) else v for k, v in content.items()}
    )


def _check_torch(path: Path) -> None:
    version = torch.__version__
    if tuple(int(n) for n in re.findall(r'\d+', version)[:2]) < SAFE_TORCH:
        raise UntrustedCheckpointError(
            f'{path} was not read: a crafted file can run code in torch {version} even '
            'by weights_only=True. Install torch 2.6 or newer, take a .safetensors '
            'file, or, if you trust who made this one, say so with trust=True (--trust '
            f'in the tools) or {TRUST_VARIABLE}=1'
        )


def _check_names(path: Path, content: dict) -> None:
    """Refuse entries and weights that are called by anything but text."""
    entries = [entry for entry in content.values() if isinstance(entry, dict)]
    weights = [e for e in entries if any(isinstance(v, Tensor) for v in e.values())]
    for entry in (content, *weights):
        wrong = [repr(key) for key in entry if not isinstance(key, str)]
        if wrong:
            raise CheckpointError(
                f'{path} has names that are not text: {first_few(wrong)}'
            )


def _read_safetensors(path: Path) -> dict:
    # Imported here: the other formats don't need it.
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with errors_of(path, '', SafetensorError):
        with path.open('rb') as file:
            size = int.from_bytes(file.read(8), 'little')
        if size > MOST_HEADER:
            raise ValueError(f'a header of {size} bytes')
        return load_file(path, device='cpu')


def _read_trusted(path: Path) -> object:
    with errors_of(path):
        content = torch.load(path, map_location='cpu', weights_only=False)
    # A whole model, as torch.save(model) writes it, or a TorchScript program.
    return content.state_dict() if isinstance(content, nn.Module) else content


def _read_safely(path: Path, head: bytes) -> object:
    is_zip = head[:4] == b'PK\x03\x04'
    if not is_zip and head[:1] != PICKLE:
        raise CheckpointError(f'{path} is no checkpoint: {_other_kind(path, head)}')
    advice = (
        ', which is more than weights need and could run code, so it was not read. If '
        'you trust who made the file, say so with trust=True (--trust in the tools) or '
        f'{TRUST_VARIABLE}=1'
    )
    with errors_of(path, advice):
        return _read_zip(path) if is_zip else _read_legacy(path)


def _other_kind(path: Path, head: bytes) -> str:
    """Say what a file that is no checkpoint is instead."""
    if not head:
        return 'it is empty'
    if is_exported(path):
        return 'exported models are for mmpoolformer test, infer and demo'
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
        file_size = path.stat().st_size
        if sum(info.file_size for info in archive.infolist()) > file_size:
            raise ValueError('its records are larger than the file')
        order = f'{root}byteorder'
        if order in records and archive.read(order) != b'little':
            raise ValueError('it was saved on a big-endian machine')
        stream = archive.read(pickles[0])
        check = PickleCheck(io.BytesIO(stream), TORCH_NAMES, file_size, _PROTOCOL)
        check.run()
        return _load(_rebuilt(archive, root, stream, check.storages))


def _rebuilt(
    archive: zipfile.ZipFile,
    root: str,
    stream: bytes,
    storages: Mapping[str, tuple[str, int]],
) -> BinaryIO:
    """Write the archive anew, in memory: what was checked and nothing else.

    Two readers can see different records in one crafted archive.
    """
    anew = io.BytesIO()
    with zipfile.ZipFile(anew, 'w') as result:
        result.writestr('archive/data.pkl', stream)
        result.writestr('archive/byteorder', 'little')
        result.writestr('archive/version', '3\n')
        for key, (kind, count) in storages.items():
            record = archive.getinfo(f'{root}data/{key}')
            size = STORAGES[kind] * count
            if record.file_size != size:
                raise ValueError(
                    f'storage {key!r} has {record.file_size} bytes, not {size}'
                )
            result.writestr(f'archive/data/{key}', archive.read(record))
    anew.seek(0)
    return anew


def _read_legacy(path: Path) -> object:
    """Read the format of torch.save before 1.6: pickles, then data, in a row."""
    with path.open('rb') as file:
        # Mapped: there a read gives what is there, however much a file announces.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
            _check_legacy(stream)
        return _load(file)


def _check_legacy(stream: mmap.mmap) -> None:
    size = len(stream)

    def check(protocol: int = _PROTOCOL) -> object:
        return PickleCheck(stream, ARRAY_NAMES, size, protocol).run()

    # The newest, to name them for what they are.
    if check(pickle.HIGHEST_PROTOCOL) != _LEGACY_MAGIC:
        raise ValueError(
            'it is a pickle, but not one of torch.save; the name of a file of '
            f'Paddle must end in {SUFFIX}'
        )
    if check() != _LEGACY_VERSION or check()['little_endian'] is not True:
        raise ValueError('it was saved in an unknown way')
    content = PickleCheck(stream, TORCH_NAMES, size, _PROTOCOL)
    content.run()
    if sum(STORAGES[kind] * count for kind, count in content.storages.values()) > size:
        raise ValueError('it is shorter than its storages')
    # Those not listed here would keep whatever was in memory.
    if sorted(check()) != sorted(content.storages):
        raise ValueError('its list of storages is wrong')


# torch keeps one list for the process.
_LOCK = threading.Lock()


def _load(file: BinaryIO) -> object:
    """Read what was checked by torch's reader, with our list of harmless names."""
    with _LOCK:
        others = serialization.get_safe_globals()
        serialization.clear_safe_globals()
        serialization.add_safe_globals(_harmless())
        try:
            return torch.load(file, map_location='cpu', weights_only=True)
        except pickle.UnpicklingError as error:
            # Without torch's advice, which is to read it in the unsafe way.
            text = str(error).partition('WeightsUnpickler error: ')[2] or str(error)
            raise ValueError(text.partition('Check the documentation')[0]) from error
        finally:
            serialization.clear_safe_globals()
            serialization.add_safe_globals(others)


def _harmless() -> list[tuple[object, str]]:
    """Return what torch may call and change beside its own list, by name."""
    listed = {
        **NUMPY,
        'argparse.Namespace': argparse.Namespace,
        'builtins.getattr': _method,
        **_CLASSES,
        **{f'dtype {kind}': type(np.dtype(kind)) for kind in np.typecodes['All']},
    }
    return [(value, name) for name, value in listed.items()]


def _method(kind: type, name: str) -> Callable:
    """Stand in for `getattr`: only for the functions of `METHODS`."""
    for path, known in _CLASSES.items():
        if kind is known and name in METHODS[path]:
            return getattr(kind, name)
    raise UntrustedCheckpointError(f'the attribute {name!r} of {kind!r}')


_CLASSES = {HISTORY: HistoryBuffer, ONE_CYCLE: OneCycleParamScheduler}
