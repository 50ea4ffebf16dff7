"""Curves of a training run, from the JSON lines that mmengine writes.

The log of each start of a run is `WORK_DIR/TIME/vis_data/scalars.json`; a run that
was resumed has several, which are read as one.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

LOG = 'vis_data/scalars.json'
# What says where or how fast a step was, rather than how good.
NO_CURVES = ('step', 'iter', 'epoch', 'time', 'data_time', 'memory')
DPI = 120


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
    return {
        name: Curve(name, tuple(sorted(found)), tuple(found[s] for s in sorted(found)))
        for name, found in points.items()
        if found
    }


def draw_curves(
    curves: Sequence[Curve],
    title: str,
    y_label: str,
    labels: Sequence[str] | None = None,
    y_limits: tuple[float, float] | None = None,
) -> Figure:
    """Draw curves into one picture.

    Args:
        curves: What to draw.
        title: Printed above.
        y_label: What the values are.
        labels: Names for the legend, by default those of the curves.
        y_limits: Lower and upper end of the axis, by default what the values need.

    Returns:
        A figure that no global state of matplotlib knows; see `save_figure`.

    Raises:
        ValueError: If there is no curve, or not one label for each.
    """
    labels = [curve.name for curve in curves] if labels is None else labels
    if not curves or len(labels) != len(curves):
        raise ValueError(
            f'{len(curves)} curves and {len(labels)} labels: give one label for '
            'each curve, and a curve at least'
        )
    figure = Figure(figsize=(7, 4.2), layout='constrained')
    axes = figure.add_subplot()
    for curve, label in zip(curves, labels, strict=True):
        _plot(axes, curve, label)
    axes.set_title(title, fontsize=13)
    axes.set_ylim(y_limits)
    _dress(axes, y_label)
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
    figure = Figure(figsize=(5.5 * len(panels), 4.2), layout='constrained')
    figure.suptitle(title, fontsize=13)
    every_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (y_label, curves) in zip(every_axes, panels.items(), strict=True):
        for name, curve in curves:
            # The last values of runs may lie too close to be written beside them.
            _line(axes, curve, f'{name}: {curve.values[-1]:.3g}')
        _dress(axes, y_label)
    return figure


def save_figure(figure: Figure, path: str | PathLike) -> Path:
    """Write a figure as a PNG file, whose folder is made if need be."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_figure(path, dpi=DPI, format='png')
    return path


def _dress(axes: Axes, y_label: str) -> None:
    """Name the axes, draw a grid, and a legend where there is more than one curve."""
    axes.set_xlabel('iteration', fontsize=11)
    axes.set_ylabel(y_label, fontsize=11)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)
    if len(axes.get_lines()) > 1:
        axes.legend(fontsize=10, frameon=False)


def _line(axes: Axes, curve: Curve, label: str) -> Line2D:
    """Draw one curve; points are marked where there are few."""
    marker = 'o' if len(curve.steps) <= 25 else None
    (line,) = axes.plot(
        curve.steps, curve.values, label=label, marker=marker, markersize=4
    )
    return line


def _plot(axes: Axes, curve: Curve, label: str) -> None:
    """Draw one curve with its last value."""
    line = _line(axes, curve, label)
    axes.annotate(
        f'{curve.values[-1]:.3g}',
        (curve.steps[-1], curve.values[-1]),
        xytext=(6, 0),
        textcoords='offset points',
        va='center',
        fontsize=10,
        color=line.get_color(),
    )


def _training_steps(log: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield the training step and the scalars of each line of a log."""
    step = None
    for entry in _entries(log):
        step = _step_of(entry, step)
        yield (
            step,
            {
                name: float(value)
                for name, value in entry.items()
                if name not in NO_CURVES and isinstance(value, (int, float))
            },
        )


def _step_of(entry: dict, step_before: int | None) -> int:
    """Return the training step of a log's line.

    Lines of training name their iteration, `iter`, and count all of them in `step`.
    Those of an evaluation have `step` alone, which counts epochs in some runs.
    """
    if 'iter' in entry or step_before is None:
        return int(entry['step'])
    return step_before


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
        if not isinstance(entry, dict) or 'step' not in entry:
            raise ValueError(f'{log}:{number}: has no "step"; is it a log of mmengine?')
        yield entry


def _forget_from(points: dict[str, dict[int, float]], first: int) -> None:
    """Take out what earlier logs say of steps from `first` on."""
    for found in points.values():
        for step in [s for s in found if s >= first]:
            del found[step]
