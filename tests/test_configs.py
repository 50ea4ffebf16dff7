"""The configs build what was published, and state only differences."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmpoolformer import PoolFormer

CONFIGS = Path(__file__).parents[1] / 'configs'

# arXiv 2111.11418, tables 3 to 5, millions of parameters; S24's Semantic FPN, which
# the paper prints as 23.2, counts 25.1 on today's heads.
PUBLISHED_MILLIONS = {
    'detection/retinanet_poolformer_s12_fpn_1x_coco': 21.7,
    'detection/retinanet_poolformer_s24_fpn_1x_coco': 31.1,
    'detection/retinanet_poolformer_s36_fpn_1x_coco': 40.6,
    'detection/mask_rcnn_poolformer_s12_fpn_1x_coco': 31.6,
    'detection/mask_rcnn_poolformer_s24_fpn_1x_coco': 41.0,
    'detection/mask_rcnn_poolformer_s36_fpn_1x_coco': 50.5,
    'segmentation/fpn_poolformer_s12_ade20k_40k': 15.7,
    'segmentation/fpn_poolformer_s24_ade20k_40k': 25.1,
    'segmentation/fpn_poolformer_s36_ade20k_40k': 34.6,
    'segmentation/fpn_poolformer_m36_ade20k_40k': 59.8,
    'segmentation/fpn_poolformer_m48_ade20k_40k': 77.1,
}
RETINANET = [name for name in PUBLISHED_MILLIONS if 'retinanet' in name]
MASK_RCNN = [name for name in PUBLISHED_MILLIONS if 'mask_rcnn' in name]
DETECTION = RETINANET + MASK_RCNN
SEGMENTATION = [name for name in PUBLISHED_MILLIONS if 'ade20k' in name]


def load(name: str) -> Config:
    return Config.fromfile(CONFIGS / f'{name}.py')


def build(config: Config) -> object:
    scope = config.default_scope
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(config.model)


def test_every_recipe_is_listed_above() -> None:
    found = {
        path.relative_to(CONFIGS).with_suffix('').as_posix()
        for path in CONFIGS.glob('*/*.py')
        if path.stem.endswith(('_coco', '_ade20k_40k'))
    }
    assert found == set(PUBLISHED_MILLIONS)


@pytest.mark.parametrize('name', PUBLISHED_MILLIONS)
def test_model_has_the_published_parameters(name: str) -> None:
    model = build(load(name))
    assert isinstance(model.backbone, PoolFormer)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert round(millions, 1) == PUBLISHED_MILLIONS[name]


@pytest.mark.parametrize('name', PUBLISHED_MILLIONS)
def test_neck_takes_what_the_backbone_declares(name: str) -> None:
    config = load(name)
    with torch.device('meta'):
        backbone = MODELS.build(config.model.backbone)
    assert list(backbone.out_channels) == config.model.neck.in_channels


@pytest.mark.parametrize('name', PUBLISHED_MILLIONS)
def test_head_comment_tells_command_and_result(name: str) -> None:
    text = (CONFIGS / f'{name}.py').read_text()
    head = text[: text.index('_base_')]
    assert f'tools/dist_train.sh configs/{name}.py 8' in head
    assert f'{PUBLISHED_MILLIONS[name]} M parameters' in head
    assert 'Published: ' in head


@pytest.mark.parametrize('name', PUBLISHED_MILLIONS)
def test_imagenet_weights_by_default(name: str) -> None:
    arch = name.split('_poolformer_')[1].split('_')[0]
    backbone = load(name).model.backbone
    assert backbone.arch == arch
    assert backbone.init_cfg == dict(
        type='Pretrained', checkpoint=f'zoo://poolformer_{arch}'
    )


@pytest.mark.parametrize('name', DETECTION)
def test_detection_recipe(name: str) -> None:
    config = load(name)
    rate = 1e-4 if name in RETINANET else 2e-4
    optimizer = dict(type='AdamW', lr=rate, weight_decay=1e-4)
    assert config.optim_wrapper.optimizer == optimizer
    assert not {'clip_grad', 'paramwise_cfg'} & set(config.optim_wrapper)
    warm_up, steps = config.param_scheduler
    assert (warm_up.start_factor, warm_up.end, warm_up.by_epoch) == (0.001, 500, False)
    assert (list(steps.milestones), steps.gamma) == ([8, 11], 0.1)
    assert config.train_cfg.max_epochs == 12
    assert config.train_dataloader.batch_size == 2
    assert config.auto_scale_lr.base_batch_size == 16
    resize = config.train_dataloader.dataset.pipeline[2]
    assert (resize.type, tuple(resize.scale)) == ('Resize', (1333, 800))
    assert config.model.backbone.get('drop_path_rate', 0) == 0


@pytest.mark.parametrize('name', RETINANET)
def test_retinanet_takes_strides_8_to_32(name: str) -> None:
    model = build(load(name))
    assert model.backbone.out_strides == (8, 16, 32)
    assert model.neck.start_level == 0 and model.neck.add_extra_convs == 'on_input'
    assert not hasattr(model.backbone, 'norm0')


@pytest.mark.parametrize('name', SEGMENTATION)
def test_segmentation_recipe(name: str) -> None:
    config = load(name)
    optimizer = dict(type='AdamW', lr=2e-4, weight_decay=1e-4)
    assert config.optim_wrapper.optimizer == optimizer
    (schedule,) = config.param_scheduler
    assert schedule == dict(
        type='PolyLR', eta_min=0.0, power=0.9, begin=0, end=40000, by_epoch=False
    )
    assert config.train_cfg.max_iters == 40000
    assert config.train_dataloader.batch_size == 4
    assert config.auto_scale_lr.base_batch_size == 32
    assert config.model.decode_head.norm_cfg.type == 'SyncBN'
    resize, multiple = config.test_dataloader.dataset.pipeline[1:3]
    assert resize == dict(type='Resize', scale=(2048, 512), keep_ratio=True)
    assert multiple == dict(type='ResizeToMultiple', size_divisor=32)


@pytest.mark.parametrize('name', PUBLISHED_MILLIONS)
def test_a_larger_size_states_only_its_difference(name: str) -> None:
    small = name.replace(name.split('_poolformer_')[1].split('_')[0], 's12')
    larger, base = load(name), load(small)
    differing = {
        'backbone': {'arch', 'init_cfg'},
        'neck': {'in_channels'},
    }
    for part, fields in differing.items():
        for field in fields & set(base.model[part]):
            larger.model[part].pop(field)
            base.model[part].pop(field)
    assert larger.to_dict() == base.to_dict()
