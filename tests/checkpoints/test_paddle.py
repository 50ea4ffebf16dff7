"""Paddle's files: weights come through both ways, and nothing else gets in."""

import collections
import io
import math
import os
import pickle
import pickletools
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from mmpoolformer import create_model
from mmpoolformer.checkpoints import (
    CheckpointError,
    UntrustedCheckpointError,
    convert_file,
    convert_state_dict,
    detect_format,
    load_weights,
    read_checkpoint,
)

from .weights import assert_same, same

NAME_TABLE = 'StructuredToParameterName@@'


def timm_weights(name: str = 'pit_ti_224') -> dict[str, torch.Tensor]:
    """Return timm's parameters, each element a number of its own."""
    with torch.device('meta'):
        shapes = timm.create_model(name).state_dict()
    numbers = torch.arange(float(sum(v.numel() for v in shapes.values())))
    parts = numbers.split([v.numel() for v in shapes.values()])
    return {
        key: part.reshape(value.shape)
        for (key, value), part in zip(shapes.items(), parts, strict=True)
    }


def paddle_arrays(weights: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Name timm's weights as the original does and turn what Paddle turns.

    Independent of the package: Paddle turns the weights of `nn.Linear`, which are all
    two-dimensional ones of PiT.
    """
    arrays = {}
    for key, value in weights.items():
        for stage in (1, 2):
            key = key.replace(f'transformers.{stage}.pool.', f'pools.{stage - 1}.')
        arrays[key] = (value.T if value.ndim == 2 else value).numpy()
    return arrays


def save(content: object, path: Path, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


# -- honest files ------------------------------------------------------------------


@pytest.mark.parametrize('protocol', [2, 3, 4])
@pytest.mark.parametrize('core', ['numpy.core', 'numpy._core'])
def test_arrays_become_tensors(tmp_path, protocol, core) -> None:
    arrays = {
        'matrix': np.arange(6, dtype=np.float32).reshape(2, 3),
        'columns first': np.asfortranarray(np.eye(3)[:2]),
        'number': np.array(3, np.int64),
        'empty': np.zeros((0, 4), np.float16),
        'flags': np.array([True, False]),
        'bfloat16': np.array([0x3F80, 0xC000], np.uint16),
    }
    content = {**arrays, NAME_TABLE: {'matrix': 'linear_0.w_0'}}
    written = pickle.dumps(content, protocol)
    here = np.zeros(0).__reduce__()[0].__module__.rpartition('.')[0]
    assert here.encode() in written
    if core != here:  # as the other numpy writes it
        written = renamed(written, here, core)
    (tmp_path / 'a.pdparams').write_bytes(written)
    read = read_checkpoint(tmp_path / 'a.pdparams')
    assert read.pop(NAME_TABLE) == {'matrix': 'linear_0.w_0'}
    expected = {
        k: torch.from_numpy(np.array(v, order='C'))
        for k, v in arrays.items()
        if k != 'bfloat16'
    }
    expected['bfloat16'] = torch.tensor([1.0, -2.0], dtype=torch.bfloat16)
    assert_same(read, expected)
    read['matrix'][0, 0] = 7  # belongs to who read it


def renamed(pickled: bytes, old: str, new: str) -> bytes:
    """Rewrite a pickle with another module's name, lengths included."""
    # Without frames: their lengths would be wrong.
    written = io.BytesIO()
    position = 0
    for op, value, start in pickletools.genops(pickled):
        end = next(
            (s for _, _, s in pickletools.genops(pickled) if s > start), len(pickled)
        )
        piece = pickled[start:end]
        if op.name == 'FRAME':
            piece = b''
        elif op.name == 'GLOBAL' and value.startswith(old):
            piece = piece.replace(old.encode(), new.encode())
        elif op.name == 'SHORT_BINUNICODE' and value.startswith(old):
            name = value.replace(old, new).encode()
            piece = b'\x8c' + bytes([len(name)]) + name
        written.write(piece)
        position = end
    assert position == len(pickled)
    return written.getvalue()


def test_tensors_within_other_containers(tmp_path) -> None:
    # paddle.save writes a tensor inside a dict of other things as (name, array).
    array = np.arange(3, dtype=np.float32)
    content = {
        'model': collections.OrderedDict(a=('linear_0.w_0', array)),
        'epoch': 3,
        'rates': [0.1, np.float64(0.2), None],
        'best': (1, 'x'),
    }
    read = read_checkpoint(save(content, tmp_path / 'a.pdparams'))
    assert_same(read['model'], {'a': torch.arange(3.0)})
    assert (read['epoch'], read['rates'], read['best']) == (
        3,
        [0.1, 0.2, None],
        (1, 'x'),
    )


def test_real_call_of_tuple(tmp_path) -> None:
    class Parameter:
        def __reduce__(self) -> tuple:
            return tuple, (('linear_0.w_0', np.ones(2, np.float32)),)

    read = read_checkpoint(save({'a': Parameter()}, tmp_path / 'a.pdparams'))
    assert_same(read, {'a': torch.ones(2)})


@pytest.mark.parametrize('name', ['pit_ti', 'pit_ti_distilled'])
def test_file_fills_a_classifier_and_a_backbone(tmp_path, name) -> None:
    weights = timm_weights(f'{name}_224')
    path = save(paddle_arrays(weights), tmp_path / 'a.pdparams')
    model = create_model(name, checkpoint=path)
    assert same(model.state_dict(), weights)
    backbone = create_model(name, features_only=True)
    report = load_weights(backbone, path)
    assert report.format == 'paddle'
    assert len(report.loaded) == len(weights) - len(report.left)
    assert all(key.startswith(('norm', 'head')) for key in report.left)
    own = backbone.state_dict()
    assert all(torch.equal(own[key], weights[key]) for key in report.loaded)


@pytest.mark.parametrize('format', ['native', 'timm', 'pit', 'paddle'])
def test_every_format_to_every_other_and_back(format) -> None:
    weights = timm_weights('pit_ti_distilled_224')
    there = convert_state_dict(weights, format)
    assert detect_format(there) == {'native': 'timm'}.get(format, format)
    assert same(convert_state_dict(there, 'timm'), weights)
    theirs = {k: torch.from_numpy(v) for k, v in paddle_arrays(weights).items()}
    assert same(convert_state_dict(there, 'paddle'), theirs)
    assert same(convert_state_dict(theirs, format), there)


def family_arrays(name: str, num_classes: int) -> tuple[dict, dict]:
    """Return native weights, and the same as Paddle holds them.

    Independent of the package's detection: every two-dimensional `weight` is turned.
    """
    torch.manual_seed(0)
    weights = create_model(name, num_classes=num_classes).state_dict()
    arrays = {
        key: (v.T if v.ndim == 2 and key.endswith('.weight') else v).numpy()
        for key, v in convert_state_dict(weights, 'sail').items()
    }
    return weights, arrays


FAMILIES = [
    ('poolformer_s12', 10),
    ('poolformer_s12', 512),  # a square last layer
    ('metaformer_pppa_s12_224', 512),
    ('metaformer_ppff_s12_224', 7),  # square spatial layers
    ('caformer_s18', 512),
    pytest.param('poolformerv2_s12', 512, marks=pytest.mark.long),
    pytest.param('convformer_s18', 5, marks=pytest.mark.long),
]


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'num_classes'), FAMILIES)
def test_linear_layers_of_every_family_are_turned(tmp_path, name, num_classes) -> None:
    weights, arrays = family_arrays(name, num_classes)
    path = save({'model': arrays}, tmp_path / 'a.pdparams')
    model = create_model(name, num_classes=num_classes)
    assert load_weights(model, path).format == 'paddle'
    assert same(model.state_dict(), weights)
    for source in (None, 'paddle'):
        report = convert_file(
            path, tmp_path / 'b.pth', 'timm', source_format=source, force=True
        )
        assert report.source == 'paddle'
        assert same(read_checkpoint(tmp_path / 'b.pth')['model'], weights)
    convert_file(tmp_path / 'b.pth', tmp_path / 'c.pdparams', 'paddle')
    written = pickle.loads((tmp_path / 'c.pdparams').read_bytes())
    assert list(written) == list(arrays)
    for key, array in arrays.items():
        np.testing.assert_array_equal(written[key], array)


@pytest.mark.parametrize(('name', 'num_classes'), FAMILIES)
def test_transposed_dict_of_every_family(name, num_classes) -> None:
    weights, arrays = family_arrays(name, num_classes)
    theirs = {key: torch.from_numpy(array) for key, array in arrays.items()}
    assert same(convert_state_dict(weights, 'paddle'), theirs)
    assert same(convert_state_dict(theirs, 'native', 'paddle'), weights)
    if (name, num_classes) != ('poolformer_s12', 512):  # its shapes don't tell
        assert detect_format(theirs) == 'paddle'
        assert same(convert_state_dict(theirs, 'native'), weights)


def test_other_parts_of_a_paddle_file_are_turned_too(tmp_path) -> None:
    _, arrays = family_arrays('poolformer_s12', 10)
    arrays = {f'backbone.{k}': v for k, v in arrays.items()}
    arrays['fc.weight'] = np.arange(6, dtype=np.float32).reshape(2, 3)
    path = save(arrays, tmp_path / 'a.pdparams')
    convert_file(path, tmp_path / 'b.pth', 'timm')
    convert_file(tmp_path / 'b.pth', tmp_path / 'c.pdparams', 'paddle')
    read = read_checkpoint(tmp_path / 'b.pth')
    np.testing.assert_array_equal(read['fc.weight'], arrays['fc.weight'].T)
    written = pickle.loads((tmp_path / 'c.pdparams').read_bytes())
    np.testing.assert_array_equal(written['fc.weight'], arrays['fc.weight'])


def test_original_names_are_what_timm_takes() -> None:
    weights = timm_weights()
    original = convert_state_dict(weights, 'pit')
    assert {'pools.0.conv.weight', 'pools.1.fc.bias'} <= original.keys()
    assert detect_format(list(original)) == 'pit'
    assert same(timm.models.pit.checkpoint_filter_fn(original, None), weights)


def test_backbone_with_output_norms_has_no_original_names() -> None:
    native = create_model('pit_ti', features_only=True).state_dict()
    assert detect_format(native) == 'native'
    for format in ('pit', 'paddle'):
        with pytest.raises(ValueError, match=rf'{format} has no name for .*norm0\.wei'):
            convert_state_dict(native, format)


def test_state_dict_of_paddle_within_a_detector() -> None:
    weights = timm_weights()
    state = convert_state_dict(weights, 'paddle')
    holder = torch.nn.Module()
    holder.backbone = create_model('pit_ti')
    result = holder.load_state_dict({f'backbone.{k}': v for k, v in state.items()})
    assert not result.missing_keys and not result.unexpected_keys
    assert same(holder.backbone.state_dict(), weights)


def test_conversion_there_and_back(tmp_path) -> None:
    arrays = paddle_arrays(timm_weights())
    first = save({**arrays, NAME_TABLE: {}}, tmp_path / 'a.pdparams')
    convert_file(first, tmp_path / 'b.pth', 'timm')
    assert same(read_checkpoint(tmp_path / 'b.pth'), timm_weights())
    report = convert_file(tmp_path / 'b.pth', tmp_path / 'c.pdparams', 'paddle')
    assert str(report) == f'{len(arrays)} tensors from timm to paddle names'
    # As Paddle reads it: by pickle itself, and numpy arrays come out.
    written = pickle.loads((tmp_path / 'c.pdparams').read_bytes())
    assert list(written) == list(arrays)
    for key, array in arrays.items():
        assert type(written[key]) is np.ndarray
        assert written[key].dtype == array.dtype
        np.testing.assert_array_equal(written[key], array)


def test_half_precision_there_and_back(tmp_path) -> None:
    weights = timm_weights()
    for dtype in (torch.float16, torch.bfloat16):
        small = {key: (value % 256).to(dtype) for key, value in weights.items()}
        torch.save(small, tmp_path / 'a.pth')
        convert_file(tmp_path / 'a.pth', tmp_path / 'b.pdparams', 'paddle', force=True)
        convert_file(tmp_path / 'b.pdparams', tmp_path / 'c.pth', 'timm', force=True)
        read = read_checkpoint(tmp_path / 'c.pth')
        assert same(read, small)
        assert {value.dtype for value in read.values()} == {dtype}


def test_other_names_in_a_paddle_file_are_refused(tmp_path) -> None:
    torch.save(timm_weights(), tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'b\.pdparams: .* names of paddle; choose'):
        convert_file(tmp_path / 'a.pth', tmp_path / 'b.pdparams', 'timm')
    assert not (tmp_path / 'b.pdparams').exists()


# -- crafted and damaged files -----------------------------------------------------


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.function = function
        self.arguments = arguments

    def __reduce__(self) -> tuple:
        return self.function, self.arguments


@pytest.mark.parametrize('protocol', [2, 4])
@pytest.mark.parametrize(
    ('function', 'arguments'),
    [
        (os.system, ['mkdir MARKER']),
        (os.mkdir, ['MARKER']),
        (eval, ["__import__('os').mkdir('MARKER')"]),
        (exec, ["import os; os.mkdir('MARKER')"]),
        (getattr, [os, 'mkdir']),
    ],
    ids=lambda value: getattr(value, '__name__', ''),
)
@pytest.mark.parametrize('trust', [False, True])
def test_crafted_file_runs_nothing(
    tmp_path, monkeypatch, function, arguments, protocol, trust
) -> None:
    monkeypatch.setenv('MMPOOLFORMER_TRUST_CHECKPOINTS', '1')
    marker = tmp_path / 'marker'
    arguments = [
        a.replace('MARKER', str(marker)) if isinstance(a, str) else 'os'
        for a in arguments
    ]
    content = {'a': np.ones(3), 'b': Call(function, *arguments)}
    path = save(content, tmp_path / 'evil.pdparams', protocol)
    name = rf"evil\.pdparams asks for '.*{function.__name__}'"
    with pytest.raises(UntrustedCheckpointError, match=name):
        read_checkpoint(path, trust=trust)
    assert not marker.exists()


@pytest.mark.parametrize(
    ('content', 'asked'),
    [
        ({'a': np.array([1, 'x'], object)}, "a numpy array of type 'O8'"),
        ({'a': np.array(['x', 'yz'])}, "a numpy array of type 'U2'"),
        ({'a': np.zeros(2, [('x', 'f4')])}, 'a numpy array of type'),
        ({'a': np.array(['2020-01-01'], 'M8[D]')}, 'a numpy array of type'),
        ({'a': {1, 2}}, 'the pickle instruction EMPTY_SET'),
        ({'a': collections.Counter('x')}, "'collections.Counter'"),
        ({'a': torch.Size([1])}, "'torch.Size'"),
        ({'a': Path('x')}, "'pathlib"),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)
def test_other_things_are_refused(tmp_path, content, asked) -> None:
    path = save(content, tmp_path / 'a.pdparams')
    with pytest.raises(UntrustedCheckpointError, match=f'asks for {asked}') as caught:
        read_checkpoint(path)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('share', [0.02, 0.3, 0.9, 0.999])
@pytest.mark.parametrize('protocol', [2, 4])
def test_truncated_file(tmp_path, protocol, share) -> None:
    content = {'a': np.random.default_rng(0).standard_normal(10_000)}
    whole = pickle.dumps(content, protocol)
    (tmp_path / 'a.pdparams').write_bytes(whole[: math.ceil(len(whole) * share)])
    with pytest.raises(CheckpointError, match=r'a\.pdparams is damaged or truncated: '):
        read_checkpoint(tmp_path / 'a.pdparams')


@pytest.mark.parametrize('shape', [(2**40,), (3,), (-1,), (2**40, 2**40)])
def test_announced_shape_is_not_believed(tmp_path, shape) -> None:
    function, arguments, (version, _, *rest) = np.zeros(2).__reduce__()

    class Array:
        def __reduce__(self) -> tuple:
            return function, arguments, (version, shape, *rest)

    path = save({'a': Array()}, tmp_path / 'a.pdparams')
    with pytest.raises(CheckpointError, match='a numpy array'):
        read_checkpoint(path)


@pytest.mark.parametrize(
    'body', [b'\x8e', b'\x8d', b'\x95'], ids=['bytes', 'text', 'frame']
)
def test_announced_length_is_not_believed(tmp_path, body) -> None:
    crafted = b'\x80\x04' + body + struct.pack('<Q', 2**40) + b'short'
    (tmp_path / 'a.pdparams').write_bytes(crafted)
    with pytest.raises(CheckpointError, match='damaged or truncated'):
        read_checkpoint(tmp_path / 'a.pdparams')


def test_dict_that_holds_itself(tmp_path) -> None:
    content = {}
    content['a'] = content
    with pytest.raises(CheckpointError, match=r'damaged or truncated: .*recursion'):
        read_checkpoint(save(content, tmp_path / 'a.pdparams'))


def test_what_is_referred_to_often_is_there_once(tmp_path) -> None:
    array = np.ones(2, np.float32)
    content = {'a': array, 'b': ('linear_0.b_0', array)}
    read = read_checkpoint(save(content, tmp_path / 'a.pdparams'))
    assert read['a'] is read['b']


def test_references_to_references_are_refused(tmp_path) -> None:
    nested = [np.ones(2, np.float32)]
    for _ in range(50):  # 2 ** 50 references to the array
        nested = [nested, nested]
    with pytest.raises(CheckpointError, match='repeats what it holds too often'):
        read_checkpoint(save({'a': nested}, tmp_path / 'a.pdparams'))


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        (b'', 'it is empty'),
        (b'<html>', 'it is a web page'),
        (b'hello', 'does not start like a file of torch.save, safetensors or Paddle'),
    ],
)
def test_other_files(tmp_path, content, reason) -> None:
    (tmp_path / 'a.pdparams').write_bytes(content)
    with pytest.raises(CheckpointError, match=rf'a\.pdparams is .*{reason}'):
        read_checkpoint(tmp_path / 'a.pdparams')


def test_other_ending(tmp_path) -> None:
    path = save(paddle_arrays(timm_weights()), tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match=r'of Paddle must end in \.pdparams'):
        read_checkpoint(path)


def test_content_that_is_no_dict(tmp_path) -> None:
    path = save([np.ones(1)], tmp_path / 'a.pdparams')
    with pytest.raises(CheckpointError, match='holds a list, not a dict'):
        read_checkpoint(path)
