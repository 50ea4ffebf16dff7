"""Exported models made ready to run on the CPU."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    import onnxruntime
    import openvino

# OpenVINO's names; by itself it takes bfloat16 where the CPU has it.
PRECISIONS = {'fp32': 'f32', 'bf16': 'bf16'}


def onnx_session(path: str | os.PathLike) -> 'onnxruntime.InferenceSession':
    """Make an ONNX file ready, with as many threads as torch takes."""
    import onnxruntime  # an extra

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(
        path, options, providers=['CPUExecutionProvider']
    )


def compile_for_cpu(
    model: 'openvino.Model', dtype: str = 'fp32'
) -> 'openvino.CompiledModel':
    """Make a model ready, with as many threads as torch takes.

    Args:
        model: The model.
        dtype: What it computes in, as far as it is not in int8: `fp32` or `bf16`.
    """
    import openvino  # an extra

    options = {
        'INFERENCE_PRECISION_HINT': PRECISIONS[dtype],
        'INFERENCE_NUM_THREADS': torch.get_num_threads(),
    }
    with kept_signal_stack():
        return openvino.Core().compile_model(model, 'CPU', options)


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Give this thread back its stack for signals, whatever the block does.

    OpenVINO sets one of 12 kB and leaves it. Python's handlers run on it, and where the
    CPU has many registers to save they overflow it: Ctrl-C would be a segmentation
    fault.
    """
    if sys.platform != 'linux':
        yield
        return
    libc, before = ctypes.CDLL(None), _SignalStack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)


class _SignalStack(ctypes.Structure):
    """Linux's `stack_t`."""

    _fields_ = (
        ('ss_sp', ctypes.c_void_p),
        ('ss_flags', ctypes.c_int),
        ('ss_size', ctypes.c_size_t),
    )
