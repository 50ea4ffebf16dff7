"""Files of PaddlePaddle's `paddle.save`, read and written without PaddlePaddle.

A `.pdparams` file is a pickle of a dict of numpy arrays. Beside them it may hold
`StructuredToParameterName@@`, the names that Paddle itself gave the parameters. Only
arrays and plain containers are read; whatever else a file names is refused. Linear
weights lie (in, out) in a file, whatever the network.
"""

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from mmpoolformer.checkpoints.errors import (
    UntrustedCheckpointError,
    errors_of,
)
from mmpoolformer.checkpoints.keymaps import with_linear_turned
from mmpoolformer.checkpoints.pickle_check import ARRAY_NAMES, NUMPY, PickleCheck

SUFFIX = '.pdparams'

# Paddle reads pickles up to this protocol.
_PROTOCOL = 4

_PLAIN = (str, bytes, bool, int, float, np.generic, type(None))


def read_paddle(path: Path) -> dict:
    """Read a `.pdparams` file without running anything in it.

    Args:
        path: The file.

    Returns:
        What the file holds, arrays as tensors. Weights of linear layers, which Paddle
        has as (in, out), are turned to torch's (out, in).

    Raises:
        UntrustedCheckpointError: If the file asks for more than numpy arrays.
        CheckpointError: If it is damaged.
    """
    # From memory: there a read gives what is there, however much a file announces.
    stream = io.BytesIO(path.read_bytes())
    advice = (
        '. Weights of Paddle are numpy arrays of numbers in dicts, so it was not read'
    )
    with errors_of(path, advice):
        PickleCheck(stream, ARRAY_NAMES, len(stream.getbuffer()), _PROTOCOL).run()
        stream.seek(0)
        return _as_torch(_Unpickler(stream).load(), {})


class _Unpickler(pickle.Unpickler):
    """Python's own, after the check, and even so with nothing but these names.

    torch's does not know the instructions of protocols above 2, which Paddle uses.
    """

    def find_class(self, module: str, name: str) -> object:
        """Look a name up in the table; nothing is imported."""
        return NUMPY[f'{module}.{name}'.replace('__builtin__.', 'builtins.', 1)]


def write_paddle(weights: Mapping[str, Tensor], file: BinaryIO) -> None:
    """Write weights as `paddle.load` takes them.

    Args:
        weights: Tensors by name, linear weights (in, out) as Paddle has them.
        file: Where to.
    """
    arrays = {name: _as_array(tensor) for name, tensor in weights.items()}
    pickle.dump(arrays, file, protocol=_PROTOCOL)


def _as_torch(value: object, done: dict[int, object]) -> object:
    """Turn the arrays inside plain containers into tensors.

    Each thing once, however often a file refers to it: a small one could ask for more
    memory than there is.
    """
    if id(value) not in done:
        done[id(value)] = _converted(value, done)
    return done[id(value)]


def _converted(value: object, done: dict[int, object]) -> object:
    if isinstance(value, np.ndarray):
        return _as_tensor(value)
    # A tensor as Paddle saves it within others: (name, array).
    if isinstance(value, tuple) and tuple(map(type, value)) == (str, np.ndarray):
        return _as_torch(value[1], done)
    if isinstance(value, dict):
        entries = {key: _as_torch(item, done) for key, item in value.items()}
        return with_linear_turned(entries)
    if isinstance(value, list | tuple):
        return type(value)(_as_torch(item, done) for item in value)
    if isinstance(value, _PLAIN):
        return value
    raise UntrustedCheckpointError(f'a {type(value).__name__}')


def _as_tensor(array: np.ndarray) -> Tensor:
    if array.dtype == np.uint16:  # how Paddle's arrays hold bfloat16
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    if array.dtype.kind not in 'biufc':
        raise UntrustedCheckpointError(f'a numpy array of type {array.dtype.str!r}')
    return torch.from_numpy(array.copy())  # of its own: pickled bytes cannot be changed


def _as_array(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()
