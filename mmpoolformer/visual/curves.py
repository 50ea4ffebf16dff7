"""Curves of a training run, from the logs that it writes.

tools/train.py writes `train_log.jsonl` and `val_results.json` into the work dir,
through all resuming. mmengine writes one log for each start of a run,
`WORK_DIR/TIME/vis_data/scalars.json`; a run that was resumed has several, which are
read as one.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mmpoolformer.utils.files import atomic_file

LOG = 'vis_data/scalars.json'
TRAIN_LOG, VAL_LOG = 'train_log.jsonl', 'val_results.json'
# What says where or how fast a step was, rather than how good.
NO_CURVES = ('step', 'iter', 'epoch', 'time', 'data_time', 'memory')
DPI = 120
RATE = 'lr'
# Metrics that say more of others: AP of small, medium and large objects and at one IoU.
DETAILS = ('_s', '_m', '_l', '_75')
MOST_LINES = 6
WIDTH, HEIGHT = 8.5, 2.8  # of a panel, inches
LEGEND_LINE = 0.2  # inches
ROUND = (1, 2, 5, 10)  # steps between the numbers at an axis
# Words of the names in logs, as papers write them.
WORDS = {
    'bbox': 'box',
    'segm': 'mask',
    'mAP': 'AP',
    's': 'small',
    'm': 'medium',
    'l': 'large',
    'top1': 'top-1',
    'top5': 'top-5',
    'cls': 'class',
    'lr': 'learning rate',
}


@dataclass(frozen=True)
class Curve:
    """One logged value over the steps of a run.

    Attributes:
        name: As in the log, such as `'loss'` or `'coco/bbox_mAP'`.
        steps: Training iterations, rising.
        values: The value at each step.
    """

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


def find_logs(work_dir: str | PathLike) -> list[Path]:
    """Return the logs below a work dir, the oldest first.

    Raises:
        ValueError: If there is none.
    """
    logs = sorted(Path(work_dir).glob(f'*/{LOG}')) or [Path(work_dir) / LOG]
    logs = [log for log in logs if log.is_file()]
    if not logs:
        raise ValueError(f'{work_dir}: has no */{LOG}; is it the work dir of a run?')
    return logs


def read_run(run: str | PathLike) -> dict[str, Curve]:
    """Read a run of tools/train.py, or of any other program on mmengine.

    Args:
        run: A work dir, or one log: a `train_log.jsonl` or a `scalars.json`.

    Returns:
        Curves by name, see `read_curves`.

    Raises:
        ValueError: If there is no log, or a file is not one.
    """
    run = Path(run)
    if run.is_file():
        return read_curves([run])
    if not run.is_dir():
        raise ValueError(f'{run}: no such work dir or log')
    if (run / TRAIN_LOG).is_file():
        return {**read_curves([run / TRAIN_LOG]), **_read_validations(run / VAL_LOG)}
    return read_curves(find_logs(run))


def find_curve(curves: Mapping[str, Curve], key: str) -> Curve | None:
    """Return the curve of a name, or of one that ends in `/key` or `_key`, or None.

    The first place goes to the name itself; `bbox_mAP` finds `coco/bbox_mAP`.
    """
    for name in (key, *(n for n in curves if n.endswith((f'/{key}', f'_{key}')))):
        if name in curves:
            return curves[name]
    return None


def loss_names(curves: Mapping[str, Curve]) -> list[str]:
    """Return the names of losses, their sum first."""
    names = [name for name in curves if 'loss' in name.split('.')[-1]]
    return sorted(names, key=lambda name: (name != 'loss', name))


def metric_names(curves: Mapping[str, Curve]) -> list[str]:
    """Return the names of what validations measured, the main ones alone if many."""
    apart = {RATE, 'base_lr', 'grad_norm', *NO_CURVES, *loss_names(curves)}
    # Metrics such as coco/bbox_mAP; in training, decode.acc_seg and the like are noise.
    names = [n for n in curves if n not in apart and '.' not in n and n != 'acc']
    main = [n for n in names if not n.endswith(DETAILS)]
    return main or names


def readable(name: str) -> str:
    """Return a name of a log in words: `coco/bbox_mAP_50` is box AP50."""
    words = [WORDS.get(word, word) for word in re.split('[._]', name.split('/')[-1])]
    words.sort(key=lambda word: word == 'loss')  # the kind of loss first
    return re.sub(r'(AP|AR) (?=\d)', r'\1', ' '.join(words))


def read_curves(logs: Sequence[str | PathLike]) -> dict[str, Curve]:
    """Read the logs of one run.

    Args:
        logs: Files of JSON lines, the oldest first. Where a resumed run repeats steps,
            the later log counts.

    Returns:
        Curves by name. Metrics of an evaluation lie at the last training step before
        it, whether the run counts epochs or iterations.

    Raises:
        ValueError: If a file is not such a log. (A last line cut short by the end of
            the run is left out.)
    """
    points: dict[str, dict[int, float]] = {}
    for log in logs:
        for position, (step, scalars) in enumerate(_training_steps(Path(log))):
            if position == 0:
                _forget_from(points, step)
            for name, value in scalars.items():
                points.setdefault(name, {})[step] = value
    return _curves(points)


def draw_curves(
    curves: Mapping[str, Curve],
    title: str,
    y_label: str,
    y_limits: tuple[float, float] | None = None,
) -> Figure:
    """Draw curves into one picture.

    Args:
        curves: One or more, by their names in the legend.
        title: Printed above.
        y_label: What the values are.
        y_limits: Lower and upper end of the axis, by default what the values need.

    Returns:
        A figure that no global state of matplotlib knows; see `save_figure`.
    """
    figure, (axes,) = _panels(title, [1.5], len(curves))
    for label, curve in curves.items():
        _line(axes, curve, label)
    axes.set_ylim(y_limits)
    _dress(axes, y_label, _last_step([*curves.values()]))
    return figure


def draw_comparison(
    panels: Mapping[str, Sequence[tuple[str, Curve]]], title: str
) -> Figure:
    """Draw curves of several runs, one panel for each quantity.

    Args:
        panels: What the values of a panel are, and its curves with the runs' names.
        title: Printed above.

    Returns:
        A figure that no global state of matplotlib knows; see `save_figure`.

    Raises:
        ValueError: If there is no panel or one without a curve.
    """
    if not panels or not all(panels.values()):
        raise ValueError(f'panels {list(panels)}: give each a curve at least')
    everything = [pair for curves in panels.values() for pair in curves]
    names = list(dict.fromkeys(name for name, _ in everything))
    lines = sum(len(_folded(name).splitlines()) for name in names)
    figure, every_axes = _panels(title, [1.0] * len(panels), lines)
    for axes, (label, curves) in zip(every_axes, panels.items(), strict=True):
        for name, curve in curves:
            _line(axes, curve, name).set_color(f'C{names.index(name) % 10}')
        _dress(axes, readable(label), _last_step([curve for _, curve in everything]))
        if 'loss' in label:
            _fit_losses(axes, [curve for _, curve in curves])
    figure.align_ylabels()
    return figure


def draw_training(curves: Mapping[str, Curve], title: str) -> Figure:
    """Draw a run: losses, what its validations measured, and the learning rate.

    Args:
        curves: As from `read_run`.
        title: Printed above.

    Raises:
        ValueError: If there is nothing to draw.
    """
    losses = loss_names(curves)
    if len({curves[name].values for name in losses}) == 1:
        losses = losses[:1]  # the sum has one part only
    groups = {
        'loss': losses,
        'validation': metric_names(curves),
        'learning rate': [name for name in curves if name.split('.')[-1] == RATE],
    }
    groups = {label: names[:MOST_LINES] for label, names in groups.items() if names}
    if not groups:
        raise ValueError('no loss, learning rate or metric to draw')
    heights = [0.6 if label == 'learning rate' else 1.0 for label in groups]
    figure, every_axes = _panels(title, heights, 0)
    end = _last_step([curves[name] for names in groups.values() for name in names])
    for axes, (label, names) in zip(every_axes, groups.items(), strict=True):
        texts = [readable(name) for name in names]
        if len(set(texts)) < len(texts):
            texts = names
        for name, text in zip(names, texts, strict=True):
            _smooth_line(axes, curves[name], text, smooth=label == 'loss')
        _dress(axes, label, end)
        if label == 'loss':
            _fit_losses(axes, [curves[name] for name in names])
        if label == 'learning rate':
            axes.set_ylim(bottom=0)
    figure.align_ylabels()
    return figure


def save_figure(figure: Figure, path: str | PathLike) -> Path:
    """Write a figure as a PNG file, whole or not at all; its folder is made."""
    with atomic_file(path) as file:
        figure.savefig(file, dpi=DPI, format='png')
    return Path(path)


def _smooth_line(axes: Axes, curve: Curve, name: str, smooth: bool) -> None:
    """Draw a curve, and where single steps scatter, their running mean over it."""
    if not smooth or len(curve.steps) < 20:
        _line(axes, curve, name)
        return
    line = _line(axes, running_mean(curve), name)
    line.set_linewidth(1.8)
    axes.plot(
        curve.steps, curve.values, color=line.get_color(), alpha=0.25, linewidth=0.7
    )


def _fit_losses(axes: Axes, curves: Sequence[Curve]) -> None:
    """Leave out rare peaks, such as those of the first steps, where they tower."""
    values = np.concatenate([curve.values for curve in curves])
    values = values[np.isfinite(values)]
    if len(values) < 20 or values.min() < 0:
        return
    most = max(np.quantile(curve.values, 0.97) for curve in curves)
    if values.max() > 1.5 * most > 0:
        axes.set_ylim(0, 1.25 * most)
    else:
        axes.set_ylim(bottom=0)


def running_mean(curve: Curve) -> Curve:
    """Return the mean of each value and those before it: a twentieth of all values."""
    window = max(1, round(len(curve.values) / 20))
    sums = np.cumsum(np.insert(np.asarray(curve.values, float), 0, 0.0))
    ends = np.arange(1, len(curve.values) + 1)
    starts = np.maximum(ends - window, 0)
    means = (sums[ends] - sums[starts]) / (ends - starts)
    return Curve(curve.name, curve.steps, tuple(means.tolist()))


def _panels(
    title: str, heights: Sequence[float], lines: int
) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure and its panels below each other, high enough for legends."""
    height = max(HEIGHT, LEGEND_LINE * (lines + 3))
    size = (WIDTH, height * sum(heights))
    figure = Figure(figsize=size, layout='constrained')
    figure.suptitle(fill(title, 70), fontsize=12)
    axes = figure.subplots(
        len(heights), 1, sharex=True, squeeze=False, height_ratios=heights
    )
    return figure, axes[:, 0]


def _dress(axes: Axes, y_label: str, end: int) -> None:
    """Name the axes, which end at a step, draw a grid, and a legend beside."""
    axes.set_xlabel('iteration', fontsize=11)
    axes.set_ylabel(_folded(y_label), fontsize=11)
    axes.label_outer()
    axes.set_xlim(0, 1.01 * end)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=ROUND, integer=True))
    axes.xaxis.set_major_formatter('{x:,.0f}')
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND))
    axes.ticklabel_format(axis='y', useOffset=False)
    axes.grid(alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(
        loc='upper left',
        bbox_to_anchor=(1.01, 1),
        borderaxespad=0,
        fontsize=10,
        frameon=False,
    )


def _line(axes: Axes, curve: Curve, name: str) -> Line2D:
    """Draw one curve, its last value in the legend; points are marked where few."""
    marker = 'o' if len(curve.steps) <= 25 else None
    label = f'{_folded(name)}: {three_digits(curve.values[-1])}'
    (line,) = axes.plot(
        curve.steps, curve.values, label=label, marker=marker, markersize=4
    )
    return line


def _folded(name: str) -> str:
    """Return a name in lines that fit beside the curves."""
    return re.sub(r'(?=.{25})(.{8,23}[ _/-]|.{24})', r'\1\n', name)


def _last_step(curves: Sequence[Curve]) -> int:
    return max(1, *(curve.steps[-1] for curve in curves))


def three_digits(value: float) -> str:
    """Return a value with three digits that count: 0.260, 77.0, 1234."""
    return f'{value:.0f}' if abs(value) >= 100 else f'{value:#.3g}'.rstrip('.')


def _curves(points: Mapping[str, Mapping[int, float]]) -> dict[str, Curve]:
    """Make curves of values by name and step; names without any are left out."""
    return {
        name: Curve(name, tuple(sorted(found)), tuple(found[s] for s in sorted(found)))
        for name, found in points.items()
        if found
    }


def _training_steps(log: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield the training step and the scalars of each line of a log.

    Lines of training name their iteration, `iter`, and count all of them in `step`.
    Those of an evaluation have `step` alone, which counts epochs in some runs.
    """
    step = None
    for entry in _entries(log):
        if 'iter' in entry or step is None:
            step = int(entry['step'])
        scalars = {
            name: float(value)
            for name, value in entry.items()
            if name not in NO_CURVES and isinstance(value, (int, float))
        }
        yield step, scalars


def _entries(log: Path) -> Iterator[dict]:
    """Yield the lines of a log as dicts that have a step."""
    lines = log.read_text(encoding='utf-8').splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
        except ValueError:
            if number == len(lines):
                return  # the run ended while it wrote
            raise ValueError(f'{log}:{number}: not a line of JSON') from None
        if isinstance(entry, dict) and 'step' not in entry and 'iter' in entry:
            entry['step'] = entry['iter']  # a line of train_log.jsonl
        if not isinstance(entry, dict) or 'step' not in entry:
            raise ValueError(f'{log}:{number}: has no "step"; is it a log of mmengine?')
        yield entry


def _forget_from(points: dict[str, dict[int, float]], first: int) -> None:
    """Take out what earlier logs say of steps from `first` on."""
    for found in points.values():
        for step in [s for s in found if s >= first]:
            del found[step]


def _read_validations(log: Path) -> dict[str, Curve]:
    """Read the metrics of `val_results.json`; none where there is no such file."""
    entries = json.loads(log.read_text(encoding='utf-8')) if log.is_file() else []
    points: dict[str, dict[int, float]] = {}
    for entry in entries:
        for name, value in entry['metrics'].items():
            if isinstance(value, (int, float)):
                points.setdefault(name, {})[entry['iter']] = float(value)
    return _curves(points)
