"""The pickle machine, cut down to data.

It has the instructions that data needs, and a literal table of what a file may name.
Most entries are small functions of our own in place of the real ones; each checks its
arguments. Instructions that set attributes work on a few types in a few ways
(`Unpickler.load_build`). Everything else is refused, and the message says what the file
asked for.
"""

import argparse
import collections
import math
import pickle
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import BinaryIO

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from torch import Tensor

from mmpoolformer.checkpoints.errors import UntrustedCheckpointError

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
STREAM_ERRORS = (
    pickle.UnpicklingError,
    struct.error,
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


class Unpickler(pickle._Unpickler):
    """Python's own machine, not the one in C, where no instruction can be replaced.

    Args:
        stream: The pickle.
        table: What it may name, by module and name.
        storages: Hands out the memory that tensors refer to; None where there are none.
    """

    dispatch = _Instructions(
        (code, pickle._Unpickler.dispatch[code])
        for code in (getattr(pickle, name)[0] for name in _INSTRUCTIONS.split())
    )

    def __init__(
        self,
        stream: BinaryIO,
        table: Mapping[tuple[str, str], object],
        storages: Callable[..., Tensor] | None = None,
    ) -> None:
        super().__init__(stream, encoding='utf-8')
        self.table = table
        self.storages = storages

    def find_class(self, module: str, name: str) -> object:
        """Look a name up in the table; nothing is imported."""
        if (module, name) not in self.table:
            raise UntrustedCheckpointError(repr(f'{module}.{name}'))
        return self.table[module, name]

    def persistent_load(self, saved_id: object) -> Tensor:
        """Return the memory that a tensor refers to."""
        is_storage = isinstance(saved_id, tuple) and saved_id[:1] == ('storage',)
        if not is_storage or self.storages is None:
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
        _of_type(self.stack[-1], dict)[_key(key)] = value

    def load_setitems(self) -> None:
        """Set items of a dict."""
        items = self.pop_mark()
        target = _of_type(self.stack[-1], dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    def load_dict(self) -> None:
        """Make a dict of keys and values."""
        items = self.pop_mark()
        self.append(_mapping(zip(items[::2], items[1::2], strict=True)))

    def load_additems(self) -> None:
        """Add values to a set."""
        values = self.pop_mark()
        _of_type(self.stack[-1], set).update(_set(values))

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.APPEND[0]] = load_append
    dispatch[pickle.APPENDS[0]] = load_appends
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.ADDITEMS[0]] = load_additems


def _type_name(value: object) -> str:
    kind = value.kind if type(value) is _Kind else type(value)
    return kind.__name__


def _of_type(target: object, kind: type) -> object:
    if not isinstance(target, kind):
        raise ValueError(f'a {_type_name(target)} in place of a {kind.__name__}')
    return target


def _key(value: object) -> object:
    """Accept a key of a dict, or a member of a set: a plain value, or a row of such.

    A small file can nest tuples so that their hash takes years.
    """
    parts = value if type(value) is tuple else (value,)
    if not all(isinstance(part, _PLAIN) for part in parts):
        raise UntrustedCheckpointError(f'a {_type_name(value)} as a key')
    return value


def _mapping(pairs: Iterable = ()) -> dict:
    """Make a dict of pairs, or of another dict."""
    pairs = pairs.items() if isinstance(pairs, dict) else pairs
    return {_key(key): value for key, value in pairs}


def _ordered(pairs: Iterable = ()) -> collections.OrderedDict:
    """Stand in for `OrderedDict`."""
    return collections.OrderedDict(_mapping(pairs))


def _counter(counts: dict | None = None) -> collections.Counter:
    """Stand in for `Counter`, which pickles as a call with a dict."""
    return collections.Counter(_mapping(counts or {}))


def _set(values: Iterable = ()) -> set:
    """Stand in for `set`."""
    return {_key(value) for value in values}


def _tuple(values: list | tuple = ()) -> tuple:
    """Stand in for `tuple`; a tensor could be much longer than its memory."""
    if not isinstance(values, list | tuple):
        raise UntrustedCheckpointError(f'a tuple of a {_type_name(values)}')
    return tuple(values)


def _size(numbers: list | tuple) -> torch.Size:
    """Stand in for `torch.Size`."""
    return torch.Size(_whole(_tuple(numbers)))


def _device(name: str, index: int | None = None) -> torch.device:
    """Stand in for `torch.device`."""
    if not isinstance(name, str) or type(index) not in (int, type(None)):
        raise ValueError('a device is described in an unknown way')
    return torch.device(name) if index is None else torch.device(name, index)


def _whole(numbers: tuple) -> tuple:
    """Accept a shape or strides: few whole numbers."""
    is_row = isinstance(numbers, tuple) and len(numbers) <= _MOST_DIMENSIONS
    if not is_row or any(type(n) is not int for n in numbers):
        raise ValueError('a shape is described in an unknown way')
    return numbers


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
    count = math.prod(_whole(size))
    if count > max(len(storage), _MOST_REPEATED):
        raise ValueError('a tensor that repeats its memory too often')
    (offset,) = _whole((offset,))
    start = storage.storage_offset()
    # Refuses what would lie outside the storage.
    return torch.as_strided(storage, size, _whole(stride), start + offset)


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
    if any(n < 0 for n in _whole(shape)):
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
    if count * max(1, dtype.itemsize) != len(data):
        raise ValueError('a numpy array is not as long as announced')


_PLAIN = (str, bytes, bool, int, float, complex, np.generic, type(None))
_MOST_DIMENSIONS = 32
# Numbers that a tensor may have beyond its memory, by strides of 0.
_MOST_REPEATED = 2**28

# Classes whose objects are made without arguments and then get their attributes.
_MADE = (HistoryBuffer, argparse.Namespace)

# Functions of classes that mmengine's checkpoints name, as getattr(class, name).
_METHODS = {
    HistoryBuffer: ('min', 'max', 'current', 'mean'),
    OneCycleParamScheduler: ('_annealing_cos', '_annealing_linear'),
}

# The same names as Python 2 and 3, and numpy before and after 2.0, give them.
_BUILTINS = ('builtins', '__builtin__')
_MULTIARRAY = ('numpy.core.multiarray', 'numpy._core.multiarray')

# What files may name that hold numpy arrays in plain containers.
ARRAYS = {
    ('collections', 'OrderedDict'): _Function(_ordered),
    ('_codecs', 'encode'): _Function(_latin1),
    ('numpy', 'dtype'): _Function(_dtype),
    ('numpy', 'ndarray'): _Kind(np.ndarray),
    **{(module, 'bytes'): _Function(_no_bytes) for module in _BUILTINS},
    **{(module, 'tuple'): _Function(_tuple) for module in _BUILTINS},
    **{(module, '_reconstruct'): _Function(_empty_array) for module in _MULTIARRAY},
    **{(module, 'scalar'): _Function(_scalar) for module in _MULTIARRAY},
}

# What files of torch.save may name, mmengine's with their training states among them.
TABLE = {
    **ARRAYS,
    ('collections', 'Counter'): _Function(_counter),
    ('argparse', 'Namespace'): _Kind(argparse.Namespace),
    ('torch', 'Size'): _Function(_size),
    ('torch', 'device'): _Function(_device),
    ('torch._utils', '_rebuild_tensor'): _Function(_tensor),
    ('torch._utils', '_rebuild_tensor_v2'): _Function(_tensor),
    ('torch._utils', '_rebuild_parameter'): _Function(_parameter),
    **{('torch', name): getattr(torch, name) for name in _DTYPES},
    **{('torch', name): dtype for name, dtype in _STORAGES.items()},
    **{('torch.cuda', name): dtype for name, dtype in _STORAGES.items()},
    **{(module, 'set'): _Function(_set) for module in _BUILTINS},
    **{(module, 'complex'): _Function(complex) for module in _BUILTINS},
    **{(module, 'getattr'): _Function(_method) for module in _BUILTINS},
    **{(k.__module__, k.__name__): _Kind(k) for k in _METHODS},
    # Newer pickles name a class's functions directly.
    **{
        (kind.__module__, f'{kind.__name__}.{name}'): getattr(kind, name)
        for kind, names in _METHODS.items()
        for name in names
    },
}
