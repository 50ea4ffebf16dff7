"""Files at random: only the documented errors come out, and memory stays small.

Bounded and always the same; `FUZZ_EXAMPLES=100000` makes a longer run.
"""

import argparse
import io
import os
import pickle
import resource
import struct
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.logging import HistoryBuffer

from mmpoolformer.checkpoints import CheckpointError, read_checkpoint

from .test_reading import call, craft, named, rebuilt, text

EXAMPLES = int(os.environ.get('FUZZ_EXAMPLES', '250'))
MOST_MEMORY = 300 * 2**20  # bytes that all examples together may add to the peak

bounded = settings(
    max_examples=EXAMPLES,
    derandomize=EXAMPLES == 250,
    deadline=5000,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def base_files() -> dict[str, bytes]:
    """Return small sound files of every format, by their endings."""
    content = {
        'state_dict': {'a.weight': torch.arange(6.0).reshape(2, 3), 'b': torch.ones(2)},
        'meta': {'epoch': 3, 'time': 'now', 'classes': ('ant', 'bee')},
        'optimizer': {'state': {0: {'step': torch.tensor(3.0)}}, 'lr': 0.1},
        'numbers': [np.float64(0.5), np.arange(3), torch.Size([1, 2])],
    }
    files = {}
    for name, zipped in (('zip.pth', True), ('legacy.pth', False)):
        stream = io.BytesIO()
        torch.save(content, stream, _use_new_zipfile_serialization=zipped)
        files[name] = stream.getvalue()
    arrays = {
        'a.weight': np.ones((2, 3), np.float32),
        'n': {'a': ('w_0', np.arange(2))},
    }
    files['paddle.pdparams'] = pickle.dumps(arrays, 4)
    files['old.pdparams'] = pickle.dumps(arrays, 2)
    header = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    files['x.safetensors'] = struct.pack('<Q', len(header)) + header + bytes(8)
    return files


FILES = base_files()


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for the examples; the peak of memory must hardly rise meanwhile."""
    before = peak()
    yield tmp_path_factory.mktemp('fuzz')
    assert peak() - before < MOST_MEMORY


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def read(path: Path, content: bytes) -> dict | None:
    """Read a file; None where it is refused as documented."""
    path.write_bytes(content)
    try:
        read = read_checkpoint(path)
    except CheckpointError as error:
        assert str(error).isprintable()
        assert len(str(error)) < 1000
        return None
    assert all(isinstance(name, str) for name in read)
    for value in values_in(read):
        if isinstance(value, torch.Tensor):
            assert value.untyped_storage().nbytes() <= len(content)
            value.clone()  # reads all of it
        elif isinstance(value, np.ndarray):
            assert value.nbytes <= len(content)
        else:
            assert type(value) in PLAIN
    return read


PLAIN = {
    *(str, bytes, int, float, bool, complex, type(None), torch.Size, torch.device),
    *(torch.dtype, np.float32, np.float64, argparse.Namespace, HistoryBuffer, np.dtype),
    *(
        torch.serialization.StorageType,
        set,
        types.FunctionType,
        types.BuiltinFunctionType,
        type,
    ),
}


def values_in(value: object) -> Iterator[object]:
    """Yield everything that containers hold."""
    if isinstance(value, dict):
        for key, item in value.items():
            assert isinstance(key, str | int)
            yield from values_in(item)
    elif type(value) in (list, tuple):
        for item in value:
            yield from values_in(item)
    else:
        yield value


@st.composite
def mutations(draw: st.DrawFn, names: list[str]) -> tuple[str, bytes]:
    """Return the name of a sound file and its content with some changes."""
    name = draw(st.sampled_from(names))
    content = bytearray(FILES[name])
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(0, len(content) - 1)))
        end = start + draw(st.integers(0, 12))
        kind = draw(st.sampled_from(['put', 'cut', 'insert', 'copy', 'end']))
        if kind == 'put':
            content[start:end] = draw(st.binary(min_size=1, max_size=12))
        elif kind == 'cut':
            del content[start:end]
        elif kind == 'insert':
            content[start:start] = draw(st.binary(max_size=12))
        elif kind == 'copy':
            content[start:start] = content[end : end + draw(st.integers(0, 64))]
        else:
            del content[start:]
    return name, bytes(content)


@bounded
@given(mutations(['zip.pth', 'legacy.pth', 'x.safetensors']))
def test_changed_files(folder: Path, case: tuple[str, bytes]) -> None:
    read(folder / case[0], case[1])


@bounded
@given(mutations(['paddle.pdparams', 'old.pdparams']))
def test_changed_files_of_paddle(folder: Path, case: tuple[str, bytes]) -> None:
    read(folder / case[0], case[1])


# Instructions with their arguments, those that files use more often than others.
NUMBERS = st.one_of(
    st.integers(0, 5).map(lambda n: b'K' + bytes([n])),
    st.integers(-(2**31), 2**31 - 1).map(lambda n: b'J' + struct.pack('<i', n)),
    st.binary(max_size=9).map(lambda b: b'\x8a' + bytes([len(b)]) + b),
    st.binary(min_size=8, max_size=8).map(lambda b: b'G' + b),
)
GLOBALS = st.sampled_from(
    [
        named('collections', 'OrderedDict'),
        named('collections', 'Counter'),
        named('torch._utils', '_rebuild_tensor_v2'),
        named('torch._utils', '_rebuild_parameter'),
        named('torch', 'FloatStorage'),
        named('torch', 'Size'),
        named('torch', 'device'),
        named('torch', 'float16'),
        named('numpy', 'dtype'),
        named('numpy', 'ndarray'),
        named('numpy.core.multiarray', '_reconstruct'),
        named('numpy.core.multiarray', 'scalar'),
        named('_codecs', 'encode'),
        named('builtins', 'set'),
        named('builtins', 'tuple'),
        named('builtins', 'bytes'),
        named('builtins', 'complex'),
        named('builtins', 'getattr'),
        named('argparse', 'Namespace'),
        named('mmengine.logging.history_buffer', 'HistoryBuffer'),
        named('os', 'system'),
    ]
)
WORDS = st.sampled_from(
    [
        'storage',
        '0',
        'cpu',
        'f4',
        'O8',
        'U0',
        'latin1',
        '_metadata',
        'a',
        '',
        'min',
        '<',
    ]
).map(text)
PARTS = st.one_of(
    NUMBERS,
    GLOBALS,
    WORDS,
    st.sampled_from(
        [bytes([c]) for c in b'(.012NabdelstuQR\x81\x85\x86\x87\x88\x8f\x90]})']
    ),
    st.binary(max_size=8).map(lambda b: b'C' + bytes([len(b)]) + b),
    st.integers(0, 9).map(lambda n: b'q' + bytes([n])),
    st.integers(0, 9).map(lambda n: b'h' + bytes([n])),
    st.just(rebuilt(4, 0, 4)),
    st.just(rebuilt(4, 1, 2)),
)
STREAMS = st.lists(PARTS, max_size=30).map(b''.join)


@bounded
@given(STREAMS, st.sampled_from(['zip', 'legacy', 'paddle']))
def test_instructions_at_random(folder: Path, body: bytes, kind: str) -> None:
    # In a dict, so that more of them come out.
    body = b'}' + text('state_dict') + body + b's'
    if kind == 'paddle':
        read(folder / 'a.pdparams', b'\x80\x04' + body + b'.')
        return
    path = craft(folder / 'a.pth', body, zipped=kind == 'zip')
    if kind == 'zip':
        with zipfile.ZipFile(path, 'a') as archive:
            archive.writestr('archive/data/0', bytes(16))
    read(path, path.read_bytes())


# -- what was found by thought, not by chance --------------------------------------


def doubled(levels: int) -> bytes:
    """Return a tuple of tuples of ... of which the hash takes 2 ** levels steps."""
    return b'K\x01' + b''.join(
        b'q' + bytes([i]) + b'h' + bytes([i]) + b'\x86' for i in range(levels)
    )


SLOW = {
    'key': lambda t: b'}' + t + b'Ns',
    'keys': lambda t: b'}(' + t + b'Nu',
    'dict': lambda t: b'(' + t + b'Nd',
    'member': lambda t: b'\x8f(' + t + b'\x90',
    'set': lambda t: call(named('builtins', 'set'), b'](' + t + b'e'),
    'Counter': lambda t: call(named('collections', 'Counter'), b'](' + t + b'e'),
    'OrderedDict': lambda t: call(
        named('collections', 'OrderedDict'), b'](' + t + b'N\x86e'
    ),
    'size': lambda t: call(named('torch', 'Size'), t),
    'device': lambda t: call(named('torch', 'device'), t),
    'shape': lambda t: call(
        named('torch._utils', '_rebuild_tensor_v2'),
        rebuilt(4, 0, 4),
        *(b'K\x00', t, t, b'\x89', b'}'),
    ),
    'storage': lambda t: (
        b'('
        + text('storage')
        + named('torch', 'FloatStorage')
        + t
        + text('cpu')
        + b'K\x04tQ'
    ),
}


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
@pytest.mark.parametrize('kind', SLOW)
def test_nested_tuples_do_not_take_years(folder: Path, kind: str, zipped: bool) -> None:
    body = b'}' + text('a') + SLOW[kind](doubled(60)) + b's'
    path = craft(folder / 'slow.pth', body, zipped)
    with pytest.raises(CheckpointError):
        read_checkpoint(path)


@pytest.mark.parametrize('kind', ['key', 'keys', 'dict', 'OrderedDict'])
def test_nested_tuples_do_not_take_years_in_paddles_files(
    folder: Path, kind: str
) -> None:
    body = b'\x80\x04}' + text('a') + SLOW[kind](doubled(60)) + b's.'
    (folder / 'slow.pdparams').write_bytes(body)
    with pytest.raises(CheckpointError):
        read_checkpoint(folder / 'slow.pdparams')


def test_repeated_memory_does_not_become_terabytes(folder: Path) -> None:
    sizes = b'J' + struct.pack('<i', 2**30)
    tensor = call(
        named('torch._utils', '_rebuild_tensor_v2'),
        b'('
        + text('storage')
        + named('torch', 'FloatStorage')
        + text('0')
        + text('cpu')
        + b'K\x04tQ',
        *(b'K\x00', sizes + sizes + b'\x86', b'K\x00K\x00\x86', b'\x89', b'}'),
    )
    path = craft(folder / 'a.pth', b'}' + text('a') + tensor + b's', zipped=True)
    with zipfile.ZipFile(path, 'a') as archive:
        archive.writestr('archive/data/0', bytes(16))
    with pytest.raises(CheckpointError, match='repeat their memory too often'):
        read_checkpoint(path)


def test_records_over_each_other_are_refused(folder: Path) -> None:
    """Ten thousand records of the same megabyte would be ten gigabytes."""
    path = craft(folder / 'a.pth', b'}', zipped=True)
    with zipfile.ZipFile(path, 'a') as archive:
        archive.writestr('archive/data/0', bytes(2**20))
        original = archive.getinfo('archive/data/0')
        for i in range(1, 10_000):
            other = zipfile.ZipInfo(f'archive/data/{i}')
            for slot in ('header_offset', 'file_size', 'compress_size', 'CRC'):
                setattr(other, slot, getattr(original, slot))
            archive.filelist.append(other)
            archive.NameToInfo[other.filename] = other
        archive._didModify = True
    with pytest.raises(CheckpointError, match='its records are larger than the file'):
        read_checkpoint(path)


def test_compressed_records_are_refused(folder: Path) -> None:
    with zipfile.ZipFile(folder / 'a.pth', 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('archive/data.pkl', b'\x80\x02}.')
        archive.writestr('archive/data/0', bytes(2**26))
    assert (folder / 'a.pth').stat().st_size < 2**20
    with pytest.raises(CheckpointError, match=r'is not as torch\.save'):
        read_checkpoint(folder / 'a.pth')
