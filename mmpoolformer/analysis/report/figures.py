"""Figures of a report; no global state of matplotlib knows them."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy import ndarray

from mmpoolformer.analysis.report.measures import BINS, Calibration
from mmpoolformer.visual.drawing import class_colours

MOST_LINES, MOST_BARS = 8, 40
# Most classes of a confusion matrix with numbers, and at all.
MOST_NUMBERS, MOST_NAMES = 16, 40
BLUE, GREY = '#0072b2', '#999999'


def draw_precision(
    recalls: ndarray, curves: ndarray, classes: Sequence[str], title: str
) -> Figure:
    """Draw precision over recall of each class (the first ones of many) and their mean.

    Args:
        recalls: (R,).
        curves: Precision (R, K), below 0 where a class has no objects.
        classes: Names of the K classes.
        title: Printed above.
    """
    figure = Figure(figsize=(5.2, 4.4), layout='constrained')
    axes = figure.add_subplot()
    colours = class_colours(MOST_LINES) / 255
    known = np.flatnonzero((curves > -1).all(axis=0))
    for colour, k in zip(colours, known[:MOST_LINES], strict=False):
        label = f'{classes[k]}: {curves[:, k].mean():.3f}'
        axes.plot(recalls, curves[:, k], color=colour, label=label)
    if len(known) > 1:
        mean = curves[:, known].mean(axis=1)
        label = f'mean of {len(known)}: {mean.mean():.3f}'
        axes.plot(recalls, mean, color='black', linewidth=2.2, label=label)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel='recall', ylabel='precision')
    axes.set_title(title, fontsize=12)
    _grid(axes)
    if len(known):
        axes.legend(fontsize=8, title='AP', title_fontsize=8)
    return figure


def draw_confusion(matrix: ndarray, names: Sequence[str]) -> Figure:
    """Draw counts (K, K) by true and found class, coloured by their share of a row.

    Of many classes those with the most confusions are drawn.
    """
    sums = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, sums, out=np.zeros(matrix.shape), where=sums > 0)
    wrong = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * np.diag(matrix)
    shown = np.sort(np.argsort(-wrong, kind='stable')[:MOST_NAMES])
    matrix, shares = (values[np.ix_(shown, shown)] for values in (matrix, shares))
    names, total = [names[k] for k in shown], len(names)
    count = len(names)
    side = min(4.2 + 0.42 * count, 11.0)
    figure = Figure(figsize=(side + 0.8, side), layout='constrained')
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap='Blues', vmin=0, vmax=1)
    axes.set(xlabel='found', ylabel='truth')
    if count < total:
        axes.set_title(f'the {count} of {total} classes with the most confusions')
    axes.set_xticks(range(count), _short(names), rotation=90, fontsize=8)
    axes.set_yticks(range(count), _short(names), fontsize=8)
    if count <= MOST_NUMBERS:
        for (i, j), share in np.ndenumerate(shares):
            if matrix[i, j]:
                text = f'{matrix[i, j]}\n{share:.0%}'
                colour = 'white' if share > 0.5 else 'black'
                axes.text(
                    j, i, text, color=colour, fontsize=7, ha='center', va='center'
                )
    figure.colorbar(image, label='share of the true class', shrink=0.8)
    return figure


def draw_bars(values: Mapping[str, float], label: str) -> Figure:
    """Draw a bar for each name, the longest on top; of many those with the lowest."""
    known = [(name, value) for name, value in values.items() if np.isfinite(value)]
    known = sorted(known, key=lambda pair: pair[1])[:MOST_BARS]
    figure = Figure(figsize=(6.4, 1.2 + 0.26 * len(known)), layout='constrained')
    axes = figure.add_subplot()
    bars = axes.barh(
        range(len(known)), [value for _, value in known], color=BLUE, height=0.7
    )
    axes.bar_label(bars, fmt='%.3g', fontsize=8, padding=3)
    axes.set_yticks(range(len(known)), _short([n for n, _ in known]), fontsize=8)
    axes.set_xlabel(label)
    axes.margins(x=0.12, y=0.02)
    if not any(value for _, value in known):
        axes.set_xlim(0, 1)  # else zeros stand in the middle
    _grid(axes)
    return figure


def draw_calibration(found: Calibration, right: str) -> Figure:
    """Draw the share that is right over the score, and how many scores there are.

    Args:
        found: What to draw.
        right: What is right, for the axis.
    """
    figure = Figure(figsize=(5.2, 5.0), layout='constrained')
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    middles = (np.arange(BINS) + 0.5) / BINS
    upper.plot((0, 1), (0, 1), color=GREY, linestyle='--', label='perfect')
    upper.bar(middles, np.nan_to_num(found.right), 0.9 / BINS, color=BLUE, alpha=0.45)
    known = found.counts > 0
    upper.plot(found.scores[known], found.right[known], 'o-', color=BLUE, label=right)
    upper.set(ylim=(0, 1.02), ylabel=right)
    upper.set_title(f'expected calibration error {found.error:.3f}', fontsize=12)
    upper.legend(fontsize=9, frameon=False, loc='upper left')
    lower.bar(middles, found.counts, 0.9 / BINS, color=GREY)
    lower.set(xlim=(0, 1), xlabel='score', ylabel='count')
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    for axes in (upper, lower):
        _grid(axes)
    return figure


def _grid(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[['top', 'right']].set_visible(False)


def _short(names: Sequence[str]) -> list[str]:
    return [name if len(name) <= 24 else f'{name[:23]}…' for name in names]
