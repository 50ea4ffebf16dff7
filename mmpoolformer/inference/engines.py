"""Files of `mmpoolformer export` that other programs run: ONNX Runtime, OpenVINO.

They compute on the CPU, in as many threads as torch (`OMP_NUM_THREADS`).
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy import ndarray

from mmpoolformer.inference.compiling import compile_for_cpu, onnx_session
from mmpoolformer.utils.errors import UserError, one_line

INFO = 'mmpoolformer'  # the description's key in a file's metadata


@dataclass(frozen=True)
class Engine:
    """An exported file that is ready to run.

    Attributes:
        path: The file.
        runtime: What runs it.
        info: The file's description, see `mmpoolformer.export.export.export_model`.
        run: Images to outputs by name.
    """

    path: Path
    runtime: str
    info: Mapping
    run: Callable[[ndarray], Mapping[str, ndarray]]

    def __call__(self, images: ndarray) -> dict[str, ndarray]:
        """Return what the file computes of normalised images (B, C, H, W).

        Raises:
            UserError: If it takes images of another size only.
        """
        own, given = self.info['size'], list(images.shape[2:])
        if own not in ('any', given):
            raise UserError(
                f'{self.path}: takes images of {own[0]} x {own[1]} only, not of '
                f'{given[0]} x {given[1]}; mmpoolformer export without --fixed writes '
                'files for any size'
            )
        found = self.run(np.ascontiguousarray(images, np.float32))
        return {name: found[name] for name in self.info['outputs']}


def load_engine(path: str | os.PathLike, dtype: str = 'fp32') -> Engine:
    """Make an exported file ready.

    Args:
        path: The file, which `mmpoolformer.utils.paths.is_exported` knows.
        dtype: What it computes in: `fp32`, or with OpenVINO also `bf16`.

    Raises:
        UserError: If it can't be read, is of another program, or the package that runs
            it is not there.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f'{path}: no such file')
    return LOADERS[path.suffix](path, dtype)


def _load_onnx(path: Path, dtype: str) -> Engine:
    if dtype != 'fp32':
        raise UserError(
            f'{path}: ONNX Runtime computes it in float32 on CPUs; for {dtype} export '
            "OpenVINO's .xml"
        )
    with _explained(path, 'onnxruntime', 'onnx'):
        import onnxruntime  # an extra

        session = onnx_session(path)
    info = _read_info(path, session.get_modelmeta().custom_metadata_map.get(INFO))
    names = list(info['outputs'])

    def run(images: ndarray) -> dict[str, ndarray]:
        return dict(zip(names, session.run(names, {'images': images}), strict=True))

    return Engine(path, f'ONNX Runtime {onnxruntime.__version__}', info, run)


def _load_openvino(path: Path, dtype: str) -> Engine:
    with _explained(path, 'openvino', 'openvino'):
        import openvino  # an extra

        model = openvino.Core().read_model(path)
        compiled = compile_for_cpu(model, dtype)
    text = model.get_rt_info(INFO).astype(str) if model.has_rt_info(INFO) else None
    version = openvino.__version__.partition('-')[0]
    return Engine(path, f'OpenVINO {version}', _read_info(path, text), compiled)


LOADERS = {'.onnx': _load_onnx, '.xml': _load_openvino}


@contextmanager
def _explained(path: Path, package: str, extra: str) -> Iterator[None]:
    """Name the cure where a package is missing, and the file that can't be read."""
    try:
        yield
    except ImportError as error:
        raise UserError(
            f'{path} needs {package}, which is not installed: python -m pip install '
            f"'mmpoolformer[{extra}]'"
        ) from error
    except Exception as error:  # ONNX Runtime's have no base of their own
        raise UserError(
            f"{path}: {package} can't read it: {one_line(error)}"
        ) from error


def _read_info(path: Path, text: str | None) -> dict:
    if text is None:
        raise UserError(
            f'{path}: has no description of mmpoolformer export, so what it takes and '
            'gives is not known; export the model by mmpoolformer export'
        )
    return json.loads(text)
