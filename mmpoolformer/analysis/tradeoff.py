"""Accuracy beside speed, from what tests have written."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from matplotlib.figure import Figure

from mmpoolformer.engine.hooks.times import MODEL, PARTS
from mmpoolformer.utils.errors import UserError
from mmpoolformer.visual.curves import readable

# Of the metrics of a task the one that is compared, the most telling first.
METRICS = ('coco/segm_mAP', 'coco/bbox_mAP', 'mIoU', 'accuracy/top1')
LEAST_MARGIN = 0.05  # of the metric's axis, a share of the best value


@dataclass(frozen=True)
class Tested:
    """What a test has found.

    Attributes:
        name: Of the checkpoint or exported file, and how it ran.
        metric: One of `METRICS`.
        value: Its value.
        seconds: Of an image, by part.
    """

    name: str
    metric: str
    value: float
    seconds: dict[str, float]

    @property
    def throughput(self) -> float:
        """Images a second that the model alone computes."""
        return 1 / self.seconds[MODEL]


def read_results(paths: Sequence[str | PathLike]) -> list[Tested]:
    """Read files of results that `mmpoolformer test` has written.

    Raises:
        UserError: If one is none, has no times, or another metric than the first.
    """
    rows = [_read(Path(path)) for path in paths]
    for path, row in zip(paths, rows, strict=True):
        if row.metric != rows[0].metric:
            raise UserError(
                f'{path}: has {row.metric}, but {paths[0]} has {rows[0].metric}; give '
                'results of one task'
            )
    return rows


def _read(path: Path) -> Tested:
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        metrics = content['metrics']
        metric = next(name for name in METRICS if name in metrics)
        seconds = {part: float(content['seconds_per_image'][part]) for part in PARTS}
        name = path.stem.removeprefix('results_')
        return Tested(name, metric, float(metrics[metric]), seconds)
    except (OSError, ValueError, LookupError, TypeError, StopIteration) as error:
        raise UserError(
            f'{path}: no results_....json of mmpoolformer test with the time per image'
        ) from error


def table(rows: Sequence[Tested]) -> str:
    """Return a Markdown table; `x` compares the model's time with the first row's."""
    lines = [
        f'| tested | {rows[0].metric} | model, ms | x | read | prepare | finish |',
        '|---|--:|--:|--:|--:|--:|--:|',
    ]
    for row in rows:
        reading, preparing, model, finishing = (
            f'{row.seconds[part] * 1e3:.1f}' for part in PARTS
        )
        gain = f'{rows[0].seconds[MODEL] / row.seconds[MODEL]:.2f}'
        cells = row.name, f'{row.value:.4g}', model, gain, reading, preparing, finishing
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def plot(rows: Sequence[Tested], path: str | PathLike) -> None:
    """Draw accuracy against images a second as a PNG."""
    figure = Figure(figsize=(7, 4.5), layout='constrained')
    axes = figure.add_subplot()
    for row in rows:
        axes.plot(row.throughput, row.value, marker='o', linestyle='', label=row.name)
    axes.set(xlabel='images a second, model alone', ylabel=readable(rows[0].metric))
    axes.margins(0.15)
    axes.set_xlim(left=0)
    # Digits that differ by rounding alone do not fill the picture.
    values = [row.value for row in rows]
    margin = max(0.15 * (max(values) - min(values)), LEAST_MARGIN * (max(values) or 1))
    axes.set_ylim(min(values) - margin, max(values) + margin)
    axes.grid(alpha=0.3)
    figure.legend(loc='outside lower center', ncols=2, fontsize=8)
    figure.savefig(path, dpi=120)
