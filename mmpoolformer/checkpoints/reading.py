"""Reading checkpoint files without running what is in them.

A `.pth` file is a pickle, and a pickle may call any function. `torch.load` guards
against that with `weights_only=True`, but not well enough for us:

- torch 2.1, which we support, can be made to run code in spite of it
  (CVE-2025-32434), and it can't be told that numpy arrays or mmengine's
  `HistoryBuffer`, which every mmengine checkpoint holds, are harmless;
- newer versions can be told, but for the whole process, and mmengine's own list
  contains `getattr`.

So files are read here, by one mechanism for all versions of torch: Python's pickle
machine, cut down to the instructions that data needs, with a literal table of what a
file may name (`_TABLE`). Most entries are small functions of our own in place of the
real ones; each checks its arguments. Instructions that set attributes work on a few
types in a few ways (`_Unpickler.load_build`). Everything else is refused, and the
message says what the file asked for. There is no fall-back: who knows a file says
`trust=True` or sets `MMPOOLFORMER_TRUST_CHECKPOINTS=1`.

Tensors come to the CPU, whatever device they were saved from.
"""

import argparse
import collections
import io
import math
import os
import pickle
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from torch import Tensor

from mmpoolformer.checkpoints.errors import CheckpointError, UntrustedCheckpointError

TRUST_VARIABLE = 'MMPOOLFORMER_TRUST_CHECKPOINTS'

_STORAGES = {
    'DoubleStorage': torch.float64,
    'FloatStorage': torch.float32,
    'HalfStorage': torch.float16,
    'BFloat16Storage': torch.bfloat16,
    'LongStorage': torch.int64,
    'IntStorage': torch.int32,
    'ShortStorage': torch.int16,
    'CharStorage': torch.int8,
    'ByteStorage': torch.uint8,
    'BoolStorage': torch.bool,
    'ComplexFloatStorage': torch.complex64,
    'ComplexDoubleStorage': torch.complex128,
}
_DTYPES = tuple(str(dtype).removeprefix('torch.') for dtype in _STORAGES.values())

# The pickle instructions that data needs. Not among them: INST, OBJ, NEWOBJ_EX and the
# extension registry, other ways to name and call things.
_INSTRUCTIONS = """
MARK STOP POP POP_MARK DUP PROTO FRAME PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET
LONG_BINGET NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT
BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 UNICODE
BINUNICODE SHORT_BINUNICODE BINUNICODE8 EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE
TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT DICT SETITEM SETITEMS EMPTY_SET ADDITEMS GLOBAL
STACK_GLOBAL REDUCE NEWOBJ BUILD BINPERSID
"""

# How a damaged or malicious stream of instructions can fail.
_STREAM_ERRORS = (
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
    TypeError,
    ValueError,
)

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001


def read_checkpoint(path: str | os.PathLike, *, trust: bool = False) -> dict:
    """Read a checkpoint file without running anything in it.

    Args:
        path: A file written by `torch.save` (today's or the format before 1.6), or a
            `.safetensors` file.
        trust: Whether to let the file run whatever it asks for, as pickle does by
            itself. Only for files that you or people you trust have made. The
            environment variable `MMPOOLFORMER_TRUST_CHECKPOINTS=1` says the same for
            every file.

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
    except SafetensorError as error:
        raise CheckpointError(f'{path} is damaged or truncated: {error}') from error


def _read_trusted(path: Path) -> object:
    try:
        return torch.load(path, map_location='cpu', weights_only=False)
    except _STREAM_ERRORS as error:
        raise CheckpointError(f'{path} is damaged or no checkpoint: {error}') from error


def _read_safely(path: Path, head: bytes) -> object:
    try:
        if head[:4] == b'PK\x03\x04':
            return _read_zip(path)
        if head[:1] == b'\x80':
            return _read_legacy(path)
    except UntrustedCheckpointError as error:
        wanted = str(error)[:200]
        raise UntrustedCheckpointError(
            f'{path} asks for {wanted}, which is more than weights need and could run '
            'code, so it was not read. If you trust who made the file, say so with '
            f'trust=True (--trust in the tools) or {TRUST_VARIABLE}=1'
        ) from None
    except _STREAM_ERRORS as error:
        cause = str(error) or type(error).__name__
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
    return 'it does not start like a file of torch.save or safetensors'


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
        size = path.stat().st_size
        for info in records.values():
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > size:
                raise ValueError(f'{info.filename!r} is not as torch.save writes it')
        order = f'{root}byteorder'
        if order in records and archive.read(order) != b'little':
            raise ValueError('it was saved on a big-endian machine')
        storages = _ZipStorages(archive, records, root)
        return _Unpickler(io.BytesIO(archive.read(pickles[0])), storages).load()


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
        if rest:
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
            return _Unpickler(file, storages).load()

        if load() != _LEGACY_MAGIC:
            raise ValueError('it is a pickle, but not one of torch.save')
        if load() != _LEGACY_VERSION or load()['little_endian'] is not True:
            raise ValueError('it was saved in an unknown way')
        content = load()
        keys = load()
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


class _Function:
    """Something that a file may call."""

    __slots__ = ('call',)

    def __init__(self, call: Callable) -> None:
        self.call = call


class _Kind:
    """A class that a file may name, but not call."""

    __slots__ = ('kind',)

    def __init__(self, kind: type) -> None:
        self.kind = kind


class _Instructions(dict):
    """The pickle machine's functions by instruction."""

    def __missing__(self, code: int) -> None:
        raise UntrustedCheckpointError(f'the pickle instruction {bytes([code])!r}')


class _Unpickler(pickle._Unpickler):
    """The pickle machine, cut down to data.

    Python's own implementation, not the C one, because only there can single
    instructions be replaced.
    """

    dispatch = _Instructions(
        (code, pickle._Unpickler.dispatch[code])
        for code in (getattr(pickle, name)[0] for name in _INSTRUCTIONS.split())
    )

    def __init__(self, stream: BinaryIO, storages: Callable[..., Tensor]) -> None:
        super().__init__(stream, encoding='utf-8')
        self.storages = storages

    def find_class(self, module: str, name: str) -> object:
        """Look a name up in the table; nothing is imported."""
        if (module, name) not in _TABLE:
            raise UntrustedCheckpointError(repr(f'{module}.{name}'))
        return _TABLE[module, name]

    def persistent_load(self, saved_id: object) -> Tensor:
        """Return the memory that a tensor refers to."""
        if not isinstance(saved_id, tuple) or saved_id[:1] != ('storage',):
            raise UntrustedCheckpointError('something outside that is not a storage')
        _, dtype, key, _location, *rest = saved_id
        return self.storages(dtype, key, *rest)

    def load_reduce(self) -> None:
        """Call a function of the table."""
        arguments = self.stack.pop()
        function = self.stack[-1]
        if type(function) is not _Function:
            raise UntrustedCheckpointError(f'a call of a {_type_name(function)}')
        self.stack[-1] = function.call(*arguments)

    def load_newobj(self) -> None:
        """Make an object of a class of the table, without arguments."""
        arguments = self.stack.pop()
        kind = self.stack[-1]
        if type(kind) is not _Kind or kind.kind not in _MADE or arguments != ():
            raise UntrustedCheckpointError(f'a new object of a {_type_name(kind)}')
        self.stack[-1] = kind.kind()

    def load_build(self) -> None:
        """Give the object on top its state, if it is of a kind that has one."""
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is np.ndarray:
            _set_array(target, state)
        elif isinstance(target, np.dtype):
            _check_dtype_state(state)
        elif type(target) is HistoryBuffer:
            # Not `statistics_methods`, with which mmengine would change the class.
            own = vars(target)
            own.update((k, v) for k, v in _string_keys(state).items() if k in own)
        elif type(target) is argparse.Namespace:
            vars(target).update(_string_keys(state))
        elif type(target) is collections.OrderedDict:
            # A state dict carries the versions of its modules as an attribute.
            metadata = _string_keys(state).get('_metadata')
            if isinstance(metadata, dict):
                target._metadata = metadata
        else:
            raise UntrustedCheckpointError(f'a state for a {_type_name(target)}')

    def load_append(self) -> None:
        """Append one value to a list."""
        value = self.stack.pop()
        _of_type(self.stack[-1], list).append(value)

    def load_appends(self) -> None:
        """Append values to a list."""
        values = self.pop_mark()
        _of_type(self.stack[-1], list).extend(values)

    def load_setitem(self) -> None:
        """Set one item of a dict."""
        value = self.stack.pop()
        key = self.stack.pop()
        _of_type(self.stack[-1], dict)[key] = value

    def load_setitems(self) -> None:
        """Set items of a dict."""
        items = self.pop_mark()
        target = _of_type(self.stack[-1], dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[key] = value

    def load_additems(self) -> None:
        """Add values to a set."""
        values = self.pop_mark()
        _of_type(self.stack[-1], set).update(values)

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.APPEND[0]] = load_append
    dispatch[pickle.APPENDS[0]] = load_appends
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.ADDITEMS[0]] = load_additems


def _type_name(value: object) -> str:
    kind = value.kind if type(value) is _Kind else type(value)
    return kind.__name__


def _of_type(target: object, kind: type) -> object:
    if not isinstance(target, kind):
        raise ValueError(f'a {_type_name(target)} in place of a {kind.__name__}')
    return target


def _string_keys(state: object) -> dict:
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise UntrustedCheckpointError('an object with an unusual state')
    return state


def _tensor(
    storage: Tensor, offset: int, size: tuple, stride: tuple, *_: object
) -> Tensor:
    """Stand in for torch's `_rebuild_tensor` and `_rebuild_tensor_v2`.

    What else these take (whether gradients are wanted, hooks) is not kept.
    """
    if not isinstance(storage, Tensor) or storage.ndim != 1:
        raise ValueError('a tensor without memory')
    # Refuses what would lie outside the storage.
    return torch.as_strided(storage, size, stride, storage.storage_offset() + offset)


def _parameter(tensor: Tensor, requires_grad: bool, *_: object) -> torch.nn.Parameter:
    """Stand in for torch's `_rebuild_parameter`."""
    return torch.nn.Parameter(_of_type(tensor, Tensor), bool(requires_grad))


def _method(kind: _Kind, name: str) -> Callable:
    """Stand in for `getattr`: only for the functions in `_METHODS`."""
    if type(kind) is _Kind and name in _METHODS.get(kind.kind, ()):
        return getattr(kind.kind, name)
    raise UntrustedCheckpointError(f'the attribute {name!r} of a {_type_name(kind)}')


def _latin1(text: str, encoding: str) -> bytes:
    """Stand in for `_codecs.encode`, by which old pickles write bytes."""
    if encoding != 'latin1':
        raise UntrustedCheckpointError(f'the text encoding {encoding!r}')
    return text.encode('latin1')


def _no_bytes() -> bytes:
    """Stand in for `bytes`, by which old pickles write empty ones."""
    return b''


def _dtype(name: str, *_: object) -> np.dtype:
    """Stand in for `numpy.dtype`: only numbers and strings."""
    if not re.fullmatch(r'[biufcSU]\d{1,6}', name):
        raise UntrustedCheckpointError(f'a numpy array of type {name!r}')
    return np.dtype(name)


def _check_dtype_state(state: tuple) -> None:
    """Accept the state of a plain type, which says nothing new about it."""
    if len(state) != 8 or state[1] not in '<|=' or state[2:5] != (None, None, None):
        raise UntrustedCheckpointError('a numpy array of an unusual type')


def _empty_array(kind: _Kind, *_: object) -> np.ndarray:
    """Stand in for numpy's `_reconstruct`: an array that gets its state later."""
    if type(kind) is not _Kind or kind.kind is not np.ndarray:
        raise UntrustedCheckpointError(f'an array that is a {_type_name(kind)}')
    return np.empty(0, np.int8)


def _set_array(array: np.ndarray, state: tuple) -> None:
    """Give an array its shape, type and data; numpy itself believes anything."""
    _, shape, dtype, is_fortran, data = state
    if any(type(n) is not int or n < 0 for n in shape):
        raise ValueError('a numpy array of an impossible shape')
    _check_bytes(dtype, math.prod(shape), data)
    array.__setstate__((1, tuple(shape), dtype, bool(is_fortran), data))


def _scalar(dtype: np.dtype, data: bytes) -> np.generic:
    """Stand in for numpy's `scalar`."""
    _check_bytes(dtype, 1, data)
    return np.frombuffer(data, dtype)[0]


def _check_bytes(dtype: np.dtype, count: int, data: bytes) -> None:
    if not isinstance(dtype, np.dtype) or not isinstance(data, bytes):
        raise UntrustedCheckpointError('a numpy array of objects')
    if count * dtype.itemsize != len(data):
        raise ValueError('a numpy array is not as long as announced')


# Classes whose objects are made without arguments and then get their attributes.
_MADE = (HistoryBuffer, argparse.Namespace)

# Functions of classes that mmengine's checkpoints name, as getattr(class, name).
_METHODS = {
    HistoryBuffer: ('min', 'max', 'current', 'mean'),
    OneCycleParamScheduler: ('_annealing_cos', '_annealing_linear'),
}

# Everything that a file may name.
_TABLE = {
    ('collections', 'OrderedDict'): _Function(collections.OrderedDict),
    ('collections', 'Counter'): _Function(collections.Counter),
    ('_codecs', 'encode'): _Function(_latin1),
    ('argparse', 'Namespace'): _Kind(argparse.Namespace),
    ('torch', 'Size'): _Function(torch.Size),
    ('torch', 'device'): _Function(torch.device),
    ('torch._utils', '_rebuild_tensor'): _Function(_tensor),
    ('torch._utils', '_rebuild_tensor_v2'): _Function(_tensor),
    ('torch._utils', '_rebuild_parameter'): _Function(_parameter),
    **{('torch', name): getattr(torch, name) for name in _DTYPES},
    **{('torch', name): dtype for name, dtype in _STORAGES.items()},
    **{('torch.cuda', name): dtype for name, dtype in _STORAGES.items()},
    ('numpy', 'dtype'): _Function(_dtype),
    ('numpy', 'ndarray'): _Kind(np.ndarray),
    ('mmengine.logging.history_buffer', 'HistoryBuffer'): _Kind(HistoryBuffer),
    ('mmengine.optim.scheduler.param_scheduler', 'OneCycleParamScheduler'): _Kind(
        OneCycleParamScheduler
    ),
}
# The same under the names that Python 2 and 3 and numpy before and after 2.0 give.
for _module in ('builtins', '__builtin__'):
    _TABLE[_module, 'set'] = _Function(set)
    _TABLE[_module, 'complex'] = _Function(complex)
    _TABLE[_module, 'bytes'] = _Function(_no_bytes)
    _TABLE[_module, 'getattr'] = _Function(_method)
for _module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
    _TABLE[_module, '_reconstruct'] = _Function(_empty_array)
    _TABLE[_module, 'scalar'] = _Function(_scalar)
# Newer pickles name a class's functions directly.
for _kind, _names in _METHODS.items():
    for _name in _names:
        _TABLE[_kind.__module__, f'{_kind.__name__}.{_name}'] = getattr(_kind, _name)
