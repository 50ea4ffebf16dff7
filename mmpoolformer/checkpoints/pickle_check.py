"""Checking a pickle before anything is made of it.

A pickle is a program for a small stack machine. `PickleCheck` runs it on Python's own
machine, but with nothing behind the names: whatever a call would make is a `Made`, and
what checkpoints don't need is refused. What torch's `weights_only=True` guards against
is code; it lacks the following, each of which a small file could use to take all time
or memory of a machine, or worse:

- torch calls some functions with whatever arguments a file gives (`_codecs.encode`,
  constructors of tensors of any size, numpy's `__setstate__`), sets any attribute of a
  few kinds of objects, and changes numpy's own dtype objects;
- it believes the sizes of storages: more than a zip record has is read from beyond its
  end;
- references may double what they refer to again and again, and keys of dicts may be
  nested, or all have the same hash.

The check takes time and memory in proportion to the number of instructions, at most
`MOST_STEPS`, in which it looks through `MOST_ITEMS` (seconds, and 300 MB at the worst).
What passes has at most `MOST_ITEMS` even if every reference is followed, `MOST_TIMES`
the bytes of its pickle plus `ALLOWANCE`, and tensors that written out in full take at
most `MOST_TIMES` the size of its file plus `DENSE_ALLOWANCE`.
"""

import codecs
import collections
import dataclasses
import itertools
import math
import pickle
import pickletools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import BinaryIO

import numpy as np

from mmpoolformer.checkpoints.errors import UntrustedCheckpointError

MOST_STEPS = 2**20  # instructions; a detector with its optimizer has 100,000
MOST_ITEMS = 2**22  # of containers, every reference counted anew
MOST_TIMES = 16
ALLOWANCE = 2**20  # bytes
DENSE_ALLOWANCE = 2**28  # bytes
MOST_DEPTH = 100
MOST_DIMENSIONS = 32
MOST_INTEGER_BITS = 256  # longer ones take long to write out

_STORAGES = {
    1: 'Bool Byte Char',
    2: 'BFloat16 Half Short',
    4: 'Float Int',
    8: 'ComplexFloat Double Long',
    16: 'ComplexDouble',
}
# Bytes of one number in a storage, by the name of its type in pickles.
STORAGES = {f'{n}Storage': size for size, ns in _STORAGES.items() for n in ns.split()}
DTYPES = (
    *('float64', 'float32', 'float16', 'bfloat16', 'complex64', 'complex128'),
    *('int64', 'int32', 'int16', 'int8', 'uint8', 'bool'),
)

# Functions of classes that mmengine's checkpoints name, as getattr(class, name).
HISTORY = 'mmengine.logging.history_buffer.HistoryBuffer'
ONE_CYCLE = 'mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler'
METHODS = {
    HISTORY: ('min', 'max', 'current', 'mean'),
    ONE_CYCLE: ('_annealing_cos', '_annealing_linear'),
}
HISTORY_STATE = {'max_length', '_log_history', '_count_history', 'statistics_methods'}
# What torch.compile notes at the tensors that it has seen.
TENSOR_STATE = {'_dynamo_static_input_type'}


@dataclasses.dataclass(eq=False)
class Made:
    """What a name stands for, or a call would make.

    Attributes:
        kind: What it is.
        value: Of names the name, of arrays' types their bytes, of storages their type
            and count, of bytes as many characters.
        parts: What it was made from.
        dense: Bytes of a tensor, written out in full.
    """

    kind: str
    value: object = None
    parts: Sequence = ()
    dense: int = 0


def _measure(value: object, known: dict, level: int = 0) -> tuple[int, int, int, int]:
    """Return items, bytes, bytes of tensors written out in full, and how deep it is.

    Every reference counts anew. `known` is what was measured before, by `id`.
    """
    if isinstance(value, int) and value.bit_length() > MOST_INTEGER_BITS:
        raise ValueError(f'a whole number of {value.bit_length()} bits')
    if not isinstance(value, Made | tuple | list | dict):
        return 1, 8 + (len(value) if isinstance(value, str | bytes) else 0), 0, 0
    if id(value) not in known:
        items, cost, dense, depth = 1, 8, getattr(value, 'dense', 0), level + 1
        for part in _parts(value) if level < MOST_DEPTH else ():
            size = _measure(part, known, level + 1)
            items, cost, dense = items + size[0], cost + size[1], dense + size[2]
            depth = max(depth, level + 1 + size[3])
        if depth > MOST_DEPTH:
            raise ValueError(
                f'it is nested more than {MOST_DEPTH} deep, or holds itself (recursion)'
            )
        known[id(value)] = items, cost, dense, depth - level
    return known[id(value)]


def _parts(value: Made | tuple | list | dict) -> Iterable:
    if isinstance(value, Made):
        return value.parts
    if not isinstance(value, dict):
        return value
    # An OrderedDict has the versions of its modules as an attribute.
    attributes = [*getattr(value, '__dict__', {}).values()]
    for version in itertools.chain(*(_of(a, *DICTS).values() for a in attributes)):
        _of(version, *DICTS)
    return [*value, *value.values(), *attributes]


class PickleCheck(pickle._Unpickler):
    """One run over one pickle, by the machine of `pickle` that is written in Python.

    Args:
        stream: Where the pickle starts.
        names: Names that it may use, as `module.name`.
        file_size: Bytes of the whole file.
        protocol: The newest protocol that it may be of.

    Attributes:
        storages: What it says of storages: (name of the type, count) by key.
    """

    def __init__(
        self, stream: BinaryIO, names: frozenset[str], file_size: int, protocol: int
    ) -> None:
        super().__init__(stream, encoding='utf-8')
        self.stream = stream
        self.names = names
        self.most = protocol
        self.file_size = file_size
        self.storages = {}
        self.spent = 0
        self.dispatch = _Instructions(INSTRUCTIONS)

    def run(self) -> object:
        """Follow the pickle up to its end; return what is known of what it makes.

        Raises:
            UntrustedCheckpointError: If it asks for something that is not data.
            ValueError: If it costs too much; others of `STREAM_ERRORS` if it is
                damaged.
        """
        start = self.stream.tell()
        root = self.load()
        if self.proto > self.most:
            # Which torch's reader would warn of, and then fail at.
            raise ValueError(
                f'it is of pickle protocol {self.proto}, not {self.most} or less'
            )
        items, cost, dense, _ = _measure(root, {})
        length = self.stream.tell() - start
        if items > MOST_ITEMS or cost > MOST_TIMES * length + ALLOWANCE:
            raise ValueError('it repeats what it holds too often')
        if dense > MOST_TIMES * self.file_size + DENSE_ALLOWANCE:
            raise ValueError('its tensors repeat their memory too often')
        return root

    def spend(self, value: object) -> None:
        """Count what is about to be looked through."""
        self.spent += _measure(value, {})[0]
        if self.spent > MOST_STEPS:
            raise ValueError('it repeats what it holds too often')

    def find_class(self, module: str, name: str) -> Made:
        """Name something of a module."""
        full = f'{module}.{name}'.replace('__builtin__.', 'builtins.', 1)
        if full not in self.names:
            raise UntrustedCheckpointError(repr(f'{module}.{name}'))
        return Made('name', full)

    def persistent_load(self, pid: object) -> Made:
        """Follow a reference to a storage: how many numbers of which type."""
        self.spend(pid)
        is_storage = isinstance(pid, tuple) and pid[:1] == ('storage',)
        if not is_storage or self.names != TORCH_NAMES:
            raise UntrustedCheckpointError('something outside that is not a storage')
        _, kind, key, _, count, *view = pid
        type_name = _of(kind, 'name').value.rpartition('.')[2]
        if type_name not in STORAGES or len(view) > 1:
            raise ValueError('a storage is described in an unknown way')
        described = (type_name, _number(count))
        if self.storages.setdefault(_of(key, 'str'), described) != described:
            raise ValueError(f'storage {key!r} is described in two ways')
        if view and view[0] is not None:  # a part of a storage, in the old format
            _, start, length = _of(view[0], 'tuple')
            if _number(start) + _number(length) > count:
                raise ValueError('a part of a storage lies outside of it')
            count = length
        return Made('storage', (type_name, count), pid)

    def keep(self) -> None:
        """Keep what is on top of the stack, to refer to it."""
        index = int.from_bytes(self.read(4), 'little')
        if index >= MOST_STEPS:  # Python makes room for all smaller numbers too
            raise ValueError(f'it refers to number {index}')
        self.memo[index] = self.stack[-1]

    def set_items(self, items: list | None = None) -> None:
        """Fill a dict."""
        items = self.pop_mark() if items is None else items
        _check_keys(items[::2])
        pairs = zip(items[::2], items[1::2], strict=True)
        _of(self.stack[-1], *DICTS).update(dict(pairs))

    def set_item(self) -> None:
        """Set one item of a dict."""
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def call(self) -> None:
        """Follow a call of a function with a tuple of arguments."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if _kind(function) != 'name' or function.value not in FUNCTIONS:
            raise UntrustedCheckpointError(f'a call of {_described(function)}')
        self.spend(_of(arguments, 'tuple'))
        self.append(FUNCTIONS[function.value](*arguments))

    def make(self) -> None:
        """Follow a new object of a class, without arguments."""
        arguments, kind = self.stack.pop(), self.stack.pop()
        made = OBJECTS.get(kind.value) if _kind(kind) == 'name' else None
        if made is None or arguments != ():
            raise UntrustedCheckpointError(f'a new object of {_described(kind)}')
        self.append(Made(made))

    def build(self) -> None:
        """Follow giving an object its state."""
        state, target = self.stack.pop(), self.stack[-1]
        if _kind(target) not in STATES:
            raise UntrustedCheckpointError(f'a state for {_described(target)}')
        self.spend(state)
        STATES[_kind(target)](state)
        if isinstance(target, dict):
            vars(target).update(state)
        else:
            state = state.values() if isinstance(state, dict) else [state]
            target.parts = [*target.parts, *state]


class _Instructions(dict):
    """The machine's table of instructions, which counts them."""

    steps = 0

    def __getitem__(self, code: int) -> Callable:
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise ValueError(f'it has more than {MOST_STEPS} pickle instructions')
        return super().__getitem__(code)

    def __missing__(self, code: int) -> Callable:
        name = pickletools.code2op[chr(code)].name  # a KeyError where there is none
        raise UntrustedCheckpointError(f'the pickle instruction {name}')


_PLAIN = """
    NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT
    BINUNICODE SHORT_BINUNICODE BINUNICODE8 SHORT_BINSTRING
    BINBYTES SHORT_BINBYTES BINBYTES8
    EMPTY_TUPLE EMPTY_LIST EMPTY_DICT TUPLE TUPLE1 TUPLE2 TUPLE3 MARK APPEND APPENDS
    BINPUT MEMOIZE BINGET LONG_BINGET GLOBAL STACK_GLOBAL BINPERSID PROTO FRAME STOP
"""
INSTRUCTIONS = {
    getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]]
    for name in _PLAIN.split()
} | {
    pickle.LONG_BINPUT[0]: PickleCheck.keep,
    pickle.SETITEM[0]: PickleCheck.set_item,
    pickle.SETITEMS[0]: PickleCheck.set_items,
    pickle.REDUCE[0]: PickleCheck.call,
    pickle.NEWOBJ[0]: PickleCheck.make,
    pickle.BUILD[0]: PickleCheck.build,
}
OBJECTS = {HISTORY: 'history', 'argparse.Namespace': 'Namespace'}
DICTS = ('dict', 'OrderedDict', 'Counter')


def _kind(value: object) -> str:
    return value.kind if isinstance(value, Made) else type(value).__name__


def _described(value: object) -> str:
    return f'a {value.value if _kind(value) == "name" else _kind(value)}'


def _of(value: object, *kinds: str) -> object:
    if _kind(value) not in kinds:
        raise ValueError(f'a {_kind(value)} in place of a {kinds[0]}')
    return value


def _number(value: object) -> int:
    if _of(value, 'int') < 0:
        raise ValueError(f'{value} as a size of a tensor or of a numpy array')
    return value


def _numbers(value: object) -> list[int]:
    """Read a shape or strides."""
    parts = value.parts if _kind(value) == 'size' else _of(value, 'tuple')
    if len(parts) > MOST_DIMENSIONS:
        raise ValueError('a shape is described in an unknown way')
    return [_number(part) for part in parts]


def _check_keys(keys: Iterable) -> None:
    """Accept texts and numbers of 32 bits, which can't all have the same hash."""
    for key in keys:
        is_number = type(key) is int and -(2**31) <= key < 2**31
        if type(key) is not str and not is_number:
            raise UntrustedCheckpointError(f'a {_kind(key)} as a key')


# -- functions: what they make of which arguments ----------------------------------


def _ordered_dict(pairs: object = ()) -> dict:
    """Accept none, or, as Python 2 writes it, a list of pairs."""
    pairs = [tuple(_of(pair, 'list', 'tuple')) for pair in _of(pairs, 'list', 'tuple')]
    _check_keys(key for key, _ in pairs)
    return collections.OrderedDict(pairs)


def _set(values: object = ()) -> Made:
    _check_keys(_of(values, 'list', 'tuple'))
    return Made('set', None, values)


def _encode(text: object, encoding: object) -> Made:
    """Accept how old pickles write bytes."""
    if encoding != 'latin1':
        raise UntrustedCheckpointError('an unusual text encoding')
    # As text: as many characters as there will be bytes, and no copy.
    return Made('bytes', _of(text, 'str'), [text])


def _method(kind: object, name: object) -> Made:
    wanted = (_of(kind, 'name').value, _of(name, 'str'))
    if name not in METHODS.get(kind.value, ()):
        raise UntrustedCheckpointError(f'the attribute {name!r} of {kind.value}')
    return Made('method', wanted)


def _dtype(name: object, align: object, copy: object) -> Made:
    """Accept types of numbers; `copy`, so that none of numpy's own is changed."""
    if not re.fullmatch(r'[biufc]\d{1,2}', _of(name, 'str')) or align or copy != 1:
        raise UntrustedCheckpointError(f'a numpy array of type {name!r}')
    return Made('dtype', np.dtype(name).itemsize)


def _reconstruct(kind: object, shape: object, code: object) -> Made:
    code = getattr(code, 'value', code)
    name = _of(kind, 'name').value
    if (name, shape) != ('numpy.ndarray', (0,)) or code not in ('b', b'b'):
        raise UntrustedCheckpointError(f'an unusual array, {_described(kind)}')
    return Made('array')


def _scalar(dtype: object, data: object) -> Made:
    _check_bytes(dtype, 1, data)
    return Made('scalar', None, [data])


def _check_bytes(dtype: object, count: int, data: object) -> None:
    if _kind(dtype) != 'dtype' or _kind(data) != 'bytes':
        raise UntrustedCheckpointError('a numpy array of objects')
    if count * dtype.value != len(getattr(data, 'value', data)):
        raise ValueError('a numpy array is not as long as announced')


def _tensor(
    storage: object,
    offset: object,
    size: object,
    stride: object,
    requires_grad: bool = False,
    hooks: object = None,
) -> Made:
    """Accept a view of a storage that lies inside it, without hooks."""
    type_name, count = _of(storage, 'storage').value
    shape, strides = _numbers(size), _numbers(stride)
    last = sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if math.prod(shape) and _number(offset) + last >= count:
        raise ValueError('a tensor lies outside its storage')
    dense = STORAGES[type_name] * math.prod(shape)
    if dense > 2**62:
        raise ValueError('its tensors repeat their memory too often')
    made = Made('tensor', None, [storage, size, stride], dense)
    return _parameter(made, requires_grad, hooks)


def _parameter(tensor: object, requires_grad: bool, hooks: object) -> Made:
    if _of(hooks, 'NoneType', *DICTS):
        raise UntrustedCheckpointError('a tensor with hooks')
    return _of(tensor, 'tensor')


def _tensor_with_state(function: object, kind: object, arguments: tuple, state) -> Made:
    """Accept tensors with the notes that torch.compile adds to them."""
    _of(function, 'name'), _of(kind, 'name')
    if function.value not in TENSORS or kind.value != 'torch.Tensor':
        raise UntrustedCheckpointError(f'a tensor by {_described(function)}')
    _check_attributes(state, TENSOR_STATE)
    if any(not isinstance(v, str | bytes | int | float | None) for v in state.values()):
        raise UntrustedCheckpointError('a tensor with an unusual state')
    return _tensor(*_of(arguments, 'tuple'))


# -- states: what objects of each kind may be given --------------------------------


def _check_attributes(state: object, names: Iterable[str] | None = None) -> None:
    for key in _of(state, 'dict'):
        if not isinstance(key, str) or (names is not None and key not in names):
            raise UntrustedCheckpointError(f'an object with a state of {key!r}')


def _check_history(state: object) -> None:
    """Accept what mmengine writes; with other methods it would change the class."""
    _check_attributes(state, HISTORY_STATE)
    methods = state.get('statistics_methods', {})
    _check_attributes(methods)
    for name, method in methods.items():
        if _kind(method) != 'method' or method.value != (HISTORY, name):
            raise UntrustedCheckpointError('other methods of HistoryBuffer')


def _check_dtype(state: object) -> None:
    """Accept the state of a plain type, which says nothing new about it."""
    if state not in [(3, order, None, None, None, -1, -1, 0) for order in '<|=']:
        raise UntrustedCheckpointError('a numpy array of an unusual type')


def _check_array(state: object) -> None:
    _, shape, dtype, _, data = _of(state, 'tuple')
    _check_bytes(dtype, math.prod(_numbers(shape)), data)


STATES: Mapping[str, Callable[[object], None]] = {
    'OrderedDict': lambda state: _check_attributes(state, ['_metadata']),
    'Namespace': _check_attributes,
    'history': _check_history,
    'dtype': _check_dtype,
    'array': _check_array,
}

# What makes arrays: our stand-in, and what it stands for once the arguments are known
# to be sound. numpy has named the last two in two ways, before and after 2.0.
_RECONSTRUCT, _SCALAR = np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0]
ARRAYS = {
    'collections.OrderedDict': (_ordered_dict, collections.OrderedDict),
    '_codecs.encode': (_encode, codecs.encode),
    'numpy.dtype': (_dtype, np.dtype),
    'builtins.bytes': (lambda: b'', bytes),
    'builtins.tuple': (lambda values: tuple(_of(values, 'list', 'tuple')), tuple),
}
for _module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
    ARRAYS[f'{_module}._reconstruct'] = (_reconstruct, _RECONSTRUCT)
    ARRAYS[f'{_module}.scalar'] = (_scalar, _SCALAR)
NUMPY = {name: real for name, (_, real) in ARRAYS.items()} | {
    'numpy.ndarray': np.ndarray
}
TENSORS = ('torch._utils._rebuild_tensor', 'torch._utils._rebuild_tensor_v2')
FUNCTIONS: Mapping[str, Callable] = {
    **{name: check for name, (check, _) in ARRAYS.items()},
    **dict.fromkeys(TENSORS, _tensor),
    'collections.Counter': lambda *counts: collections.Counter(
        *(_of(count, *DICTS) for count in counts)
    ),
    'torch.Size': lambda numbers: Made('size', None, _numbers(numbers)),
    'torch.device': lambda *arguments: Made('device', None, arguments),
    'torch._utils._rebuild_parameter': _parameter,
    'torch._tensor._rebuild_from_type_v2': _tensor_with_state,
    'builtins.set': _set,
    'builtins.complex': lambda *arguments: Made('complex', None, arguments),
    'builtins.getattr': _method,
}

# What files may name that hold numpy arrays in plain containers, and files of
# torch.save, mmengine's with their training states among them.
ARRAY_NAMES = frozenset(NUMPY)
TORCH_NAMES = (
    frozenset(FUNCTIONS)
    | {'numpy.ndarray', 'argparse.Namespace', 'torch.Tensor', *METHODS}
    | {f'torch.{name}' for name in (*DTYPES, *STORAGES)}
    | {f'torch.cuda.{name}' for name in STORAGES}
)
