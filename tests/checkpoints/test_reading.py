"""Honest files read as torch reads them; crafted files run nothing."""

import argparse
import collections
import contextlib
import io
import os
import pickle
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

from mmpoolformer.checkpoints import (
    CheckpointError,
    UntrustedCheckpointError,
    read_checkpoint,
)

from .weights import assert_same

FORMATS = {'zip': True, 'legacy': False}
DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64),
    *(torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64),
]


@pytest.fixture(params=FORMATS)
def save(request) -> Callable:
    """Save as torch does, in today's format and in the one before 1.6."""

    def save(content: object, path: Path, **options: object) -> Path:
        zipped = FORMATS[request.param]
        torch.save(content, path, _use_new_zipfile_serialization=zipped, **options)
        return path

    return save


def honest_content() -> dict:
    base = torch.arange(24.0).reshape(4, 6)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    history = HistoryBuffer()
    history.update(1.5)
    arrays = [np.arange(6.0).reshape(2, 3), np.zeros((0, 2), np.int64), np.array(True)]
    return {
        'state_dict': model.state_dict(),
        'optimizer': optimizer.state_dict(),
        'dtypes': [torch.ones(3).to(dtype) for dtype in DTYPES],
        'views': [base, base.t(), base[1:, 2:4], base[0, 0], base[:0]],
        'parameter': nn.Parameter(torch.ones(2)),
        'on_another_device': torch.device('cuda:0'),
        'torch': [torch.float16, torch.Size([1, 2])],
        'numpy': [*arrays, np.asfortranarray(np.eye(3)[:2])],
        'scalars': [np.float64(0.1), np.int64(3), np.float32(1.5), np.bool_(True)],
        'args': argparse.Namespace(lr=0.1, betas=(0.9, 0.999), model='poolformer_s12'),
        'message_hub': {'log_scalars': collections.OrderedDict(loss=history)},
        'milestones': collections.Counter([8, 11]),
        'plain': [None, True, 1, -(2**70), 0.5, 'ä', b'\xff', 1j, {1, 2}, (), [], {}],
        'nested': (1, (2, (3, [4, {'five': (5,)}]))),
    }


def test_honest_content_reads_as_by_torch(save, tmp_path) -> None:
    path = save(honest_content(), tmp_path / 'a.pth')
    assert_same(read_checkpoint(path), torch.load(path, weights_only=False))


def test_other_protocols_are_refused(tmp_path) -> None:
    torch.save({'a': torch.ones(1)}, tmp_path / 'a.pth', pickle_protocol=4)
    with pytest.raises(CheckpointError, match=r'a\.pth .* pickle protocol 4, not 2'):
        read_checkpoint(tmp_path / 'a.pth')


def test_trusted_reading_is_that_of_torch(save, tmp_path) -> None:
    path = save(honest_content(), tmp_path / 'a.pth')
    assert_same(read_checkpoint(path, trust=True), torch.load(path, weights_only=False))


def test_versions_of_the_modules_come_along(save, tmp_path) -> None:
    state = nn.BatchNorm2d(2).state_dict()
    path = save({'state_dict': state}, tmp_path / 'a.pth')
    assert read_checkpoint(path)['state_dict']._metadata == {'': {'version': 2}}


def test_shared_memory_stays_shared(save, tmp_path) -> None:
    base = torch.zeros(4)
    path = save({'a': base, 'b': base[1:]}, tmp_path / 'a.pth')
    read = read_checkpoint(path)
    read['a'][1] = 7
    assert read['b'][0] == 7


def test_safetensors(tmp_path) -> None:
    safetensors = pytest.importorskip('safetensors.torch')
    weights = {'a': torch.arange(6).reshape(2, 3), 'b': torch.ones(2).bfloat16()}
    safetensors.save_file(weights, tmp_path / 'a.safetensors')
    assert_same(read_checkpoint(tmp_path / 'a.safetensors'), weights)
    content = (tmp_path / 'a.safetensors').read_bytes()
    (tmp_path / 'b.safetensors').write_bytes(content[:-4])
    with pytest.raises(CheckpointError, match=r'b\.safetensors is damaged or trunc'):
        read_checkpoint(tmp_path / 'b.safetensors')


# -- crafted files -------------------------------------------------------------


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.function = function
        self.arguments = arguments

    def __reduce__(self) -> tuple:
        return self.function, self.arguments


def text(value: str) -> bytes:
    encoded = value.encode()
    return b'X' + struct.pack('<I', len(encoded)) + encoded


def named(module: str, name: str) -> bytes:
    return f'c{module}\n{name}\n'.encode()


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + b'(' + b''.join(arguments) + b'tR'


def pickled(value: object) -> bytes:
    """Pickle a value without the start and stop instructions."""
    return pickle.dumps(value, protocol=2, fix_imports=False)[2:-1]


HISTORY = named('mmengine.logging.history_buffer', 'HistoryBuffer')
GETATTR = named('builtins', 'getattr')


def attribute_chain(marker: str) -> bytes:
    """Reach os.mkdir from a class that checkpoints may name."""
    function = call(GETATTR, HISTORY, text('update'))
    names = call(GETATTR, function, text('__globals__'))
    warnings = call(call(GETATTR, names, text('get')), text('warnings'))
    modules = call(GETATTR, call(GETATTR, warnings, text('sys')), text('modules'))
    module = call(call(GETATTR, modules, text('get')), text('os'))
    return call(call(GETATTR, module, text('mkdir')), text(marker))


def rebuilt_tensor(marker: str) -> bytes:
    """Have torch call a function while it rebuilds a tensor."""
    arguments = named('os', 'mkdir') + named('torch', 'Tensor') + text(marker)
    return named('torch._tensor', '_rebuild_from_type_v2') + (
        b'(' + arguments.replace(text(marker), text(marker) + b'\x85') + b'}tR'
    )


def nested_file(marker: str) -> bytes:
    """Have torch read another file, inside this one, in the unsafe way."""
    inner = io.BytesIO()
    torch.save(Call(os.mkdir, marker), inner)
    return pickled(Call(torch.storage._load_from_bytes, inner.getvalue()))


# What a crafted file may contain, given the folder it would make if it could.
CRAFTED = {
    'os.system': lambda m: pickled(Call(os.system, f'mkdir {m}')),
    'subprocess': lambda m: pickled(Call(subprocess.check_call, ['mkdir', m])),
    'eval': lambda m: pickled(Call(eval, f'__import__("os").mkdir({m!r})')),
    'exec': lambda m: pickled(Call(exec, f'import os; os.mkdir({m!r})')),
    'posix': lambda m: call(named('posix', 'mkdir'), text(m)),
    'method': lambda m: pickled(Call(Path.mkdir, Path(m))),
    'partial': lambda m: call(
        call(named('functools', 'partial'), named('os', 'mkdir'), text(m))
    ),
    'dotted name': lambda m: call(
        text('pathlib') + text('os.mkdir') + b'\x93', text(m)
    ),
    'attribute chain': attribute_chain,
    'INST': lambda m: b'(' + text(m) + b'ios\nmkdir\n',
    'OBJ': lambda m: (
        b'(' + named('subprocess', 'getoutput') + text(f'mkdir {m}') + b'o'
    ),
    'rebuilt tensor': rebuilt_tensor,
    'nested file': nested_file,
    'in a constructor': lambda m: call(
        named('collections', 'OrderedDict'), call(named('os', 'mkdir'), text(m))
    ),
    'second name': lambda m: call(named('os', 'path.os.mkdir'), text(m)),
}
PLACES = {
    'state_dict': lambda value: b'}' + text('state_dict') + value + b's',
    'meta': lambda v: b'}' + text('meta') + b'}' + text('cfg') + v + b'ss',
    'in_list': lambda v: (
        b'}' + text('state_dict') + b'}' + text('a') + b'](' + v + b'ess'
    ),
}


DOTTED = ('dotted name', 'second name')  # which only protocol 4 knows


def craft(path: Path, body: bytes, zipped: bool, protocol: int = 2) -> Path:
    """Write a file like torch.save's around hand-made pickle instructions."""
    stream = b'\x80' + bytes([protocol]) + body + b'.'
    if zipped:
        with zipfile.ZipFile(path, 'w') as archive:
            archive.writestr('archive/data.pkl', stream)
            archive.writestr('archive/version', '3\n')
        return path
    system = {'protocol_version': 1001, 'little_endian': True, 'type_sizes': {}}
    head = (0x1950A86A20F9469CFC6C, 1001, system)
    parts = [*(pickle.dumps(part, 2) for part in head), stream, pickle.dumps([], 2)]
    path.write_bytes(b''.join(parts))
    return path


@pytest.mark.parametrize('zipped', FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize('place', PLACES)
@pytest.mark.parametrize('kind', CRAFTED)
def test_crafted_file_runs_nothing(tmp_path, kind, place, zipped) -> None:
    marker = tmp_path / 'marker'
    body = PLACES[place](CRAFTED[kind](str(marker)))
    path = craft(tmp_path / 'evil.pth', body, zipped, 4 if kind in DOTTED else 2)
    with pytest.raises(
        UntrustedCheckpointError, match=r'evil\.pth asks for .*trust=Tr'
    ):
        read_checkpoint(path)
    assert not marker.exists()


@pytest.mark.parametrize('kind', CRAFTED)
def test_crafted_file_is_dangerous_to_who_trusts_it(tmp_path, kind) -> None:
    marker = tmp_path / 'marker'
    body = PLACES['state_dict'](CRAFTED[kind](str(marker)))
    path = craft(tmp_path / 'evil.pth', body, True, 4 if kind in DOTTED else 2)
    with contextlib.suppress(CheckpointError):  # some make a folder and then fail
        read_checkpoint(path, trust=True)
    assert marker.exists()


def test_message_names_what_was_asked_for(save, tmp_path) -> None:
    path = save({'a': Call(os.system, 'true')}, tmp_path / 'evil.pth')
    with pytest.raises(UntrustedCheckpointError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert str(path) in message
    assert f"'{os.system.__module__}.system'" in message
    assert 'MMPOOLFORMER_TRUST_CHECKPOINTS=1' in message
    assert '\n' not in message


@pytest.mark.parametrize(('value', 'trusted'), [('1', True), ('0', False), ('', False)])
def test_trust_by_the_environment(save, tmp_path, monkeypatch, value, trusted) -> None:
    monkeypatch.setenv('MMPOOLFORMER_TRUST_CHECKPOINTS', value)
    marker = tmp_path / 'marker'
    path = save({'a': Call(os.mkdir, str(marker))}, tmp_path / 'evil.pth')
    if trusted:
        assert read_checkpoint(path) == {'a': None}
    else:
        with pytest.raises(UntrustedCheckpointError):
            read_checkpoint(path)
    assert marker.exists() is trusted


TENSOR = named('torch._utils', '_rebuild_tensor_v2')
FLOATS = named('torch', 'FloatStorage')
ARRAY = call(
    named('numpy.core.multiarray', '_reconstruct'),
    named('numpy', 'ndarray'),
    b'K\x00\x85',
    text('b'),
)
SHAPE_1 = b'K\x01\x85'  # the tuple (1,)


def dtype(name: str) -> bytes:
    return call(named('numpy', 'dtype'), text(name), b'\x89', b'\x88')


@pytest.mark.parametrize(
    'body',
    {
        'attribute of a class': HISTORY + b'N}' + text('update') + b'K\x01s\x86b',
        'attribute of a function': TENSOR + b'}' + text('call') + b'K\x01sb',
        'new array by class': named('numpy', 'ndarray') + SHAPE_1 + b'\x81',
        'call of a value': call(text('print'), text('x')),
        'call of a class': call(HISTORY),
        'array of pointers': ARRAY
        + b'(K\x01'
        + SHAPE_1
        + dtype('O')
        + b'\x89C\x08AAAAAAAAtb',
        'type with fields': dtype('V8'),
        'type with objects inside': dtype('f8')
        + b'(K\x03'
        + text('<')
        + text('x')
        + b'NNK\x08K\x08K\x3ftb',
        'module': b'(' + text('module') + b'NNNtQ',
        'codec': call(named('_codecs', 'encode'), text('x'), text('zip')),
        'extension': b'\x82\x01',
    }.items(),
    ids=lambda item: item[0],
)
def test_tricks_are_refused(tmp_path, body) -> None:
    update = HistoryBuffer.update
    path = craft(tmp_path / 'evil.pth', PLACES['meta'](body[1]), zipped=True)
    with pytest.raises(UntrustedCheckpointError, match='asks for'):
        read_checkpoint(path)
    assert HistoryBuffer.update is update


def test_file_cannot_change_a_class(tmp_path) -> None:
    statistics = HistoryBuffer().__getstate__()['statistics_methods']
    before = dict(statistics)
    maximum = call(GETATTR, HISTORY, text('max'))
    state = b'}' + text('statistics_methods') + b'}' + text('min') + maximum + b'ss'
    body = HISTORY + b')\x81' + state + b'b'
    path = craft(tmp_path / 'a.pth', PLACES['meta'](body), zipped=True)
    with pytest.raises(UntrustedCheckpointError, match='other methods of History'):
        read_checkpoint(path)
    assert statistics == before


@pytest.mark.parametrize(('shape', 'size'), [((1,), 8), ((2,), 8), ((-1, -1), 8)])
def test_arrays_are_as_long_as_they_say(tmp_path, shape, size) -> None:
    numbers = b''.join(b'J' + struct.pack('<i', n) for n in shape)
    data = call(named('_codecs', 'encode'), text('\0' * size), text('latin1'))
    state = b'(K\x01(' + numbers + b't' + dtype('f8') + b'\x89' + data + b't'
    path = craft(tmp_path / 'a.pth', PLACES['meta'](ARRAY + state + b'b'), zipped=True)
    if shape == (1,):
        assert read_checkpoint(path)['meta']['cfg'].tolist() == [0.0]
    else:
        with pytest.raises(CheckpointError, match='a numpy array'):
            read_checkpoint(path)


def storage(count: int) -> bytes:
    """Refer to a storage called 0 of so many floats."""
    number = b'J' + struct.pack('<i', count)
    return b'(' + text('storage') + FLOATS + text('0') + text('cpu') + number + b'tQ'


def rebuilt(count: int, offset: int, size: int) -> bytes:
    numbers = [b'J' + struct.pack('<i', n) for n in (offset, size, 1)]
    shape = [numbers[0], numbers[1] + b'\x85', numbers[2] + b'\x85']
    return call(TENSOR, storage(count), *shape, b'\x89', b'}')


@pytest.mark.parametrize(
    ('count', 'offset', 'size'),
    [(4, 0, 4), (4, 0, 5), (4, 1, 4), (5, 0, 5), (4, -1, 1)],
)
def test_tensors_stay_within_their_memory(tmp_path, count, offset, size) -> None:
    body = PLACES['state_dict'](rebuilt(count, offset, size))
    path = craft(tmp_path / 'a.pth', body, zipped=True)
    with zipfile.ZipFile(path, 'a') as archive:
        archive.writestr('archive/data/0', np.arange(4, dtype=np.float32).tobytes())
    if (count, offset, size) == (4, 0, 4):
        assert read_checkpoint(path)['state_dict'].tolist() == [0, 1, 2, 3]
    else:
        with pytest.raises(CheckpointError, match='damaged'):
            read_checkpoint(path)


def test_announced_size_is_not_believed(tmp_path) -> None:
    body = PLACES['state_dict'](rebuilt(2**31 - 1, 0, 1))
    with pytest.raises(CheckpointError, match='shorter than its storages'):
        read_checkpoint(craft(tmp_path / 'a.pth', body, zipped=False))


def test_torchscript_is_refused(tmp_path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / 'a.pth'))
    with pytest.raises(UntrustedCheckpointError, match='a TorchScript program'):
        read_checkpoint(tmp_path / 'a.pth')


def test_whole_modules_are_refused(save, tmp_path) -> None:
    path = save({'model': nn.Linear(2, 2)}, tmp_path / 'a.pth')
    with pytest.raises(UntrustedCheckpointError, match='Linear'):
        read_checkpoint(path)


# -- files that are no checkpoints ---------------------------------------------


def test_missing_file(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint file '.*none\.pth'"):
        read_checkpoint(tmp_path / 'none.pth')


@pytest.mark.parametrize('share', [0.02, 0.3, 0.9, 0.999])
def test_truncated_file(save, tmp_path, share) -> None:
    path = save({'state_dict': {'a': torch.randn(10_000)}}, tmp_path / 'a.pth')
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=r'a\.pth is damaged or truncated: \w'):
        read_checkpoint(path)


def test_changed_byte(tmp_path) -> None:
    torch.save({'a': torch.zeros(10_000)}, tmp_path / 'a.pth')
    content = bytearray((tmp_path / 'a.pth').read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / 'a.pth').write_bytes(content)
    with pytest.raises(CheckpointError, match='Bad CRC-32'):
        read_checkpoint(tmp_path / 'a.pth')


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        (b'', 'it is empty'),
        (b'\n<!DOCTYPE html><html>', 'it is a web page'),
        (
            b'version https://git-lfs.github.com/spec/v1\noid sha256:0',
            'Git LFS pointer',
        ),
        (b'hello', 'does not start like a file of torch.save'),
        (pickle.dumps({'a': 1}, 2), 'a pickle, but not one of torch.save'),
    ],
)
def test_other_files(tmp_path, content, reason) -> None:
    (tmp_path / 'a.pth').write_bytes(content)
    with pytest.raises(CheckpointError, match=rf'a\.pth is .*{reason}'):
        read_checkpoint(tmp_path / 'a.pth')


def test_exported_models(tmp_path) -> None:
    (tmp_path / 'a.xml').write_bytes(b'<?xml version="1.0"?><net>')
    with pytest.raises(CheckpointError, match=r'a\.xml is .*: exported models are for'):
        read_checkpoint(tmp_path / 'a.xml')


def test_other_archives(tmp_path) -> None:
    with tarfile.open(tmp_path / 'a.pth', 'w') as archive:
        archive.add(__file__, 'storages')
    with pytest.raises(CheckpointError, match='it is a tar archive'):
        read_checkpoint(tmp_path / 'a.pth')
    with zipfile.ZipFile(tmp_path / 'b.pth', 'w') as archive:
        archive.write(__file__, 'readme.txt')
    with pytest.raises(CheckpointError, match=r'not one of torch\.save'):
        read_checkpoint(tmp_path / 'b.pth')


@pytest.mark.parametrize(
    'name', ['../escaped', '../../x/data.pkl', '/escaped', 'C:\\x']
)
def test_archives_are_read_where_they_are(tmp_path, name) -> None:
    (tmp_path / 'a').mkdir()
    path = tmp_path / 'a' / 'b.pth'
    torch.save({'a': torch.ones(2)}, path)
    with zipfile.ZipFile(path, 'a') as archive:
        archive.writestr(name, b'x')
    assert_same(read_checkpoint(path), {'a': torch.ones(2)})
    assert sorted(tmp_path.rglob('*')) == [tmp_path / 'a', path]


def test_content_that_is_no_dict(save, tmp_path) -> None:
    path = save([torch.ones(1)], tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match='holds a list, not a dict'):
        read_checkpoint(path)
