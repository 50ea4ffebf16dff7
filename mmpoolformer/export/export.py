"""Models as files that run without this package: ONNX, OpenVINO, TorchScript, PT2.

A file is compared with the model that it was made of before it gets its name, so a file
that is there computes what the model computes.
"""

import importlib.util
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmpoolformer.export.compare import (
    Check,
    compare_candidates,
    compare_detections,
    compare_tensors,
)
from mmpoolformer.export.graphs import Graph, build_graph, fixed_parts, windowed_parts
from mmpoolformer.inference.compiling import compile_for_cpu, onnx_session
from mmpoolformer.models.windows import for_any_size
from mmpoolformer.utils.temporary import evaluating
from mmpoolformer.version import __version__

if TYPE_CHECKING:
    import openvino

    from mmpoolformer.export.quantize import Quantised

OPSET = 17  # the highest that torch 2.1 writes, the lowest with LayerNormalization
FORMATS = {
    '.onnx': 'ONNX',
    '.xml': 'OpenVINO',
    '.ts': 'TorchScript',
    '.pt2': 'torch.export',
}
SUPPRESSED = ('.onnx', '.xml')  # formats that can hold the suppression of boxes
# What a format needs beside torch, and the extras that bring it.
NEEDED = {
    '.onnx': (('onnx', 'onnxruntime'), 'export'),
    '.xml': (('onnx', 'openvino'), 'export,openvino'),
    'int8': (('onnx', 'openvino', 'nncf'), 'export,int8'),
}
INFO = 'mmpoolformer.json'
# Recorded with one image shape (batch, height, width), compared with others, even and
# odd. Sides are long enough that no level of RetinaNet's pyramid is a single cell, for
# which torch.export makes rules of its own.
RECORDED = (2, 267, 331)
COMPARED = ((1, 224, 224), (2, 256, 320), (3, 203, 139))
TOLERANCE = 1e-3

Run = Callable[[Tensor], list[np.ndarray]]


class ExportError(ValueError):
    """A file would not compute what the model computes; none was written.

    Args:
        message: What is wrong.
        checks: The comparisons, if they got that far.
    """

    def __init__(self, message: str, checks: Sequence[Check] = ()) -> None:
        super().__init__(message)
        self.checks = list(checks)


@dataclass(frozen=True)
class Calibration:
    """How a model is quantised to 8-bit integers.

    Attributes:
        folder: Pictures, see `mmpoolformer.export.quantize.quantise`.
        max_drop: Points that it may lose.
    """

    folder: str
    max_drop: float = 0.5


@dataclass(frozen=True)
class Export:
    """What was exported.

    Attributes:
        path: The file.
        kind: See `Graph`.
        checks: The comparisons, all within the tolerance; of the file before it was
            quantised.
        quantised: How good it is after that, if it was.
    """

    path: Path
    kind: str
    checks: list[Check]
    quantised: 'Quantised | None' = None


def export_model(
    model: nn.Module,
    path: str | os.PathLike,
    size: tuple[int, int] | None = None,
    tolerance: float = TOLERANCE,
    info: Mapping | None = None,
    int8: Calibration | None = None,
) -> Export:
    """Write a model to a file and compare the file with the model.

    The model itself stays as it is. What the file takes and gives: see `build_graph`,
    except that ONNX and OpenVINO files of detectors end with the suppression of
    overlapping boxes, see `suppressed`.

    Args:
        model: See `build_graph`.
        path: The file; its ending says the format, see `FORMATS`. The weights of an
            .xml are in a .bin beside it.
        size: Height and width of the only images that the file takes; `None` makes a
            file for images of any size. Batches may always differ. (Files of
            torch.export refuse sizes that their recording does not cover, such as sides
            below 130 pixels for RetinaNet.)
        tolerance: Largest difference that is allowed between file and model, relative
            to the largest value of an output.
        info: More entries of the file's description, such as `mean`, `std` and
            `classes`; plain data. It is in ONNX's metadata and in OpenVINO's `rt_info`
            under `mmpoolformer`, in the others an extra file, `INFO`.
        int8: How to quantise an .xml, after it was compared; None leaves float32.

    Raises:
        ValueError: If the format is unknown, can't hold the model or needs a package
            that is not installed.
        ExportError: If the outputs differ by more than the tolerance, or quantisation
            loses more than it may. No file is left, and one that was there before
            stays.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        listed = ', '.join(f'{end} ({name})' for end, name in FORMATS.items())
        raise ValueError(f'{path}: the ending says the format: {listed}')
    if int8 and path.suffix != '.xml':
        raise ValueError(f'{path}: int8 is for .xml only')
    _check_packages('int8' if int8 else path.suffix)
    _check_size(model, path.suffix, size)
    graph = build_graph(model)
    if graph.eager is None and path.suffix not in SUPPRESSED:
        raise ValueError(
            f'{path.suffix} can not hold {type(model).__name__}: write .onnx or .xml'
        )
    about = {**_description(graph, path.suffix, size), **(info or {})}
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, so that the finished file only needs another name.
    with tempfile.TemporaryDirectory(prefix='.export-', dir=path.parent) as folder:
        part = Path(folder) / path.name
        with evaluating(model), torch.no_grad():
            checks = list(_write(graph, part, size, json.dumps(about)))
        worst = max(check.difference for check in checks)
        if not worst <= tolerance:
            raise ExportError(
                f'{path}: not written, since it differs from the model by {worst:.1e}, '
                f'more than the tolerance of {tolerance:g}',
                checks,
            )
        quantised = _quantise(part, about, int8) if int8 else None
        if quantised and quantised.drop > int8.max_drop:
            raise ExportError(
                f'{path}: not written, since int8 loses {quantised.drop:.1f} points, '
                f'more than {int8.max_drop:g} ({quantised}); give more pictures or a '
                'larger --max-drop',
                checks,
            )
        _place(part, path)
    return Export(path, graph.kind, checks, quantised)


def _quantise(part: Path, about: Mapping, int8: Calibration) -> 'Quantised':
    """Write a smaller file in place of an OpenVINO file."""
    import openvino  # an extra

    from mmpoolformer.export.quantize import quantise

    model, found = quantise(
        openvino.Core().read_model(part), about, int8.folder, int8.max_drop, _load
    )
    model.set_rt_info(json.dumps({**about, 'int8': asdict(found)}), 'mmpoolformer')
    smaller = part.with_name(f'small-{part.name}')  # the other is still read from
    openvino.save_model(model, smaller, compress_to_fp16=False)
    for suffix in ('.xml', '.bin'):
        os.replace(smaller.with_suffix(suffix), part.with_suffix(suffix))
    return found


def _place(part: Path, path: Path) -> None:
    """Give a file its name, and the weights of an .xml theirs: both or none."""
    if path.suffix != '.xml':
        os.replace(part, path)
        return
    weights, old = path.with_suffix('.bin'), part.with_suffix('.old')
    if weights.is_file():
        shutil.copy2(weights, old)
    os.replace(part.with_suffix('.bin'), weights)
    try:
        os.replace(part, path)
    except OSError:
        weights.unlink()
        if old.exists():
            os.replace(old, weights)
        raise


def table(checks: Sequence[Check]) -> str:
    """Return comparisons as lines of at most 80 characters."""
    lines = [('input', 'compared', 'difference')]
    lines += [
        (' x '.join(map(str, one.shape)), one.what, f'{one.difference:.1e}')
        for one in checks
    ]
    return '\n'.join(f'{a:<20}  {b:<42}  {c:>10}' for a, b, c in lines)


def _write(
    graph: Graph, part: Path, size: tuple[int, int] | None, text: str
) -> Iterator[Check]:
    """Write a file and yield its comparisons with the model."""
    sample = _images(graph, size, *RECORDED)

    def written(module: nn.Module) -> Run:
        with for_any_size() if size is None else nullcontext(), _without_noise():
            one = replace(graph, module=module)
            return WRITERS[part.suffix](one, part, sample, size is None, text)

    batches = [_images(graph, size, *shape) for shape in COMPARED]
    run = written(graph.module)
    for images in batches:
        yield _compared(graph, images, run(images))
    if graph.detect is None:
        return
    detect = written(graph.detect) if part.suffix in SUPPRESSED else _ended(graph, run)
    for images in batches:
        expected = graph.find(images, graph.boxes.score_threshold)
        yield compare_detections(images, expected, detect(images))


def _compared(graph: Graph, images: Tensor, given: list[np.ndarray]) -> Check:
    if graph.eager is None:
        return compare_detections(images, graph.find(images, 0.0), given)
    expected = [x.numpy() for x in graph.eager(images)]
    if graph.detect is None:
        return compare_tensors(images, list(graph.outputs), expected, given)
    return compare_candidates(images, graph.boxes.per_level, expected, given)


def _save_onnx(
    graph: Graph, part: Path, sample: Tensor, any_size: bool, text: str
) -> None:
    import onnx  # an extra

    # torch's older exporter: it takes 0.5 s where the newer takes 10 to 20 s, gives the
    # same numbers, and is the one that torch 2.1 has.
    options = {} if torch.__version__ < '2.5' else {'dynamo': False}
    torch.onnx.export(
        graph.module,
        (sample,),
        str(part),
        opset_version=OPSET,
        input_names=['images'],
        output_names=list(graph.outputs),
        dynamic_axes=_axes(graph, any_size),
        **options,
    )
    model = onnx.load(str(part))
    for node in model.graph.node:
        # torch 2.1 names what a LayerNorm without bias lacks, by an empty last input;
        # ONNX Runtime (1.31) then dies of a segmentation fault.
        while node.input and not node.input[-1]:
            node.input.pop()
    onnx.helper.set_model_props(model, {'mmpoolformer': text})
    model.producer_name, model.producer_version = 'mmpoolformer', __version__
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(part))


def _write_onnx(
    graph: Graph, part: Path, sample: Tensor, any_size: bool, text: str
) -> Run:
    _save_onnx(graph, part, sample, any_size, text)
    session = onnx_session(part)
    return lambda images: session.run(None, {'images': images.numpy()})


def _write_openvino(
    graph: Graph, part: Path, sample: Tensor, any_size: bool, text: str
) -> Run:
    """Write the file by way of ONNX."""
    import openvino  # an extra

    source = part.with_suffix('.onnx')
    _save_onnx(graph, source, sample, any_size, text)
    core = openvino.Core()
    model = core.read_model(source)
    model.set_rt_info(text, 'mmpoolformer')
    openvino.save_model(model, part, compress_to_fp16=False)
    run = _load(core.read_model(part))
    return lambda images: run(images.numpy())


def _load(model: 'openvino.Model') -> Callable[[np.ndarray], list[np.ndarray]]:
    """Return what runs a model of OpenVINO in float32, as far as it is not in int8."""
    compiled = compile_for_cpu(model)
    return lambda images: list(compiled(images).values())


def _write_torchscript(
    graph: Graph, part: Path, sample: Tensor, any_size: bool, text: str
) -> Run:
    traced = torch.jit.trace(graph.module, (sample,), check_trace=False)
    torch.jit.save(traced, str(part), _extra_files={INFO: text})
    return _tensor_run(torch.jit.load(str(part)))


def _write_exported(
    graph: Graph, part: Path, sample: Tensor, any_size: bool, text: str
) -> Run:
    free = torch.export.Dim.DYNAMIC
    changing = {0: free, 2: free, 3: free} if any_size else {0: free}
    # `forward` calls its argument x or images, so the shapes come by position.
    program = torch.export.export(
        graph.module, (sample,), dynamic_shapes=(changing,), strict=False
    )
    torch.export.save(program, str(part), extra_files={INFO: text})
    run = _tensor_run(torch.export.load(str(part)).module())

    def checked_run(images: Tensor) -> list[np.ndarray]:
        try:
            return run(images)
        except AssertionError as error:  # how such a file refuses a size
            raise ExportError(
                f'{part.name}: not written, since torch.export has recorded what does '
                f'not hold for images of {tuple(images.shape)} ({error}); write .onnx '
                'or .ts, or give --fixed HEIGHT WIDTH'
            ) from error

    return checked_run


def _tensor_run(module: nn.Module) -> Run:
    return lambda images: [x.numpy() for x in module(images)]


def _ended(graph: Graph, run: Run) -> Run:
    """Return what users of candidates do themselves: threshold, then suppression."""
    from mmcv.ops import batched_nms  # only there for detection

    settings = graph.boxes
    rule = dict(type='nms', iou_threshold=settings.iou_threshold)

    def detect(images: Tensor) -> list[np.ndarray]:
        rows = []
        for found in zip(*(torch.from_numpy(x) for x in run(images)), strict=True):
            boxes, scores, labels = (
                x[found[1] > settings.score_threshold] for x in found
            )
            _, index = batched_nms(boxes, scores, labels, rule)
            index = index[: settings.max_boxes]
            more = settings.max_boxes - len(index)
            rows.append(
                (
                    F.pad(boxes[index], (0, 0, 0, more)),
                    F.pad(scores[index], (0, more)),
                    F.pad(labels[index], (0, more), value=-1),
                )
            )
        return [torch.stack(column).numpy() for column in zip(*rows, strict=True)]

    return detect


WRITERS = {
    '.onnx': _write_onnx,
    '.xml': _write_openvino,
    '.ts': _write_torchscript,
    '.pt2': _write_exported,
}


def _check_packages(what: str) -> None:
    """Refuse a format, or int8, whose packages are not installed."""
    names, extras = NEEDED.get(what, ((), ''))
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f'{what} needs {" and ".join(missing)}: '
            f"python -m pip install 'mmpoolformer[{extras}]'"
        )


def _check_size(model: nn.Module, suffix: str, size: tuple[int, int] | None) -> None:
    """Refuse images of any size where a model or format takes those of one size."""
    cure = 'give --fixed HEIGHT WIDTH'
    if suffix == '.pt2' and not hasattr(getattr(torch.export, 'Dim', None), 'DYNAMIC'):
        raise ValueError(
            f'.pt2 needs torch 2.6 or newer, this is {torch.__version__}: '
            'write .onnx or .ts'
        )
    if size is not None:
        return
    fixed = fixed_parts(model)
    if fixed:
        raise ValueError(f'{fixed[0]} takes images of one size only: {cure}')
    windowed = windowed_parts(model)
    if suffix == '.pt2' and windowed:
        raise ValueError(
            f'{windowed[0]}: torch.export can not follow its sizes for images of any '
            f'size; write .onnx or .ts, or {cure}'
        )


def _description(graph: Graph, suffix: str, size: tuple[int, int] | None) -> dict:
    """Return what a user of a file should know, as plain data."""
    found = {
        'kind': graph.kind,
        'input': 'images, float32 (batch, channels, height, width), normalised',
        'size': list(size) if size else 'any',
        'outputs': {name: list(dims) for name, dims in graph.outputs.items()},
        'version': __version__,
    }
    if graph.align_corners is not None:
        found['align_corners'] = graph.align_corners
    if graph.boxes is not None:
        boxes = {k: v for k, v in asdict(graph.boxes).items() if v is not None}
        found['boxes'] = {**boxes, 'suppressed': suffix in SUPPRESSED}
    return found


def _axes(graph: Graph, any_size: bool) -> dict[str, dict[int, str]]:
    """Name the dimensions of the input and the outputs that change."""
    ends = ('batch', 'height', 'width') if any_size else ('batch',)
    dims = {'images': ('batch', 'channels', 'height', 'width'), **graph.outputs}
    return {
        name: {i: dim for i, dim in enumerate(each) if dim.endswith(ends)}
        for name, each in dims.items()
    }


def _images(
    graph: Graph, size: tuple[int, int] | None, batch: int, height: int, width: int
) -> Tensor:
    """Return random images of a size, or of the only one."""
    generator = torch.Generator().manual_seed(height)
    shape = (batch, graph.in_channels, *(size or (height, width)))
    return torch.randn(shape, generator=generator)


@contextmanager
def _without_noise() -> Iterator[None]:
    """Leave out warnings of what the comparison tests: constants in a recording."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', torch.jit.TracerWarning)
        warnings.filterwarnings('ignore', module=r'torch\.(onnx|jit|export)')
        warnings.filterwarnings('ignore', category=DeprecationWarning)
        yield
