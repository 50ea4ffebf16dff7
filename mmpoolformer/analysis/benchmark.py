"""How long models take, beside their peers and the machine's limits.

Models are timed in turns, round after round, so that whatever else the machine does
meets all of them. The limit beside each figure is measured, too: the time of the
model's matrix products and convolutions alone, run again by themselves on the same
shapes.
"""

import gc
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from multiprocessing import get_context
from os import PathLike
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmpoolformer.checkpoints import ZOO
from mmpoolformer.engine.config import load_config
from mmpoolformer.export.export import export_model
from mmpoolformer.inference.engines import load_engine
from mmpoolformer.models import VARIANTS, MetaFormer, MetaFormerClassifier
from mmpoolformer.models.folding import DTYPES, optimize_for_inference
from mmpoolformer.models.from_config import build_from_config
from mmpoolformer.utils.paths import is_config

PEERS = ('timm', 'timm-channels-last', 'timm-compiled', 'transformers', 'mmpretrain')
ENGINES = {'onnx': '.onnx', 'openvino': '.xml'}  # with the files that they run
MMPRETRAIN_MAPS = (0, 2, 4, 6)  # its stages; between them it counts downsamplings
PRODUCTS = (
    'aten::addmm',
    'aten::mm',
    'aten::bmm',
    'aten::convolution',
    'aten::convolution_backward',
    'mkldnn::_linear_pointwise',
)
PROCESS = Path('/proc/self')  # Linux's account of this process
BYTES = 1 << 27  # of the buffer that the bandwidth is measured with: beyond any cache


@dataclass(frozen=True)
class Case:
    """What is timed.

    Attributes:
        model: A name in `mmpoolformer.models.VARIANTS`, or a config file.
        implementation: `fused`, `plain`, `folded`, `compiled`, or one of `PEERS` or
            `ENGINES`.
        task: `inference`, forward alone, or `training`, forward and backward.
        batch: Images at once.
        size: Height and width of the images, in pixels.
        dtype: One of `DTYPES`: autocast in training, the model's own in inference;
            in bfloat16 of the engines OpenVINO alone computes.
        classifier: Whether it ends in logits, not in four maps.
    """

    model: str
    implementation: str
    task: str = 'inference'
    batch: int = 1
    size: tuple[int, int] = (512, 512)
    dtype: str = 'fp32'
    classifier: bool = False

    @property
    def how(self) -> str:
        """The implementation, with the type where it is not float32."""
        kind = '' if self.dtype == 'fp32' else f' {self.dtype}'
        return f'{self.implementation}{kind}'


@dataclass(frozen=True)
class Timing:
    """What was measured.

    Attributes:
        case: What was timed.
        seconds: Median of the rounds.
        spread: Half the distance of the quartiles over the median.
        products: Seconds of the products and convolutions alone.
        traffic: Seconds to read and write their operands once, by the measured
            bandwidth.
        memory: Peak of one run above what the process had before it, in bytes; `None`
            where it was not asked for or is not known.
    """

    case: Case
    seconds: float
    spread: float
    products: float
    traffic: float
    memory: int | None

    @property
    def throughput(self) -> float:
        """Images a second."""
        return self.case.batch / self.seconds


def measure(
    cases: Sequence[Case],
    rounds: int = 9,
    device: str = 'cpu',
    memory: bool = True,
    tick: Callable[[], None] = lambda: None,
) -> list[Timing]:
    """Time cases in turns.

    Args:
        cases: What to time; all are held in memory together.
        rounds: How often each is run after its first, unmeasured time.
        device: Where: `cpu` or `cuda`.
        memory: Whether the peak is measured, on a CPU in a process of its own.
        tick: Called after every run, `len(cases) * (rounds + 1)` times.

    Raises:
        ValueError: If an implementation does not have a model.
    """
    runs = [prepare(case, device) for case in cases]
    seconds: list[list[float]] = [[] for _ in cases]
    for number in range(rounds + 1):
        for run, row in zip(runs, seconds, strict=True):
            taken = timed(run, device)
            if number:
                row.append(taken)
            tick()
    rate = bandwidth(device)
    timings = []
    for case, run, row in zip(cases, runs, seconds, strict=True):
        products, moved = products_alone(run, device)
        peak = peak_memory(case, device) if memory else None
        first, middle, last = quantiles(row, n=4) if len(row) > 1 else row * 3
        spread = (last - first) / 2 / middle
        timings.append(Timing(case, median(row), spread, products, moved / rate, peak))
    return timings


def prepare(case: Case, device: str = 'cpu') -> Callable[[], Any]:
    """Return a function that runs a case once.

    Raises:
        ValueError: If the implementation does not have the model.
        UserError: If its config can't be used.
    """
    torch.manual_seed(0)
    if case.implementation in ENGINES:
        return _engine(case)
    model = _build(case).to(device)
    images = torch.randn(case.batch, 3, *case.size, device=device)
    make = _training if case.task == 'training' else _inference
    return make(model, images, case)


def _training(model: nn.Module, images: Tensor, case: Case) -> Callable[[], None]:
    model.train()
    low = images.device.type, DTYPES[case.dtype]

    def run() -> None:
        model.zero_grad(set_to_none=True)
        # Not `enabled=`: torch 2.1 refuses float32 here even where it is off.
        with nullcontext() if case.dtype == 'fp32' else torch.autocast(*low):
            outputs = _tensors(model(images))
        sum(output.float().square().mean() for output in outputs).backward()

    return run


def _inference(model: nn.Module, images: Tensor, case: Case) -> Callable[[], Any]:
    model.eval()
    own_type = case.implementation in ('folded', 'compiled')
    if not own_type:  # those take float32 and see to the rest
        model, images = model.to(DTYPES[case.dtype]), images.to(DTYPES[case.dtype])

    def run() -> Any:
        with torch.no_grad():
            return model(images)

    return run


def _engine(case: Case) -> Callable[[], Any]:
    model = _build(replace(case, implementation='fused')).eval()
    with TemporaryDirectory() as folder:
        path = Path(folder, f'model{ENGINES[case.implementation]}')
        # Of random weights rounding may choose other boxes.
        export_model(model, path, case.size, tolerance=inf)
        engine = load_engine(path, case.dtype)
    return partial(engine, torch.randn(case.batch, 3, *case.size).numpy())


def _build(case: Case) -> nn.Module:
    if case.implementation in PEERS:
        return _peer(case)
    if is_config(case.model):
        config = load_config(case.model, ('model',))
        config.model.backbone.init_cfg = None
        # Not later in the blocks: the stages' layout depends on it.
        if str(config.model.backbone.type).startswith('mmpoolformer.'):
            config.model.backbone.fused = case.implementation != 'plain'
        model = build_from_config(config)
    else:
        kind = MetaFormerClassifier if case.classifier else MetaFormer
        model = kind(VARIANTS[case.model], fused=case.implementation != 'plain')
    if case.implementation in ('folded', 'compiled'):
        compiled = 'fixed' if case.implementation == 'compiled' else False
        return optimize_for_inference(model, DTYPES[case.dtype], compiled)
    return model


def _peer(case: Case) -> nn.Module:
    if is_config(case.model):
        raise ValueError(f'{case.implementation} has no model of {case.model}')
    if case.implementation.startswith('timm'):
        name = ZOO[case.model].timm_name or case.model
        if not timm.is_model(name.split('.')[0]):
            raise ValueError(f'timm has no {case.model}')
        model = timm.create_model(name, features_only=not case.classifier)
        if case.implementation == 'timm-channels-last':
            return model.to(memory_format=torch.channels_last)
        if case.implementation == 'timm-compiled':
            return torch.compile(model)
        return model
    size = re.fullmatch(r'poolformer_([sm]\d+)', case.model)
    if size is None:
        raise ValueError(f'{case.implementation} has no {case.model}')
    # Neither is required by this package; both are for those who compare them.
    if case.implementation == 'mmpretrain':
        from mmpretrain.models import PoolFormer

        return PoolFormer(size[1], out_indices=MMPRETRAIN_MAPS)
    from transformers import PoolFormerConfig, PoolFormerModel

    row = VARIANTS[case.model]
    options = dict(depths=list(row.depths), hidden_sizes=list(row.dims))
    return PoolFormerModel(PoolFormerConfig(**options))


def _tensors(outputs: Any) -> list[Tensor]:
    """Return the floating point tensors in nested outputs, where None may stand."""
    if outputs is None:
        return []
    if isinstance(outputs, Tensor):
        return [outputs] if outputs.is_floating_point() else []
    parts = outputs.values() if isinstance(outputs, Mapping) else outputs
    return [tensor for part in parts for tensor in _tensors(part)]


def timed(run: Callable[[], Any], device: str) -> float:
    """Return how many seconds a run takes, on a GPU to its end."""
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: str) -> None:
    if device.startswith('cuda'):
        torch.cuda.synchronize()


class _Products(TorchDispatchMode):
    """Notes the products of what runs inside, and what they read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable, tuple, dict]] = []
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._schema.name in PRODUCTS:
            given = [a for a in args if isinstance(a, Tensor)]
            self.calls.append((func, tuple(map(_shape, args)), kwargs or {}))
            self.bytes += sum(t.nbytes for t in (*given, *_tensors(result)))
        return result


def _shape(argument: Any) -> Any:
    """Stand in for a tensor by one without numbers, so that nothing is kept alive."""
    if isinstance(argument, Tensor):
        return torch.empty_like(argument, device='meta')
    return argument


def products_alone(run: Callable[[], Any], device: str) -> tuple[float, int]:
    """Time the products and convolutions of a run by themselves.

    Returns:
        Seconds, the best of three for each, and the bytes that they read and write.
    """
    with _Products() as noted:
        run()
    total = 0.0
    with torch.no_grad():
        for func, args, kwargs in noted.calls:
            real = tuple(_filled(argument, device) for argument in args)
            again = lambda f=func, a=real, k=kwargs: f(*a, **k)  # noqa: E731
            again()
            total += min(timed(again, device) for _ in range(3))
    return total, noted.bytes


def _filled(argument: Any, device: str) -> Any:
    if isinstance(argument, Tensor):
        return torch.empty_like(argument, device=device).fill_(0.5)
    return argument


def bandwidth(device: str = 'cpu') -> float:
    """Measure how many bytes a second are read and written in a copy."""
    source = torch.ones(BYTES // 4, device=device)
    target = torch.empty_like(source)
    best = min(timed(lambda: target.copy_(source), device) for _ in range(5))
    return 2 * BYTES / best


def peak_memory(case: Case, device: str = 'cpu') -> int | None:
    """Measure the peak of one run, in bytes above what there was before it.

    `None` for a CPU whose system does not tell; Linux does.
    """
    if device.startswith('cuda'):
        run = prepare(case, device)
        run()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    if not (PROCESS / 'clear_refs').exists():
        return None
    context = get_context('forkserver')
    # Once, not for each case, as it takes seconds.
    context.set_forkserver_preload([__name__])
    with context.Pool(1) as pool:
        grown = pool.apply(_grown, (case, torch.get_num_threads()))
        # Where SIGTERM is ignored, the pool could not be ended otherwise.
        pool.close()
        pool.join()
    return grown


def _grown(case: Case, threads: int) -> int:
    torch.set_num_threads(threads)
    run = prepare(case)
    prepare(Case('poolformer_s12', 'plain', case.task, size=(32, 32)))()  # libraries
    gc.collect()
    # Forget the peak of loading and building.
    (PROCESS / 'clear_refs').write_text('5', encoding='ascii')
    before = _status('VmRSS')
    run()
    return _status('VmHWM') - before


def _status(name: str) -> int:
    """Return one of Linux's figures of this process, in bytes."""
    lines = (PROCESS / 'status').read_text(encoding='ascii').splitlines()
    line = next(line for line in lines if line.startswith(name))
    return int(line.split()[1]) * 1024


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Run a block with a number of threads; `None` leaves it."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def table(timings: Sequence[Timing]) -> str:
    """Return a Markdown table; `x` is how many times as fast as the first of its kind.

    Of one kind are rows of the same model, task, batch and size.
    """
    first: dict[tuple, Timing] = {}
    lines = [
        '| model | how | task | b | size | ms | +-% | img/s | x | products | MB | x |',
        '|---|---|---|--:|---|--:|--:|--:|--:|--:|--:|--:|',
    ]
    for timing in timings:
        case = timing.case
        kind = (case.model, case.task, case.batch, case.size)
        base = first.setdefault(kind, timing)
        memory = less = ''
        if timing.memory is not None and base.memory:
            memory = f'{timing.memory / 1e6:.0f}'
            less = f'{timing.memory / base.memory:.2f}'
        name = case.model.rsplit('/', 1)[-1].removesuffix('.py')
        size = 'x'.join(map(str, case.size))
        cells = (
            name,
            case.how,
            case.task,
            case.batch,
            size,
            f'{timing.seconds * 1e3:.0f}',
            f'{timing.spread * 100:.0f}',
            f'{timing.throughput:.2f}',
            f'{base.seconds / timing.seconds:.2f}',
            # What engines multiply can't be seen.
            f'{timing.products / timing.seconds:.0%}' if timing.products else '',
            memory,
            less,
        )
        lines.append(f'| {" | ".join(map(str, cells))} |')
    return '\n'.join(lines)


def plot(timings: Sequence[Timing], path: str | PathLike) -> None:
    """Draw throughput against published accuracy, or time against pixels.

    The second where one model was timed at several sizes or batches.

    Args:
        timings: What was measured.
        path: The PNG that is written.
    """
    figure = Figure(figsize=(7, 4.5), layout='constrained')
    axes = figure.add_subplot()
    grows = len({(t.case.batch, *t.case.size) for t in timings}) > 1
    rows: dict[str, list[Timing]] = {}
    for timing in timings:
        how = timing.case.how
        label = f'{timing.case.model} {how}' if grows else how
        rows.setdefault(label, []).append(timing)
    for label, row in rows.items():
        if grows:
            row = sorted(row, key=pixels)
            x, y = [pixels(t) / 1e6 for t in row], [t.seconds for t in row]
            axes.loglog(x, y, marker='o', label=label)
        else:
            x = [t.throughput for t in row]
            y = [ZOO[t.case.model].top1 for t in row]
            axes.plot(x, y, marker='o', linestyle='', label=label)
    case = timings[0].case
    if grows:
        axes.set(xlabel='million pixels in a batch', ylabel=f'seconds, {case.task}')
    else:
        _name_models(axes, timings)
        size = ' x '.join(map(str, case.size))
        axes.set(
            xlabel=f'images a second, {case.task}, {size}, batch {case.batch}',
            ylabel='published top-1 on ImageNet-1k, %',
        )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def _name_models(axes: Axes, timings: Sequence[Timing]) -> None:
    """Write each model's name once, right of its fastest point."""
    fastest: dict[str, float] = {}
    for timing in timings:
        name = timing.case.model
        fastest[name] = max(fastest.get(name, 0), timing.throughput)
    for name, at in fastest.items():
        axes.annotate(
            name,
            (at, ZOO[name].top1),
            xytext=(6, 0),
            va='center',
            fontsize=8,
            textcoords='offset points',
        )
    axes.margins(x=0.15)


def pixels(timing: Timing) -> int:
    """Return the pixels of a case's batch."""
    height, width = timing.case.size
    return timing.case.batch * height * width
