"""The ablation study of PoolFormer-S12, on any image folder and at any budget.

Each row changes one thing of the architecture (arXiv 2111.11418, table 5) and is
trained with the same data, seed and schedule. Rows that are done are skipped, and an
interrupted one goes on from its last checkpoint.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from mmengine.config import Config
from torch import nn

from mmpoolformer.analysis.benchmark import timed
from mmpoolformer.analysis.complexity import count
from mmpoolformer.apps.guided import (
    PARTS,
    claim,
    last_metrics,
    own_config,
    quiet,
    train_to_end,
)
from mmpoolformer.checkpoints import register_safe_loaders
from mmpoolformer.classification import folder_classes
from mmpoolformer.models import MetaFormerClassifier
from mmpoolformer.utils.errors import UsageError, as_user_error
from mmpoolformer.utils.files import write_csv, write_json
from mmpoolformer.utils.text import nearest
from mmpoolformer.visual.curves import save_figure

CONFIG = 'classification/ablation_poolformer_s12'
TOP1 = 'accuracy/top1'
# Timed batches of inference; the median counts, after one that warms up.
TIMED_BATCHES, TIMED_IMAGES = 5, 16


@dataclass(frozen=True)
class Row:
    """A row of the study.

    Attributes:
        changes: Fields of `mmpoolformer.models.Variant` that differ from S12's, or
            `base` for another row of the table of architectures.
        published: Top-1 on ImageNet-1k in percent; `None` where the paper has no such
            row.
    """

    changes: Mapping[str, object]
    published: float | None = None


ROWS = {
    'poolformer_s12': Row({}, 77.2),
    'mixer_identity': Row({'token_mixers': 'identity'}, 74.3),
    'mixer_random': Row({'token_mixers': 'random'}, 75.8),
    'mixer_depthwise': Row({'token_mixers': 'depthwise_conv'}, 78.1),
    'pool_1': Row({'pool_size': 1}),
    'pool_5': Row({'pool_size': 5}, 77.2),
    'pool_7': Row({'pool_size': 7}, 77.1),
    'pool_9': Row({'pool_size': 9}, 76.8),
    'norm_layer': Row({'norm': 'layer_norm'}, 76.5),
    'norm_batch': Row({'norm': 'batch_norm'}, 76.4),
    'norm_none': Row({'norm': 'none'}, 46.1),
    'act_relu': Row({'activation': 'relu'}, 76.4),
    'act_silu': Row({'activation': 'silu'}, 77.2),
    'layer_scale_off': Row({'layer_scale_init': None}),
    'residual_off': Row({'residual': False}, 0.1),
    'mlp_off': Row({'mlp': False}, 5.7),
    'hybrid_pppa': Row({'base': 'metaformer_pppa_s12_224'}, 78.3),
    'hybrid_ppaa': Row({'base': 'metaformer_ppaa_s12_224'}, 81.0),
    'hybrid_pppf': Row({'base': 'metaformer_pppf_s12_224'}, 77.5),
    'hybrid_ppff': Row({'base': 'metaformer_ppff_s12_224'}, 77.9),
}


@dataclass(frozen=True)
class Ablation:
    """What to train, on what, for how long.

    Attributes:
        data: Image folder with `train` and `val`.
        work_dir: Where trainings and tables go.
        rows: Names of `ROWS`.
        epochs: Epochs of each row, warm-up included.
        image_size: Side of the pictures, in pixels.
        batch_size: Pictures in an iteration.
        cfg_options: Further changes of the config, `key=value` each.
    """

    data: Path
    work_dir: Path = Path('work_dirs/ablation')
    rows: Sequence[str] = tuple(ROWS)
    epochs: int = 300
    image_size: int = 224
    batch_size: int = 128
    cfg_options: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Refuse rows that are not there, and numbers below 1."""
        for row in self.rows:
            if row not in ROWS:
                raise UsageError(f'no row {row!r}: did you mean {nearest(row, ROWS)}?')
        for name in ('epochs', 'image_size', 'batch_size'):
            if getattr(self, name) < 1:
                raise UsageError(f'{name}={getattr(self, name)}: must be from 1')


@dataclass(frozen=True)
class Result:
    """What was found of a row.

    Attributes:
        row: Its name.
        params: Parameters, with the data's classes.
        macs: Multiply-accumulates for one picture.
        top1: Accuracy after the last epoch, in percent.
        images_per_second: Inference on this machine, float32.
        published_top1: Of the paper, on ImageNet-1k.
    """

    row: str
    params: int
    macs: int
    top1: float
    images_per_second: float
    published_top1: float | None


def run_ablation(job: Ablation) -> list[Result]:
    """Train what is still to be trained, and write the tables.

    Returns:
        A result for each row.

    Raises:
        UserError: If the data can't be used or the work dir holds another study.
    """
    register_safe_loaders()
    with as_user_error(str(job.data), (ValueError,)):
        classes = folder_classes(job.data)
    job.work_dir.mkdir(parents=True, exist_ok=True)
    results = []
    with quiet(job.work_dir / 'ablation.log') as (say, bars):
        for number, row in enumerate(job.rows, start=1):
            config = _config(job, row, len(classes))
            Path(config.work_dir).mkdir(exist_ok=True)
            claim(Path(config.work_dir), str(config.to_dict()))
            say(f'{number}/{len(job.rows)} {row}: {config.work_dir}')
            train_to_end(config, bars)
            results.append(_result(job, row, config))
            write_tables(results, job.work_dir)
    return results


def write_tables(results: Sequence[Result], work_dir: Path) -> None:
    """Write `ablation.csv`, `ablation.json` and `ablation.png`."""
    write_csv(work_dir / 'ablation.csv', [asdict(result) for result in results])
    write_json(work_dir / 'ablation.json', [asdict(result) for result in results])
    save_figure(draw_table(results), work_dir / 'ablation.png')


def draw_table(results: Sequence[Result]) -> Figure:
    """Draw accuracy as bars, with the other figures beside them."""
    figure = Figure(figsize=(8, 1.2 + 0.32 * len(results)), layout='constrained')
    axes = figure.add_subplot()
    places = range(len(results))
    axes.barh(places, [result.top1 for result in results], color='tab:blue', height=0.7)
    axes.set_yticks(places, [result.row for result in results])
    axes.invert_yaxis()
    right = max(result.top1 for result in results)
    for place, result in zip(places, results, strict=True):
        figures = (
            f'{result.top1:5.1f} %  {result.params / 1e6:5.2f} M  '
            f'{result.macs / 1e9:5.2f} G  {result.images_per_second:5.0f}/s'
        )
        axes.text(1.03 * right, place, figures, va='center', family='monospace')
    axes.set_xlim(0, 1.9 * right)
    axes.set_xticks([tick for tick in axes.get_xticks() if tick <= 1.05 * right])
    axes.set_title('top-1, parameters, MACs, inference', fontsize=12)
    axes.set_xlabel('top-1 in percent', fontsize=11)
    axes.spines[['top', 'right']].set_visible(False)
    return figure


def table(results: Sequence[Result]) -> str:
    """Return the results as a table for the screen."""
    lines = ['row               params      MACs   top-1    images/s   published']
    for r in results:
        published = '-' if r.published_top1 is None else f'{r.published_top1:.1f}'
        lines.append(
            f'{r.row:<16} {r.params / 1e6:6.2f} M {r.macs / 1e9:7.3f} G {r.top1:6.1f} %'
            f' {r.images_per_second:11.0f} {published:>11}'
        )
    return '\n'.join(lines)


def _config(job: Ablation, row: str, num_classes: int) -> Config:
    config = own_config(CONFIG, job.work_dir / row, job.cfg_options)
    arch = {**config.model.backbone.arch, **ROWS[row].changes}
    changes = {
        'model.backbone.arch': {**arch, 'image_size': job.image_size},
        'model.backbone.num_classes': num_classes,
        'train_dataloader.batch_size': job.batch_size,
        'train_cfg.max_epochs': job.epochs,
        'param_scheduler.t_initial': job.epochs,
        'param_scheduler.warmup_t': min(5, job.epochs // 4),
    }
    for part in PARTS:
        changes[f'{part}_dataloader.dataset.root'] = str(job.data)
        changes[f'{part}_dataloader.dataset.transform.input_size'] = job.image_size
    config.merge_from_dict(changes)
    return config


def _result(job: Ablation, row: str, config: Config) -> Result:
    """Read a row's accuracy and count and time its network, or read all that."""
    done = Path(config.work_dir) / 'result.json'
    if done.is_file():
        return Result(**json.loads(done.read_text(encoding='utf-8')))
    options = {k: v for k, v in config.model.backbone.items() if k != 'type'}
    network = MetaFormerClassifier(**options).eval()
    counted = count(network, job.image_size)
    result = Result(
        row=row,
        params=counted.params,
        macs=counted.macs,
        top1=last_metrics(config)[TOP1],
        images_per_second=images_per_second(network, job.image_size),
        published_top1=ROWS[row].published,
    )
    write_json(done, asdict(result))
    return result


@torch.no_grad()
def images_per_second(network: nn.Module, image_size: int) -> float:
    """Time inference in float32, on a GPU where there is one.

    Returns:
        Images a second, from the median of some batches.
    """
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    network = network.to(device).eval()
    images = torch.randn(TIMED_IMAGES, 3, image_size, image_size, device=device)
    times = [timed(lambda: network(images), device) for _ in range(TIMED_BATCHES + 1)]
    return TIMED_IMAGES / statistics.median(times[1:])
