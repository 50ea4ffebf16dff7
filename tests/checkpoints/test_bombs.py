"""Small files that cost much are refused in one line, in seconds and little memory."""

import json
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mmpoolformer.checkpoints import CheckpointError, load_weights, read_checkpoint

from .test_reading import (
    ARRAY,
    FLOATS,
    GETATTR,
    HISTORY,
    TENSOR,
    call,
    craft,
    dtype,
    named,
    pickled,
    text,
)

pytestmark = pytest.mark.slow

SECONDS = 30  # each, on a loaded machine; most take less than one
MEMORY = 2**29  # bytes that each may add

ENCODE = named('_codecs', 'encode')
SCALAR = named('numpy.core.multiarray', 'scalar')

# Reads each file in a process of its own, of which time and memory are limited.
READER = """
import json, os, resource, signal, sys
import mmpoolformer.checkpoints as checkpoints

def read(path):
    with open('/proc/self/statm') as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    most = now + int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    signal.alarm(int(sys.argv[1]))
    try:
        checkpoints.read_checkpoint(path)
    except checkpoints.CheckpointError as error:
        return str(error)
    return 'was read'

for path in sys.argv[3:]:
    if os.fork() == 0:
        print(json.dumps([path, read(path)]), flush=True)
        os._exit(0)
    os.wait()
"""


def put(index: int) -> bytes:
    return b'r' + struct.pack('<I', index)


def get(index: int) -> bytes:
    return b'j' + struct.pack('<I', index)


def number(value: int) -> bytes:
    return b'J' + struct.pack('<i', value)


def whole(value: int) -> bytes:
    """Write a whole number of any size."""
    return pickled(value)


def latin(size: int) -> bytes:
    return call(ENCODE, text('x' * size), text('latin1'))


def listed(*items: bytes) -> bytes:
    return b'](' + b''.join(items) + b'e'


def doubled(levels: int, instruction: bytes) -> bytes:
    """Have each level refer to the one below twice."""
    return b'N' + b''.join(
        put(i) + (b'0' if instruction == b'' else get(i) + instruction)
        for i in range(levels)
    )


def array_state(shape: bytes, kind: bytes, data: bytes) -> bytes:
    return b'(K\x01' + shape + kind + b'\x89' + data + b'tb'


def floats(count: int, size: list[int], stride: list[int]) -> bytes:
    """Write a tensor over the storage called 0."""
    storage = b'(' + text('storage') + FLOATS + text('0') + text('cpu')
    shape, strides = (b'(' + b''.join(map(number, n)) + b't' for n in (size, stride))
    storage += number(count) + b'tQ'
    return call(TENSOR, storage, b'K\x00', shape, strides, b'\x89', b'}')


def encoded_again() -> bytes:
    value = text('x' * 1000)
    for _ in range(40):
        value = call(ENCODE, value, text('unicode_escape'))
    return value


def attributes(levels: int) -> bytes:
    value = HISTORY
    for _ in range(levels):
        value = call(GETATTR, value, text('min'))
    return value


def long_arguments(function: bytes, argument: bytes) -> bytes:
    """Give the same long argument to a function again and again."""
    return listed(argument + put(0), call(function, get(0)) * 50_000)


PRIME = 2**61 - 1  # whole numbers are hashed modulo this one
BODIES = {
    'tuples doubled': (lambda: doubled(60, b'\x86'), 'repeats what it holds'),
    'tuples doubled as a key': (
        lambda: b'}' + doubled(60, b'\x86') + b'Ns',
        'a tuple as a key',
    ),
    'tuples doubled in a set': (
        lambda: call(named('builtins', 'set'), listed(doubled(10, b'\x86'))),
        'a tuple as a key',
    ),
    'text encoded again and again': (encoded_again, 'an unusual text encoding'),
    'text encoded often': (
        lambda: listed(
            text('x' * 2**22) + put(0),
            *[call(ENCODE, get(0), text('latin1'))] * 2000,
        ),
        'repeats what it holds',
    ),
    'tuples doubled as an argument': (
        lambda: call(ENCODE, text('x'), doubled(60, b'\x86')),
        'repeats what it holds',
    ),
    'same long set often': (
        lambda: long_arguments(named('builtins', 'set'), listed(b'K\x01' * 100_000)),
        'repeats what it holds',
    ),
    'attributes of attributes': (lambda: attributes(1000), 'a method in place of'),
    'numbers of equal hashes': (
        lambda: (
            b'}(' + b''.join(whole(i * PRIME) + b'N' for i in range(1, 100_000)) + b'u'
        ),
        'a int as a key',
    ),
    'arrays over the same bytes': (
        lambda: listed(
            latin(2**22) + put(0),
            dtype('u1') + put(1),
            *[ARRAY + array_state(number(2**22) + b'\x85', get(1), get(0))] * 1600,
        ),
        'repeats what it holds',
    ),
    'scalar of too few bytes': (
        lambda: call(SCALAR, dtype('f8'), latin(1)),
        'not as long as announced',
    ),
    'scalar of too many bytes': (
        lambda: call(SCALAR, dtype('f4'), latin(9)),
        'not as long as announced',
    ),
    'very large number': (lambda: whole(2**2000), 'a whole number of 2001 bits'),
    'nested deep': (lambda: b')' + b'\x85' * 500_000, 'nested more than 100'),
    'lists nested deep': (lambda: b']' * 200_000 + b'a' * 199_999, 'nested more than'),
    'millions of instructions': (lambda: listed(b'N' * 1_500_000), 'instructions'),
    'millions of marks': (lambda: b'(' * 1_500_000, 'instructions'),
    'list that holds itself': (lambda: b']' + put(0) + get(0) + b'a', 'recursion'),
    'list changed afterwards': (
        lambda: listed(b']' + put(0), get(0) + get(0) + b'a'),
        'recursion',
    ),
    'reference to the end of memory': (
        lambda: b'N' + put(2**32 - 1),
        'refers to number 4294967295',
    ),
    'tensor of stride 0': (lambda: floats(10_000, [2**31 - 1], [0]), 'repeat'),
    'tensors over the same storage': (
        lambda: listed(*[floats(10_000, [100, 10_000], [0, 1])] * 2000),
        'repeat their memory',
    ),
    'one tensor referred to often': (
        lambda: listed(floats(10_000, [100, 10_000], [0, 1]) + put(0), get(0) * 2000),
        'repeat their memory',
    ),
    'tensor of 2**120 numbers': (lambda: floats(10_000, [2**30] * 4, [0] * 4), 'rep'),
    'tensor beyond its storage': (lambda: floats(10_000, [2], [10_000]), 'outside'),
    'storage beyond its record': (lambda: floats(2**30, [1], [1]), 'has 40000 bytes'),
    'tensor of a class that makes memory': (
        lambda: call(named('torch', 'FloatTensor'), number(2**31 - 1)),
        "'torch.FloatTensor'",
    ),
    'bytes as a key': (lambda: b'}' + latin(3) + b'Ns', 'a bytes as a key'),
    'hooks given to the constructor': (
        lambda: floats(10_000, [1], [1]).replace(
            b'}tR',
            call(named('collections', 'OrderedDict'), listed(listed(b'K\x01', b'N')))
            + b'tR',
        ),
        'a tensor with hooks',
    ),
    'hooks': (
        lambda: floats(10_000, [1], [1]).replace(b'}tR', b'}K\x01NstR'),
        'a tensor with hooks',
    ),
}


def write_zip(path: Path, body: bytes) -> None:
    craft(path, b'}' + text('a') + body + b's', zipped=True)
    with zipfile.ZipFile(path, 'a') as archive:
        archive.writestr('archive/data/0', bytes(40_000))


def write_old(path: Path, body: bytes) -> None:
    craft(path, b'}' + text('a') + body + b's', zipped=False)


def write_paddle(path: Path, body: bytes) -> None:
    path.write_bytes(b'\x80\x04}' + text('a') + body + b's.')


def write_other(folder: Path) -> dict[str, str]:
    """Write files of other kinds; return what should be said of them."""
    long = b'\x80\x04}' + text('a') + b'\x8b' + struct.pack('<i', 2**20) + bytes(2**20)
    (folder / 'long.pdparams').write_bytes(long + b's.')
    header = struct.pack('<Q', 2**26) + b'{"' + b' ' * 2**26
    (folder / 'header.safetensors').write_bytes(header)
    return {
        'long.pdparams': 'asks for the pickle instruction LONG4',
        'header.safetensors': 'a header of 67108864 bytes',
    }


# Tensors and what else Paddle's files can't name is refused there by its name.
FORMATS: dict[str, Callable] = {
    '.pth': write_zip,
    '.old.pth': write_old,
    '.pdparams': write_paddle,
}


SLOW = ('numbers of equal hashes', 'lists nested deep', 'millions of instructions')
CASES = [
    (kind, suffix)
    for kind in BODIES
    for suffix in FORMATS
    if suffix == '.pth' or kind not in SLOW
]


@pytest.fixture(scope='module')
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What was said of each file, by its name."""
    folder = tmp_path_factory.mktemp('bombs')
    for kind, suffix in CASES:
        FORMATS[suffix](folder / f'{kind}{suffix}', BODIES[kind][0]())
    write_other(folder)
    paths = sorted(map(str, folder.iterdir()))
    done = subprocess.run(
        [sys.executable, '-c', READER, str(SECONDS), str(MEMORY), *paths],
        capture_output=True,
        text=True,
        check=True,
    )
    assert 'Traceback' not in done.stderr
    lines = map(json.loads, done.stdout.splitlines())
    return {Path(path).name: message for path, message in lines}


@pytest.mark.parametrize(('kind', 'suffix'), CASES)
def test_bomb_is_refused(said: dict[str, str], kind: str, suffix: str) -> None:
    message = said[f'{kind}{suffix}']
    assert f'{kind}{suffix} ' in message
    assert message.isprintable()
    assert len(message) < 700
    if suffix == '.pth':
        assert BODIES[kind][1] in message


def test_other_bombs_are_refused(said: dict[str, str], tmp_path: Path) -> None:
    for name, reason in write_other(tmp_path).items():
        assert reason in said[name]


# -- names --------------------------------------------------------------------------


@pytest.mark.parametrize('suffix', ['.pth', '.pdparams'])
@pytest.mark.parametrize(
    'content',
    [{1: torch.ones(1)}, {'state_dict': {1: torch.ones(1), 'a': torch.ones(1)}}],
    ids=['at the top', 'in an entry'],
)
def test_names_are_text(tmp_path: Path, content: dict, suffix: str) -> None:
    path = tmp_path / f'a{suffix}'
    if suffix == '.pth':
        torch.save(content, path)
    else:
        arrays = {
            key: {k: v.numpy() for k, v in value.items()}
            if isinstance(value, dict)
            else value.numpy()
            for key, value in content.items()
        }
        path.write_bytes(pickle.dumps(arrays, 4))
    with pytest.raises(CheckpointError, match=r'has names that are not text: 1$'):
        read_checkpoint(path)


STEERING = 'a\x1b[2J\x1b]0;owned\x07\r\n\u202eb\u2066c\x9b1m\ud800'


def test_names_cannot_steer_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / 'a.pth'
    torch.save({STEERING: torch.ones(1), 'b': 1}, path)
    with pytest.raises(ValueError, match='known format') as caught:
        load_weights(torch.nn.Linear(1, 1), path)
    assert str(caught.value).isprintable()
    assert r'a\x1b[2J' in str(caught.value)
    craft(path, named('o\x1b[2Js', 'x\x07y\x9b'), zipped=True)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert str(caught.value).isprintable()
    body = call(named('torch', 'device'), text('x\x1b[2J'))
    craft(path, b'}' + text('a') + body + b's', zipped=True)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert str(caught.value).isprintable()


# -- what is no bomb ------------------------------------------------------------------


def test_shared_and_expanded_tensors_are_read(tmp_path: Path) -> None:
    base = torch.arange(10.0)
    content = {'a': base, 'b': base, 'c': base[2:4], 'd': base[:1].expand(1000, 1000)}
    torch.save(content, tmp_path / 'a.pth')
    read = read_checkpoint(tmp_path / 'a.pth')
    assert all(torch.equal(read[key], content[key]) for key in content)
    assert 0 in read['d'].stride()


def test_long_history_is_read(tmp_path: Path) -> None:
    content = {'numbers': np.arange(1_000_000.0), 'again': [np.float64(0.5)] * 1000}
    torch.save(content, tmp_path / 'a.pth')
    read = read_checkpoint(tmp_path / 'a.pth')
    np.testing.assert_array_equal(read['numbers'], content['numbers'])
