"""Batches without anything to learn: the loss is finite, and so are its gradients."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, DefaultScope
from PIL import Image
from tiny_data import write_data, write_detection_config, write_segmentation_config
from torch import nn

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('rare')
    write_data(folder / 'data')
    write_detection_config(folder / 'retinanet.py', folder / 'data')
    write_detection_config(folder / 'mask_rcnn.py', folder / 'data', masks=True)
    write_segmentation_config(folder / 'segmentation.py', folder / 'data')
    return folder


def no_boxes(annotations: list[dict]) -> list[dict]:
    return []


def crowds(annotations: list[dict]) -> list[dict]:
    return [{**one, 'iscrowd': 1} for one in annotations]


def pixels(annotations: list[dict]) -> list[dict]:
    """Boxes of one pixel; the last one reaches over the edge."""
    corners = ([5, 5], [63, 63], [63.5, 0])
    return [
        {
            **annotations[i],
            'bbox': [x, y, 1, 1],
            'area': 1,
            'segmentation': [[x, y, x + 1, y, x + 1, y + 1, x, y + 1]],
        }
        for i, (x, y) in enumerate(corners)
    ]


def one_pair(annotations: list[dict]) -> list[dict]:
    """All boxes on one picture, so that three of the four have none."""
    return [{**one, 'image_id': 0} for one in annotations]


def losses(config: Config) -> tuple[dict, nn.Module]:
    """Return the losses of the first four pictures, and the model."""
    dataset = config.train_dataloader.dataset
    if 'filter_cfg' in dataset:
        dataset.filter_cfg = None
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        model = revert_sync_batchnorm(MODELS.build(config.model)).train()
        dataset = DATASETS.build(dataset)
        batch = model.data_preprocessor(
            pseudo_collate([dataset[i] for i in range(4)]), training=True
        )
        found = model(**batch, mode='loss')
    return found, model


def assert_finite(config: Config) -> dict:
    found, model = losses(config)
    total, values = model.parse_losses(found)
    assert all(np.isfinite(float(value)) for value in values.values()), values
    total.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(grad.isfinite().all()) for grad in gradients)
    return values


@pytest.mark.parametrize('kind', [no_boxes, crowds, pixels, one_pair])
@pytest.mark.parametrize('detector', ['retinanet', 'mask_rcnn'])
def test_detectors_bear_rare_batches(data: Path, detector: str, kind) -> None:
    content = json.loads((data / 'data' / 'train.json').read_text())
    content['annotations'] = kind(content['annotations'][:8])
    (data / 'data' / 'rare.json').write_text(json.dumps(content))
    config = Config.fromfile(str(data / f'{detector}.py'))
    config.train_dataloader.dataset.ann_file = 'rare.json'
    config.model.backbone.init_cfg = None
    values = assert_finite(config)
    boxes = {'retinanet': 'loss_bbox', 'mask_rcnn': 'loss_rpn_bbox'}[detector]
    # No anchor of an RPN is near enough to a pixel.
    learned = kind is one_pair or (kind is pixels and detector == 'retinanet')
    assert (float(values[boxes]) > 0) == learned


@pytest.mark.parametrize('value', [0, 3])
def test_segmentation_bears_batches_of_one_value(data: Path, value: int) -> None:
    """Value 0 is ignored everywhere, 3 is the background."""
    folder = data / 'data' / 'annotations' / f'only_{value}'
    folder.mkdir()
    for path in (data / 'data' / 'images' / 'training').iterdir():
        Image.fromarray(np.full((64, 64), value, np.uint8)).save(folder / path.name)
    config = Config.fromfile(str(data / 'segmentation.py'))
    config.train_dataloader.dataset.data_prefix.seg_map_path = str(
        Path('annotations') / folder.name
    )
    config.model.backbone.init_cfg = None
    values = assert_finite(config)
    assert (float(values['decode.loss_ce']) > 0) == (value == 3)
