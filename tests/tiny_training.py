"""A training of a second: numbers for pictures, two layers for a network."""

import itertools
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from torch import Tensor, nn
from torch.utils.data import Dataset

from mmpoolformer.engine.config import use_resume
from mmpoolformer.engine.hooks.logs import TrainingLog, ValidationLog
from mmpoolformer.engine.runner import ToolRunner

STEPS, INTERVAL, VALIDATION = 36, 2, 6
COUNTER = itertools.count()


@DATASETS.register_module()
class Numbers(Dataset):
    """Items with a class for a target; those of `bad` are not finite.

    Those of `steep` have a finite loss with gradients that are not.
    """

    def __init__(
        self,
        noise: float = 0.0,
        bad: tuple[int, ...] = (),
        steep: tuple[int, ...] = (),
    ) -> None:
        self.noise, self.bad, self.steep = noise, bad, steep

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict:
        value = float('nan') if index in self.bad else index / 24
        return {
            'inputs': value + self.noise * torch.rand(50),  # an augmentation
            'targets': float(index % 3),
            'steep': float(index in self.steep),
            'img_path': f'{index}.png',
        }


@MODELS.register_module()
class Layers(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        layers = nn.Linear(50, 150), nn.BatchNorm1d(150), nn.Dropout()
        self.net = nn.Sequential(*layers, nn.Linear(150, 1))

    def forward(
        self, inputs: Tensor, targets: Tensor, steep: Tensor, mode: str, **_: object
    ) -> object:
        found = self.net(inputs)[:, 0]
        error = (found - targets.float()) ** 2
        if mode != 'loss':
            return error.tolist()
        # The slope of a root at 0 is infinite.
        root = (found * (1 - steep)).abs().sqrt() if steep.any() else 0 * found
        return {'loss': (error + 0.01 * root).mean()}


@METRICS.register_module()
class Error(BaseMetric):
    def process(self, data_batch: dict, data_samples: list) -> None:
        self.results += data_samples

    def compute_metrics(self, results: list) -> dict:
        return {'error': sum(results)}


def settings(folder: Path, steps: int = STEPS, **dataset: object) -> Config:
    """Return a config for training in a folder."""

    def loader(sampler: str, **options: object) -> dict:
        return dict(
            batch_size=4,
            num_workers=0,
            dataset=dict(type='Numbers', **options),
            sampler=dict(type=sampler, shuffle=sampler == 'InfiniteSampler'),
            collate_fn=dict(type='default_collate'),
        )

    checkpoint = dict(
        type='CheckpointHook',
        by_epoch=False,
        interval=INTERVAL,
        max_keep_ckpts=1,
        save_best='error',
        rule='less',
    )
    return Config(
        dict(
            work_dir=str(folder),
            # mmengine's runs of one name in one process share their state.
            experiment_name=f'{folder.name}_{next(COUNTER)}',
            model=dict(type='Layers'),
            train_dataloader=loader('InfiniteSampler', noise=0.1, **dataset),
            val_dataloader=loader('DefaultSampler'),
            val_evaluator=dict(type='Error'),
            val_cfg=dict(),
            train_cfg=dict(by_epoch=False, max_iters=steps, val_interval=VALIDATION),
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-2)),
            param_scheduler=dict(type='PolyLR', end=STEPS, by_epoch=False),
            custom_hooks=[dict(type='EMAHook', momentum=0.1)],
            default_hooks=dict(
                logger=dict(type='LoggerHook', interval=1), checkpoint=checkpoint
            ),
            randomness=dict(seed=3),
            default_scope='mmengine',
            env_cfg=dict(mp_cfg=dict(mp_start_method='fork')),
            log_level='WARNING',
        )
    )


def train(
    config: Config,
    *hooks: Hook,
    resume: str | None = 'auto',
    own_settings: bool = False,
) -> ToolRunner:
    """Train as tools/train.py --resume does."""
    older = use_resume(config, resume)
    runner = ToolRunner.from_cfg(config)
    runner.needs_all_weights, runner.older = bool(config.get('resume')), older
    runner.own_settings = own_settings
    folder = Path(config.work_dir)
    runner.register_hook(ValidationLog(folder / 'val_results.json'))
    runner.register_hook(TrainingLog(folder / 'train_log.jsonl'))
    for hook in hooks:
        runner.register_hook(hook)
    runner.prepare_training()
    runner.train()
    return runner
