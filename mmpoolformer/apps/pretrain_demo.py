"""Pretrain, then detect, on generated pictures: what pretraining is worth.

A classifier is trained on shapes cut out of the scenes; then the same detector is
trained twice with the same seed and the same few steps, from scratch and from the
classifier's checkpoint. Steps that are done are skipped, as in the quickstart.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.config import Config

from mmpoolformer.apps.guided import (
    claim,
    final_checkpoint,
    quiet,
    read_settings,
    train_to_end,
)
from mmpoolformer.checkpoints import register_safe_loaders
from mmpoolformer.data.demo.scenes import DemoSettings, make_demo_data
from mmpoolformer.engine.config import load_config
from mmpoolformer.utils.errors import as_user_error
from mmpoolformer.utils.files import write_json
from mmpoolformer.utils.paths import config_path
from mmpoolformer.visual.curves import (
    Curve,
    draw_comparison,
    find_logs,
    read_curves,
    save_figure,
)

CLASSIFIER = 'classification/demo_poolformer_s12'
DETECTOR = 'detection/demo_retinanet_poolformer_s12'
NEEDED = ('model', 'train_dataloader', 'val_dataloader')
PARTS = ('train', 'val', 'test')
TOP1, AP, AP50 = 'accuracy/top1', 'coco/bbox_mAP', 'coco/bbox_mAP_50'
# Epochs of each detector: few, because a head start shows early.
DETECTOR_EPOCHS = 2


@dataclass(frozen=True)
class PretrainDemo:
    """What to do, and where.

    Attributes:
        data: Folder of the demonstration data, made if it is missing.
        work_dir: Folder of the three trainings and of the results.
        settings: The scenes to draw.
        cfg_options: Changes of the classifier's config, `key=value` each.
        detector_options: Changes of both detectors' config.
    """

    data: Path = Path('data/demo')
    work_dir: Path = Path('work_dirs/pretrain_demo')
    settings: DemoSettings = field(default_factory=DemoSettings)
    cfg_options: Sequence[str] = ()
    detector_options: Sequence[str] = (
        f'train_cfg.max_epochs={DETECTOR_EPOCHS}',
        f'param_scheduler.1.end={DETECTOR_EPOCHS}',
    )

    @property
    def results(self) -> Path:
        """The file of the figures."""
        return self.work_dir / 'results.json'

    @property
    def picture(self) -> Path:
        """Losses and AP of both detectors."""
        return self.work_dir / 'comparison.png'


def run_pretrain_demo(job: PretrainDemo) -> dict[str, dict[str, float]]:
    """Do what is still to be done.

    Returns:
        The last validation's metrics of `classifier`, `scratch` and `pretrained`.

    Raises:
        UserError: If a folder holds something else or can't be written.
    """
    register_safe_loaders()
    print(f'1. Drawing {job.settings.train} + {job.settings.val} scenes: {job.data}')
    with as_user_error('', (OSError, ValueError)):
        if not make_demo_data(job.data, job.settings):
            print('   are there already')
        job.work_dir.mkdir(parents=True, exist_ok=True)
    classifier = _classifier(job)
    steps = {
        'classifier': ('2. Classifier on shapes cut out of the scenes', classifier),
        'scratch': ('3. Detector from scratch', _detector(job, 'scratch', None)),
        'pretrained': (
            "4. The same detector from the classifier's checkpoint",
            _detector(job, 'pretrained', _last_checkpoint(classifier)),
        ),
    }
    with quiet(job.work_dir / 'pretrain_demo.log') as (say, bars):
        texts = [str(config.to_dict()) for _, config in steps.values()]
        claim(job.work_dir, ''.join([*texts, read_settings(job.data)]))
        for text, config in steps.values():
            say(f'{text}: {config.work_dir}')
            if final_checkpoint(config) is None:
                train_to_end(config, bars)
            else:
                say('   is done already')
    metrics = {name: _last_metrics(config) for name, (_, config) in steps.items()}
    _draw(job, metrics)
    write_json(job.results, metrics)
    return metrics


def summary(job: PretrainDemo, metrics: dict[str, dict[str, float]]) -> str:
    """Return the lines that the demonstration ends with."""
    lines = [
        f'Picture: {job.picture}',
        f'Classifier: top-1 {metrics["classifier"][TOP1]:.1f} %',
    ]
    for name, text in (('scratch', 'from scratch'), ('pretrained', 'pretrained')):
        ap, ap50 = metrics[name].get(AP, 0.0), metrics[name].get(AP50, 0.0)
        lines.append(f'Detector {text}: box AP {ap:.3f}, AP50 {ap50:.3f}')
    return '\n'.join(lines)


def _classifier(job: PretrainDemo) -> Config:
    config = _read(CLASSIFIER, job.work_dir / 'classifier', job.cfg_options)
    root = str(job.data / 'classification')
    config.merge_from_dict({f'{part}_dataloader.dataset.root': root for part in PARTS})
    return config


def _detector(job: PretrainDemo, name: str, checkpoint: Path | None) -> Config:
    config = _read(DETECTOR, job.work_dir / name, job.detector_options)
    data = f'{job.data / "detection"}/'
    changes = {f'{part}_dataloader.dataset.data_root': data for part in PARTS}
    for part in PARTS[1:]:
        changes[f'{part}_evaluator.ann_file'] = f'{data}annotations/val.json'
    if checkpoint:
        weights = dict(_delete_=True, type='Pretrained', checkpoint=str(checkpoint))
        changes['model.backbone.init_cfg'] = weights
    config.merge_from_dict(changes)
    return config


def _read(name: str, work_dir: Path, options: Sequence[str]) -> Config:
    return load_config(config_path(name), NEEDED, overrides=options, work_dir=work_dir)


def _last_checkpoint(config: Config) -> Path:
    return Path(config.work_dir) / f'epoch_{config.train_cfg.max_epochs}.pth'


def _last_metrics(config: Config) -> dict[str, float]:
    path = Path(config.work_dir) / 'val_results.json'
    return json.loads(path.read_text(encoding='utf-8'))[-1]['metrics']


def _draw(job: PretrainDemo, metrics: dict[str, dict[str, float]]) -> None:
    """Draw the losses and the AP of both detectors side by side."""
    curves = {
        text: read_curves(find_logs(job.work_dir / name))
        for name, text in (('scratch', 'from scratch'), ('pretrained', 'pretrained'))
    }
    panels = {
        'training loss': [(text, found['loss']) for text, found in curves.items()],
        'box AP50 on held-out scenes': [
            (text, found.get(AP50, Curve(AP50, found['loss'].steps[-1:], (0.0,))))
            for text, found in curves.items()
        ],
    }
    title = (
        'The same detector from scratch and from a classifier with top-1 '
        f'{metrics["classifier"][TOP1]:.0f} %'
    )
    save_figure(draw_comparison(panels, title), job.picture)
