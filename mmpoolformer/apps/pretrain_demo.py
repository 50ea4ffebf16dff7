"""Pretrain, then detect, on generated pictures: what pretraining is worth.

A classifier is trained on shapes cut out of the scenes; then the same detector is
trained twice with the same seed for the same few iterations, from scratch and from the
classifier's checkpoint. What is done already is skipped, as in the quickstart.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.config import Config

from mmpoolformer.apps.guided import (
    AP,
    AP50,
    PARTS,
    claim,
    detector_config,
    draw_scenes,
    last_checkpoint,
    last_metrics,
    own_config,
    quiet,
    read_settings,
    train_to_end,
)
from mmpoolformer.checkpoints import register_safe_loaders
from mmpoolformer.data.demo.scenes import DemoSettings
from mmpoolformer.utils.files import write_json
from mmpoolformer.visual.curves import (
    Curve,
    draw_comparison,
    find_logs,
    read_curves,
    save_figure,
)

CLASSIFIER = 'classification/demo_poolformer_s12'
TOP1 = 'accuracy/top1'
# The two detectors, and how they are called.
DETECTORS = {'scratch': 'from scratch', 'pretrained': 'pretrained'}
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
    draw_scenes(job.data, job.settings, job.work_dir)
    classifier = _classifier(job)
    steps = {
        'classifier': ('2. Classifier on shapes cut out of the scenes', classifier),
        'scratch': ('3. Detector from scratch', _detector(job, 'scratch', None)),
        'pretrained': (
            "4. The same detector from the classifier's checkpoint",
            _detector(job, 'pretrained', last_checkpoint(classifier)),
        ),
    }
    with quiet(job.work_dir / 'pretrain_demo.log') as (say, bars):
        texts = [str(config.to_dict()) for _, config in steps.values()]
        claim(job.work_dir, ''.join([*texts, read_settings(job.data)]))
        for text, config in steps.values():
            say(f'{text}: {config.work_dir}')
            if not train_to_end(config, bars):
                say('   is done already')
    metrics = {name: last_metrics(config) for name, (_, config) in steps.items()}
    _draw(job, metrics)
    write_json(job.results, metrics)
    return metrics


def summary(job: PretrainDemo, metrics: dict[str, dict[str, float]]) -> str:
    """Return the lines that the demonstration ends with."""
    lines = [
        f'Picture: {job.picture}',
        f'Classifier: top-1 {metrics["classifier"][TOP1]:.1f} %',
    ]
    for name, text in DETECTORS.items():
        ap, ap50 = metrics[name].get(AP, 0.0), metrics[name].get(AP50, 0.0)
        lines.append(f'Detector {text}: box AP {ap:.3f}, AP50 {ap50:.3f}')
    return '\n'.join(lines)


def _classifier(job: PretrainDemo) -> Config:
    config = own_config(CLASSIFIER, job.work_dir / 'classifier', job.cfg_options)
    root = str(job.data / 'classification')
    config.merge_from_dict({f'{part}_dataloader.dataset.root': root for part in PARTS})
    return config


def _detector(job: PretrainDemo, name: str, checkpoint: Path | None) -> Config:
    config = detector_config(job.data, job.work_dir / name, job.detector_options)
    if checkpoint:
        weights = dict(_delete_=True, type='Pretrained', checkpoint=str(checkpoint))
        config.merge_from_dict({'model.backbone.init_cfg': weights})
    return config


def _draw(job: PretrainDemo, metrics: dict[str, dict[str, float]]) -> None:
    """Draw the losses and the AP of both detectors side by side."""
    curves = {
        text: read_curves(find_logs(job.work_dir / name))
        for name, text in DETECTORS.items()
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
