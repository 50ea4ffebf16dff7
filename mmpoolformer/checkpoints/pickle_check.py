"""Checking a pickle before anything is made of it.

A pickle is a program for a small stack machine. `check_pickle` follows it without
running it: what the program would put on the stack is represented by `Node`, and
whatever checkpoints don't need is refused. What torch's `weights_only=True` guards
against is code; it lacks the following, each of which a small file could use to take
all time or memory of a machine, or worse:

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
import itertools
import math
import pickle
import pickletools
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import BinaryIO

import numpy as np

from mmpoolformer.checkpoints.errors import UntrustedCheckpointError

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
    SystemError,
    TypeError,
    ValueError,
)

MOST_STEPS = 2**20  # instructions; a detector with its optimizer has 100,000
MOST_ITEMS = 2**22  # of containers, every reference counted anew
MOST_TIMES = 16
ALLOWANCE = 2**20  # bytes
DENSE_ALLOWANCE = 2**28  # bytes
MOST_DEPTH = 100
MOST_DIMENSIONS = 32
# Longer numbers could be keys of equal hashes, or take long to write out.
MOST_INTEGER_BYTES = 32

STORAGES = {
    'DoubleStorage': 8,
    'FloatStorage': 4,
    'HalfStorage': 2,
    'BFloat16Storage': 2,
    'LongStorage': 8,
    'IntStorage': 4,
    'ShortStorage': 2,
    'CharStorage': 1,
    'ByteStorage': 1,
    'BoolStorage': 1,
    'ComplexFloatStorage': 8,
    'ComplexDoubleStorage': 16,
}
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

_LITERALS = {
    'none': 'NONE',
    'bool': 'NEWTRUE NEWFALSE',
    'int': 'BININT BININT1 BININT2 LONG1',
    'float': 'BINFLOAT',
    'text': 'BINUNICODE SHORT_BINUNICODE BINUNICODE8 SHORT_BINSTRING',
    'bytes': 'BINBYTES SHORT_BINBYTES BINBYTES8',
}
LITERALS = {op: kind for kind, ops in _LITERALS.items() for op in ops.split()}
FIXED = {'NEWTRUE': True, 'NEWFALSE': False}  # their values are no arguments
EMPTY = {'EMPTY_TUPLE': 'tuple', 'EMPTY_LIST': 'list', 'EMPTY_DICT': 'dict'}
TUPLES = {'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3}
DICTS = ('dict', 'OrderedDict', 'Counter')
PUTS = ('BINPUT', 'LONG_BINPUT', 'MEMOIZE')
GETS = ('BINGET', 'LONG_BINGET')


class Node:
    """What one instruction would make.

    Attributes:
        kind: What it is.
        value: Of literals the value, of names the name, of tensors their dtype.
        parts: What it is made of; of dicts keys and values in turn.
        cost: Bytes that it takes, every reference counted anew.
        dense: Bytes of its tensors, written out in full, every reference counted anew.
        size: Items in it, every reference counted anew.
        depth: How deep it is nested.
        is_open: Whether it is still being filled.
    """

    __slots__ = ('cost', 'dense', 'depth', 'is_open', 'kind', 'parts', 'size', 'value')

    def __init__(
        self, kind: str, value: object = None, parts: Sequence['Node'] = ()
    ) -> None:
        self.kind = kind
        self.value = value
        self.parts = []
        self.cost = 8 + (len(value) if isinstance(value, str | bytes) else 0)
        self.dense = 0
        self.size = 1
        self.depth = 0
        self.is_open = True
        self.add(*parts)

    def add(self, *parts: 'Node') -> None:
        """Put parts into it."""
        self.absorb(*parts)
        self.parts += parts

    def absorb(self, *parts: 'Node') -> None:
        """Count what it is made from."""
        for part in parts:
            part.is_open = False
            self.cost += part.cost
            self.dense += part.dense
            self.size += part.size
            self.depth = max(self.depth, part.depth + 1)
        if self.depth > MOST_DEPTH:
            raise ValueError(f'it is nested more than {MOST_DEPTH} deep')


class PickleCheck:
    """One run over one pickle.

    Args:
        names: Names that the pickle may use, as `module.name`.
        file_size: Bytes of the whole file.
        protocol: The newest protocol of pickle that it may be of.

    Attributes:
        storages: What the pickle says of storages: (name of the type, count) by key.
    """

    def __init__(self, names: frozenset[str], file_size: int, protocol: int) -> None:
        self.names = names
        self.most = protocol
        self.file_size = file_size
        self.storages = {}
        self.spent = 0
        self.protocol = 2
        self.stack = []
        self.marks = []
        self.memo = {}

    def run(self, stream: BinaryIO) -> Node:
        """Follow the pickle at the place where a stream is, up to its end.

        Raises:
            UntrustedCheckpointError: If it asks for something that is not data.
            ValueError: If it is damaged, or costs too much.
        """
        start = stream.tell()
        for step, (op, argument, _) in enumerate(pickletools.genops(stream)):
            if step >= MOST_STEPS:
                raise ValueError(f'it has more than {MOST_STEPS} pickle instructions')
            if op.proto > self.protocol:
                raise ValueError(f'{op.name} is not of protocol {self.protocol}')
            self.step(op.name, argument)
        if self.protocol > self.most:
            # Which torch's reader would warn of, and then fail at.
            raise ValueError(
                f'it is of pickle protocol {self.protocol}, not {self.most} or less'
            )
        if len(self.stack) != 1 or self.marks:
            raise ValueError('its pickle ends in the middle')
        root = self.stack.pop()
        if root.size > MOST_ITEMS:
            raise ValueError('it repeats what it holds too often')
        if root.cost > MOST_TIMES * (stream.tell() - start) + ALLOWANCE:
            raise ValueError('it repeats what it holds too often')
        if root.dense > MOST_TIMES * self.file_size + DENSE_ALLOWANCE:
            raise ValueError('its tensors repeat their memory too often')
        return root

    def step(self, op: str, argument: object) -> None:
        """Follow one instruction."""
        if op in LITERALS:
            self.stack.append(_literal(LITERALS[op], FIXED.get(op, argument)))
        elif op in GETS:
            self.get(argument)
        elif op in PUTS:
            self.put(len(self.memo) if op == 'MEMOIZE' else argument)
        elif op in EMPTY:
            self.stack.append(Node(EMPTY[op]))
        elif op in TUPLES:
            self.stack.append(Node('tuple', None, self.pop(TUPLES[op])))
        elif op == 'MARK':
            self.marks.append(len(self.stack))
        elif op == 'TUPLE':
            self.stack.append(Node('tuple', None, self.pop_mark()))
        elif op in ('APPEND', 'APPENDS'):
            parts = self.pop(1) if op == 'APPEND' else self.pop_mark()
            self.target('list').add(*parts)
        elif op in ('SETITEM', 'SETITEMS'):
            parts = self.pop(2) if op == 'SETITEM' else self.pop_mark()
            _check_keys(parts[::2], len(parts) % 2 == 0)
            self.target(*DICTS).add(*parts)
        elif op == 'GLOBAL':
            self.name(*argument.split(' ', 1))
        elif op == 'STACK_GLOBAL':
            self.name(*(_literal_text(part) for part in self.pop(2)))
        elif op in CALLS:
            CALLS[op](self)
        elif op == 'PROTO':
            self.protocol = max(self.protocol, argument)
        elif op not in ('FRAME', 'STOP'):
            raise UntrustedCheckpointError(f'the pickle instruction {op}')

    def pop(self, count: int) -> list[Node]:
        """Take from the stack, but not beyond the last mark."""
        floor = self.marks[-1] if self.marks else 0
        if len(self.stack) - count < floor:
            raise ValueError('its pickle takes what is not there')
        parts = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return parts

    def pop_mark(self) -> list[Node]:
        """Take what was put on the stack since the last mark."""
        parts = self.pop(len(self.stack) - self.marks[-1])
        self.marks.pop()
        return parts

    def target(self, *kinds: str) -> Node:
        """Return what is to be filled, on top of the stack."""
        (node,) = self.pop(1)
        self.stack.append(node)
        if not node.is_open:
            raise ValueError('it changes what is in use, or holds itself (recursion)')
        return _of(node, *kinds)

    def put(self, index: int) -> None:
        """Keep what is on top of the stack, to refer to it."""
        if index >= MOST_STEPS:  # Python makes room for all smaller numbers too
            raise ValueError(f'it refers to number {index}')
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        """Refer to something again, which must be finished."""
        node = self.memo[index]
        node.is_open = False
        self.stack.append(node)

    def spend(self, node: Node) -> None:
        """Count what is about to be looked through."""
        self.spent += node.size
        if self.spent > MOST_ITEMS:
            raise ValueError('it repeats what it holds too often')

    def name(self, module: str, name: str) -> None:
        """Name something of a module."""
        full = f'{module}.{name}'.replace('__builtin__.', 'builtins.', 1)
        if full not in self.names:
            raise UntrustedCheckpointError(repr(f'{module}.{name}'))
        self.stack.append(Node('name', full))

    def call(self) -> None:
        """Follow a call of a function with a tuple of arguments."""
        function, arguments = self.pop(2)
        if function.kind != 'name' or function.value not in FUNCTIONS:
            raise UntrustedCheckpointError(f'a call of {_described(function)}')
        self.spend(_of(arguments, 'tuple'))
        made = FUNCTIONS[function.value](*arguments.parts)
        made.absorb(arguments)
        self.stack.append(made)

    def make(self) -> None:
        """Follow a new object of a class, without arguments."""
        kind, arguments = self.pop(2)
        made = OBJECTS.get(kind.value) if kind.kind == 'name' else None
        if made is None or arguments.kind != 'tuple' or arguments.parts:
            raise UntrustedCheckpointError(f'a new object of {_described(kind)}')
        self.stack.append(Node(made))

    def build(self) -> None:
        """Follow giving an object its state."""
        (state,) = self.pop(1)
        kind = self.stack[-1].kind
        if kind not in STATES:
            raise UntrustedCheckpointError(f'a state for {_described(self.stack[-1])}')
        node = self.target(kind)
        self.spend(state)
        STATES[kind](state)
        node.absorb(state)

    def storage(self) -> None:
        """Follow a reference to a storage: how many numbers of which type."""
        (saved_id,) = self.pop(1)
        self.spend(saved_id)
        parts = saved_id.parts if saved_id.kind == 'tuple' else []
        is_storage = bool(parts) and plain(parts[0]) == 'storage'
        if not is_storage or self.names != TORCH_NAMES:
            raise UntrustedCheckpointError('something outside that is not a storage')
        _, kind, key, location, count, *view = parts
        type_name = _of(kind, 'name').value.rpartition('.')[2]
        key, _, count = _literal_text(key), _literal_text(location), _number(count)
        if type_name not in STORAGES or len(view) > 1:
            raise ValueError('a storage is described in an unknown way')
        if self.storages.setdefault(key, (type_name, count)) != (type_name, count):
            raise ValueError(f'storage {key!r} is described in two ways')
        length = _view_length(count, view[0]) if view else count
        node = Node('storage', (type_name, length))
        node.absorb(saved_id)
        self.stack.append(node)


CALLS: Mapping[str, Callable] = {
    'REDUCE': PickleCheck.call,
    'NEWOBJ': PickleCheck.make,
    'BUILD': PickleCheck.build,
    'BINPERSID': PickleCheck.storage,
}
OBJECTS = {HISTORY: 'history', 'argparse.Namespace': 'Namespace'}


def storage_bytes(type_name: str, count: int) -> int:
    """Return how many bytes a storage takes.

    Args:
        type_name: Its type's name in pickles, such as `FloatStorage`.
        count: How many numbers it has.
    """
    return STORAGES[type_name] * count


def _literal(kind: str, value: object) -> Node:
    long = kind == 'int' and value.bit_length() > 8 * MOST_INTEGER_BYTES
    if long:
        raise ValueError(f'a whole number of {value.bit_length()} bits')
    return Node(kind, value)


def _described(node: Node) -> str:
    return f'a {node.value if node.kind == "name" else node.kind}'


def _of(node: Node, *kinds: str) -> Node:
    if node.kind not in kinds:
        raise ValueError(f'a {node.kind} in place of a {kinds[0]}')
    return node


def _literal_text(node: Node) -> str:
    return _of(node, 'text').value


def _number(node: Node) -> int:
    value = _of(node, 'int').value
    if value < 0:
        raise ValueError(f'{value} in place of a size')
    return value


def _numbers(node: Node) -> list[int]:
    """Read a shape or strides."""
    if len(_of(node, 'tuple', 'size').parts) > MOST_DIMENSIONS:
        raise ValueError('a shape is described in an unknown way')
    return [_number(part) for part in node.parts]


def plain(node: Node) -> object:
    """Return the value of a literal, or a tuple of such; else the node.

    Lists become tuples, too, and dicts tuples of pairs.
    """
    if node.kind == 'dict':
        parts = [plain(part) for part in node.parts]
        return tuple(zip(parts[::2], parts[1::2], strict=True))
    if node.kind in ('tuple', 'list'):
        return tuple(plain(part) for part in node.parts)
    return node.value if node.kind in _LITERALS else node


def _check_keys(keys: list[Node], is_whole: bool = True) -> None:
    """Accept texts and numbers of 32 bits, which can't all have the same hash."""
    if not is_whole:
        raise ValueError('a key without a value')
    for key in keys:
        is_number = key.kind == 'int' and -(2**31) <= key.value < 2**31
        if key.kind != 'text' and not is_number:
            raise UntrustedCheckpointError(f'a {key.kind} as a key')


def _view_length(count: int, view: Node) -> int:
    """Return how many numbers a part of a storage has, as the old format names it."""
    if view.kind == 'none':
        return count
    _, start, length = _of(view, 'tuple').parts
    if _number(start) + _number(length) > count:
        raise ValueError('a part of a storage lies outside of it')
    return length.value


# -- functions: what they make of which arguments ----------------------------------


def _ordered_dict(pairs: Node | None = None) -> Node:
    """Accept none, or, as Python 2 writes it, a list of pairs."""
    items = []
    for pair in _of(pairs, 'list').parts if pairs else ():
        key, value = _of(pair, 'list', 'tuple').parts
        _check_keys([key])
        items += (key, value)
    return Node('OrderedDict', None, items)


def _counter(counts: Node | None = None) -> Node:
    return Node('Counter', None, _of(counts, *DICTS).parts if counts else ())


def _set(values: Node | None = None) -> Node:
    _check_keys(_of(values, 'list').parts if values else [])
    return Node('set')


def _tuple(values: Node) -> Node:
    return Node('tuple', None, tuple(_of(values, 'list', 'tuple').parts))


def _size(numbers: Node) -> Node:
    _numbers(numbers)
    return Node('size', None, numbers.parts)


def _complex(real: Node, imaginary: Node) -> Node:
    _of(real, 'float'), _of(imaginary, 'float')
    return Node('complex')


def _device(name: Node, index: Node | None = None) -> Node:
    _literal_text(name)
    if index:
        _number(index)
    return Node('device')


def _bytes() -> Node:
    return Node('bytes', b'')


def _encode(text: Node, encoding: Node) -> Node:
    """Accept how old pickles write bytes."""
    if plain(encoding) != 'latin1':
        raise UntrustedCheckpointError('an unusual text encoding')
    # As text: as many characters as there will be bytes, and no copy.
    return Node('bytes', _literal_text(text))


def _method(kind: Node, name: Node) -> Node:
    wanted = (_of(kind, 'name').value, _literal_text(name))
    if wanted[1] not in METHODS.get(wanted[0], ()):
        raise UntrustedCheckpointError(f'the attribute {wanted[1]!r} of {wanted[0]}')
    return Node('method', wanted)


def _dtype(name: Node, align: Node, copy: Node) -> Node:
    """Accept types of numbers; `copy`, so that none of numpy's own is changed."""
    text = _literal_text(name)
    if not re.fullmatch(r'[biufc]\d{1,2}', text):
        raise UntrustedCheckpointError(f'a numpy array of type {text!r}')
    if plain(align) not in (False, 0) or plain(copy) not in (True, 1):
        raise UntrustedCheckpointError('a numpy array of an unusual type')
    return Node('dtype', np.dtype(text).itemsize)


def _reconstruct(kind: Node, shape: Node, code: Node) -> Node:
    if _of(kind, 'name').value != 'numpy.ndarray' or plain(shape) != (0,):
        raise UntrustedCheckpointError(f'an array that is {_described(kind)}')
    if plain(code) not in ('b', b'b'):
        raise UntrustedCheckpointError('a numpy array of an unusual type')
    return Node('array')


def _scalar(dtype: Node, data: Node) -> Node:
    _check_bytes(dtype, 1, data)
    return Node('scalar')


def _check_bytes(dtype: Node, count: int, data: Node) -> None:
    if dtype.kind != 'dtype' or data.kind != 'bytes':
        raise UntrustedCheckpointError('a numpy array of objects')
    if count * dtype.value != len(data.value):
        raise ValueError('a numpy array is not as long as announced')


def _tensor(storage: Node, offset: Node, size: Node, stride: Node, *rest: Node) -> Node:
    """Accept a view of a storage that lies inside it, without hooks."""
    type_name, count = _of(storage, 'storage').value
    shape, strides = _numbers(size), _numbers(stride)
    if len(shape) != len(strides) or len(rest) > 2:
        raise ValueError('a tensor is described in an unknown way')
    if len(rest) == 2 and _of(rest[1], 'none', *DICTS).parts:
        raise UntrustedCheckpointError('a tensor with hooks')
    last = sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if math.prod(shape) and _number(offset) + last >= count:
        raise ValueError('a tensor lies outside its storage')
    node = Node('tensor', type_name)
    node.dense = storage_bytes(type_name, math.prod(shape))
    if node.dense > 2**62:
        raise ValueError('its tensors repeat their memory too often')
    return node


def _parameter(data: Node, requires_grad: Node, hooks: Node) -> Node:
    _of(data, 'tensor'), _of(requires_grad, 'bool')
    if _of(hooks, 'none', *DICTS).parts:
        raise UntrustedCheckpointError('a tensor with hooks')
    return Node('tensor')


def _tensor_with_state(
    function: Node, kind: Node, arguments: Node, state: Node
) -> Node:
    """Accept tensors with the notes that torch.compile adds to them."""
    _of(function, 'name'), _of(kind, 'name')
    if function.value not in TENSORS or kind.value != 'torch.Tensor':
        raise UntrustedCheckpointError(f'a tensor by {_described(function)}')
    made = TENSORS[function.value](*_of(arguments, 'tuple').parts)
    values = itertools.chain(*_attributes(state, TENSOR_STATE).values())
    if any(value.kind not in _LITERALS for value in values):
        raise UntrustedCheckpointError('a tensor with an unusual state')
    return made


# -- states: what objects of each kind may be given --------------------------------


def _attributes(state: Node, names: set[str] | None = None) -> dict[str, list[Node]]:
    """Return what attributes are set to: a name may come several times."""
    attributes = {}
    keys = _of(state, 'dict').parts[::2]
    for key, value in zip(keys, state.parts[1::2], strict=True):
        if key.kind != 'text' or (names is not None and key.value not in names):
            raise UntrustedCheckpointError(f'an object with a state of {key.value!r}')
        attributes.setdefault(key.value, []).append(value)
    return attributes


def _history_state(state: Node) -> None:
    """Accept what mmengine writes; with other methods it would change the class."""
    for methods in _attributes(state, HISTORY_STATE).get('statistics_methods', ()):
        for name, values in _attributes(methods).items():
            known = (HISTORY, name)
            if any(v.kind != 'method' or v.value != known for v in values):
                raise UntrustedCheckpointError('other methods of HistoryBuffer')


def _namespace_state(state: Node) -> None:
    _attributes(state)


def _ordered_dict_state(state: Node) -> None:
    """Accept the versions of modules, which a state dict carries as an attribute."""
    for versions in _attributes(state, {'_metadata'}).get('_metadata', ()):
        for version in _of(versions, *DICTS).parts[1::2]:
            _of(version, *DICTS)


def _dtype_state(state: Node) -> None:
    """Accept the state of a plain type, which says nothing new about it."""
    usual = [(3, order, None, None, None, -1, -1, 0) for order in '<|=']
    if plain(state) not in usual:
        raise UntrustedCheckpointError('a numpy array of an unusual type')


def _array_state(state: Node) -> None:
    version, shape, dtype, is_fortran, data = _of(state, 'tuple').parts
    _of(version, 'int'), _of(is_fortran, 'bool', 'int')
    if any(_of(n, 'int').value < 0 for n in _of(shape, 'tuple').parts):
        raise ValueError('a numpy array of an impossible shape')
    _check_bytes(dtype, math.prod(_numbers(shape)), data)


STATES = {
    'OrderedDict': _ordered_dict_state,
    'Namespace': _namespace_state,
    'history': _history_state,
    'dtype': _dtype_state,
    'array': _array_state,
}

# The same names as numpy before and after 2.0 gives them.
_MULTIARRAY = ('numpy.core.multiarray', 'numpy._core.multiarray')
TENSORS = {
    'torch._utils._rebuild_tensor': _tensor,
    'torch._utils._rebuild_tensor_v2': _tensor,
}
ARRAY_FUNCTIONS = {
    'collections.OrderedDict': _ordered_dict,
    '_codecs.encode': _encode,
    'numpy.dtype': _dtype,
    'builtins.bytes': _bytes,
    'builtins.tuple': _tuple,
    **{f'{module}._reconstruct': _reconstruct for module in _MULTIARRAY},
    **{f'{module}.scalar': _scalar for module in _MULTIARRAY},
}
FUNCTIONS = {
    **ARRAY_FUNCTIONS,
    **TENSORS,
    'collections.Counter': _counter,
    'torch.Size': _size,
    'torch.device': _device,
    'torch._utils._rebuild_parameter': _parameter,
    'torch._tensor._rebuild_from_type_v2': _tensor_with_state,
    'builtins.set': _set,
    'builtins.complex': _complex,
    'builtins.getattr': _method,
}

# What the names of arrays stand for, once the arguments are known to be sound.
_RECONSTRUCT, _SCALAR = np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0]
NUMPY = {
    'collections.OrderedDict': collections.OrderedDict,
    '_codecs.encode': codecs.encode,
    'numpy.dtype': np.dtype,
    'numpy.ndarray': np.ndarray,
    'builtins.bytes': bytes,
    'builtins.tuple': tuple,
    **{f'{module}._reconstruct': _RECONSTRUCT for module in _MULTIARRAY},
    **{f'{module}.scalar': _SCALAR for module in _MULTIARRAY},
}

# What files may name that hold numpy arrays in plain containers, and files of
# torch.save, mmengine's with their training states among them.
ARRAY_NAMES = frozenset(ARRAY_FUNCTIONS) | {'numpy.ndarray'}
TORCH_NAMES = (
    frozenset(FUNCTIONS)
    | {'numpy.ndarray', 'argparse.Namespace', 'torch.Tensor', *METHODS}
    | {f'torch.{name}' for name in (*DTYPES, *STORAGES)}
    | {f'torch.cuda.{name}' for name in STORAGES}
)
