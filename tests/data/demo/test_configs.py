import numpy as np
import pytest
import torch

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, DefaultScope, init_default_scope
from mmengine.runner import Runner
from PIL import Image

from mmpoolformer.data.demo.scenes import (
    SEGMENTATION_CLASSES,
    DemoSettings,
    make_demo_data,
)
from mmpoolformer.data.demo.shapes import CLASSES
from mmpoolformer.utils.paths import config_path

NAMES = {
    'detection/demo_retinanet_poolformer_s12': 'detection/',
    'detection/demo_mask_rcnn_poolformer_s12': 'detection/',
    'segmentation/demo_fpn_poolformer_s12': 'segmentation',
}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp('demo') / 'data'
    make_demo_data(out, DemoSettings(6, 6, 128), workers=1, progress=False)
    return out


@pytest.fixture(params=NAMES)
def config(request, data):
    """A demo config over a few scenes, in its own scope."""
    config = Config.fromfile(config_path(request.param))
    for part in ('train', 'val'):
        loader = config[f'{part}_dataloader']
        loader.dataset.data_root = f'{data}/{NAMES[request.param]}'
        loader.update(num_workers=0, persistent_workers=False)
    scope = DefaultScope.get_current_instance()
    init_default_scope(config.default_scope)
    yield config
    if scope is not None:
        init_default_scope(scope.scope_name)


def build_model(config):
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(config.model))
    model.init_weights()
    return model


@pytest.mark.slow
def test_classes_are_those_of_the_scenes(config):
    expected = SEGMENTATION_CLASSES if config.default_scope == 'mmseg' else CLASSES
    for part, count in (('train', 6), ('val', 6)):
        dataset = DATASETS.build(config[f'{part}_dataloader'].dataset)
        assert len(dataset) == count
        assert tuple(dataset.metainfo['classes']) == expected


@pytest.mark.slow
def test_every_parameter_learns_from_a_batch(config):
    model = build_model(config).train()
    loader = Runner.build_dataloader(config.train_dataloader, seed=0)
    batch = model.data_preprocessor(next(iter(loader)), True)
    losses = model(**batch, mode='loss')
    total, _ = model.parse_losses(losses)
    assert torch.isfinite(total)
    total.backward()
    without = [n for n, p in model.named_parameters() if p.grad is None]
    assert without == []


@pytest.mark.slow
def test_held_out_scenes_are_predicted_at_their_own_size(config):
    model = build_model(config).eval()
    loader = Runner.build_dataloader(config.val_dataloader, seed=0)
    with torch.no_grad():
        samples = model.val_step(next(iter(loader)))
    for sample in samples:
        assert sample.ori_shape == (128, 128)
        if config.default_scope == 'mmseg':
            assert sample.pred_sem_seg.data.shape == (1, 128, 128)
        elif 'masks' in sample.pred_instances:
            assert sample.pred_instances.masks.shape[1:] == (128, 128)


def test_segmentation_labels_are_one_less_than_the_files(data):
    name = 'segmentation/demo_fpn_poolformer_s12'
    config = Config.fromfile(config_path(name))
    config.val_dataloader.dataset.data_root = f'{data}/segmentation'
    init_default_scope('mmseg')
    dataset = DATASETS.build(config.val_dataloader.dataset)
    for sample in dataset:
        file = np.array(Image.open(sample['data_samples'].seg_map_path)).astype(int)
        labels = sample['data_samples'].gt_sem_seg.data[0].numpy()
        assert np.array_equal(labels, np.where(file == 0, 255, file - 1))
