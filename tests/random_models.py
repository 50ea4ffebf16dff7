"""Tiny models of every task with random weights, and pictures for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from PIL import Image
from random_weights import randomised
from tiny_data import (
    CLASSES,
    ROOT,
    write_data,
    write_detection_config,
    write_segmentation_config,
)

from mmpoolformer.inference.predictor import Predictor
from mmpoolformer.models.from_config import build_from_config

CLASSIFIER = """
_base_ = '{root}/configs/classification/poolformer_s12_8xb128_in1k.py'
model = dict(
    _delete_=True, type='mmpoolformer.TimmClassifier', name='test_resnet',
    num_classes=3)
test_dataloader = dict(dataset=dict(
    root='{data}', transform=dict(_delete_=True, input_size=48, crop_pct=1.0)))
"""
NAMES = {
    'detection': CLASSES,
    'masks': CLASSES,
    'segmentation': ('square', 'disc', 'background'),
    'classification': ('ant', 'bee', 'cat'),
}


@dataclass(frozen=True)
class Models:
    """Configs and checkpoints with random weights, and pictures of several sizes."""

    folder: Path

    def config(self, name: str) -> Path:
        return self.folder / f'{name}.py'

    def checkpoint(self, name: str) -> Path:
        return self.folder / f'{name}.pth'

    def predictor(self, name: str) -> Predictor:
        return Predictor(self.config(name), self.checkpoint(name))

    @property
    def pictures(self) -> list[str]:
        return [str(path) for path in sorted((self.folder / 'photos').iterdir())]


def make_models(folder: Path) -> Models:
    """Write configs, checkpoints and pictures into a folder."""
    made = Models(folder)
    write_data(folder / 'data')
    write_detection_config(made.config('detection'), folder / 'data')
    write_detection_config(made.config('masks'), folder / 'data', masks=True)
    write_segmentation_config(made.config('segmentation'), folder / 'data')
    text = CLASSIFIER.format(root=ROOT, data=folder)
    made.config('classification').write_text(text)
    for name, classes in NAMES.items():
        write_weights(made, name, classes)
    write_pictures(folder / 'photos')
    return made


def write_weights(models: Models, name: str, classes: Sequence[str]) -> None:
    model = randomised(build_from_config(Config.fromfile(models.config(name))))
    meta = {'dataset_meta': {'classes': classes}}
    content = {'meta': meta, 'state_dict': model.state_dict()}
    torch.save(content, models.checkpoint(name))


def write_pictures(folder: Path) -> None:
    """Write pictures of noise with a bright rectangle: two of one size, two others."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i, size in enumerate([(64, 64), (50, 90), (64, 64), (96, 48)]):
        pixels = generator.integers(0, 120, (*size, 3), dtype=np.uint8)
        pixels[10:40, 8 + 6 * i : 30 + 6 * i] = (250, 160, 20)
        Image.fromarray(pixels).save(folder / f'{i}.png')
