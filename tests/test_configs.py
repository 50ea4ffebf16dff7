"""The configs build what was published, and state only differences."""

import copy
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmpoolformer.checkpoints import ZOO

CONFIGS = Path(__file__).parents[1] / 'configs'

# arXiv 2111.11418, tables 3 and 4, millions of parameters; S24's Semantic FPN, which
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
# Without a published result: millions of parameters with RetinaNet, Mask R-CNN and
# Semantic FPN, as counted here.
COUNTED_MILLIONS = {
    'poolformerv2_s12': (21.6, 31.5, 15.6),
    'poolformerv2_s24': (31.1, 41.0, 25.1),
    'poolformerv2_s36': (40.5, 50.4, 34.5),
    'convformer_s18': (33.9, 43.8, 27.9),
    'convformer_s36': (47.2, 57.1, 41.2),
    'caformer_s18': (33.5, 43.4, 27.5),
    'caformer_s36': (46.4, 56.4, 40.5),
    'identityformer_s12': (21.6, 31.5, 15.6),
    'randformer_s12': (21.9, 31.8, 15.9),
    'pit_s': (33.3, 42.5, 26.0),
}
PATTERNS = (
    'detection/retinanet_{}_fpn_1x_coco',
    'detection/mask_rcnn_{}_fpn_1x_coco',
    'segmentation/fpn_{}_ade20k_40k',
)
MILLIONS = {
    **PUBLISHED_MILLIONS,
    **{
        pattern.format(name): millions
        for name, counts in COUNTED_MILLIONS.items()
        for pattern, millions in zip(PATTERNS, counts, strict=True)
    },
}
RETINANET = [name for name in MILLIONS if 'retinanet' in name]
MASK_RCNN = [name for name in MILLIONS if 'mask_rcnn' in name]
DETECTION = RETINANET + MASK_RCNN
SEGMENTATION = [name for name in MILLIONS if 'ade20k' in name]
TRANSFERRED = [name for name in MILLIONS if name not in PUBLISHED_MILLIONS]


@cache
def read(name: str) -> Config:
    return Config.fromfile(CONFIGS / f'{name}.py')


def load(name: str) -> Config:
    return copy.deepcopy(read(name))


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
    assert found == set(MILLIONS)


def on_meta(name: str) -> object:
    with torch.device('meta'):
        return build(load(name))


def count(module: object) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.slow
@pytest.mark.parametrize('name', MILLIONS)
def test_model_has_the_stated_parameters(name: str) -> None:
    assert round(count(on_meta(name)) / 1e6, 1) == MILLIONS[name]


@pytest.mark.parametrize('name', [n for n in TRANSFERRED if 'pit' not in n])
def test_only_the_backbone_differs_from_poolformers(name: str) -> None:
    pattern = next(p for p in PATTERNS if name.startswith(p.split('{')[0]))
    model, base = on_meta(name), on_meta(pattern.format('poolformer_s12'))
    assert count(model) - count(model.backbone) == count(base) - count(base.backbone)
    backbone = type(model.backbone).__name__.lower()
    assert f'_{backbone}_{load(name).model.backbone.arch}_' in name
    config, recipe = load(name), load(pattern.format('poolformer_s12'))
    for part in ('optim_wrapper', 'param_scheduler', 'train_dataloader', 'train_cfg'):
        assert config[part] == recipe[part]


@pytest.mark.parametrize('name', MILLIONS)
def test_neck_takes_what_the_backbone_declares(name: str) -> None:
    config = load(name)
    with torch.device('meta'):
        backbone = MODELS.build(config.model.backbone)
    assert list(backbone.out_channels) == config.model.neck.in_channels


@pytest.mark.parametrize('name', MILLIONS)
def test_head_comment_tells_command_and_result(name: str) -> None:
    text = (CONFIGS / f'{name}.py').read_text()
    head = text[: text.index('_base_')]
    assert f'tools/dist_train.sh configs/{name}.py 8' in head
    assert f'{MILLIONS[name]} M parameters' in head
    told = 'Published: ' if name in PUBLISHED_MILLIONS else 'No result is published'
    assert told in head
    if name in PUBLISHED_MILLIONS:
        table = 3 if name in DETECTION else 4
        assert f'(arXiv 2111.11418, table {table}).' in head


@pytest.mark.parametrize('name', MILLIONS)
def test_imagenet_weights_by_default(name: str) -> None:
    backbone = load(name).model.backbone
    family = backbone.type.removeprefix('mmpoolformer.').lower()
    source = f'{family}_{backbone.arch}'
    assert source in ZOO and f'_{source}_' in name
    assert backbone.init_cfg == dict(type='Pretrained', checkpoint=f'zoo://{source}')


SMALL = [name for name in TRANSFERRED if not re.search('s(24|36)', name)]


@pytest.mark.slow
@pytest.mark.parametrize(
    'name',
    [
        # Sorted by head, then by backbone: every head has four, every backbone two.
        name if place % 2 else pytest.param(name, marks=pytest.mark.long)
        for place, name in enumerate(SMALL)
    ],
)
def test_other_backbones_train_in_every_head(name: str) -> None:
    config = load(name)
    if config.default_scope == 'mmdet':
        inputs = demo_mm_inputs(1, [[3, 64, 96]], num_items=[2], with_mask=True)
    else:
        labels = PixelData(data=torch.randint(0, 150, (1, 64, 96)))
        sample = SegDataSample(gt_sem_seg=labels)
        inputs = dict(inputs=torch.randn(1, 3, 64, 96), data_samples=[sample])
    model = revert_sync_batchnorm(build(config))
    if config.default_scope == 'mmdet':
        inputs = model.data_preprocessor(inputs, training=True)
    losses, _ = model.parse_losses(model(**inputs, mode='loss'))
    losses.backward()
    # Mask R-CNN with no proposal near a truth has no loss for boxes and masks.
    lacking = [
        key
        for key, p in model.named_parameters()
        if p.requires_grad and p.grad is None and not key.startswith('roi_head')
    ]
    assert torch.isfinite(losses) and not lacking


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
    model = on_meta(name)
    assert model.backbone.out_strides == (8, 16, 32)
    assert model.neck.start_level == 0 and model.neck.add_extra_convs == 'on_input'
    first = model.backbone.out_indices[0]
    assert not any(hasattr(model.backbone, f'norm{i}') for i in range(first))


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


# arXiv 2111.11418 and 2210.13452, 2103.16302 for PiT: drop path, head dropout, rate,
# warm-up and images a step in pretraining; drop path and dropout at 384 x 384.
V1_DROP_PATH = {'s12': 0.1, 's24': 0.1, 's36': 0.2, 'm36': 0.3, 'm48': 0.4}
V2_DROP_PATH = V1_DROP_PATH
CONVFORMER = {'s18': (0.2, 0), 's36': (0.3, 0), 'm36': (0.4, 0), 'b36': (0.6, 0)}
CAFORMER = {'s18': (0.15, 0), 's36': (0.3, 0.4), 'm36': (0.4, 0.4), 'b36': (0.6, 0.5)}
FINE_TUNED = {
    's18': (0.3, 0.4),
    's36': (0.5, 0.4),
    'm36': (0.7, 0.4),
    'b36': (0.8, 0.5),
}
RECIPES = {
    **{
        f'poolformer_{a}': (drop, 0, 'adamw', 1e-3, 5, 1024)
        for a, drop in V1_DROP_PATH.items()
    },
    **{
        f'{family}_{a}': (drop, 0, 'adamw', 4e-3, 5, 4096)
        for family in ('identityformer', 'randformer', 'poolformerv2')
        for a, drop in V2_DROP_PATH.items()
    },
    **{
        f'convformer_{a}': (*drops, 'adamw', 4e-3, 20, 4096)
        for a, drops in CONVFORMER.items()
    },
    **{
        f'caformer_{a}': (*drops, 'lamb', 8e-3, 20, 4096)
        for a, drops in CAFORMER.items()
    },
}
AT_384 = {
    **{
        f'convformer_{a}': (0.8 if a == 'm36' else drops[0], drops[1], 'adamw', 5e-5)
        for a, drops in FINE_TUNED.items()
    },
    **{f'caformer_{a}': (*drops, 'lamb', 1e-4) for a, drops in FINE_TUNED.items()},
}
CLASSIFICATION = {
    **{name: f'classification/{name}_8xb128_in1k' for name in RECIPES},
    **{f'{name}_384': f'classification/{name}_8xb128_in1k-384px' for name in AT_384},
    'pit_ti': 'classification/pit_ti_4xb256_in1k',
}


def images_a_step(config: Config, gpus: int) -> int:
    accumulated = config.optim_wrapper.get('accumulative_counts', 1)
    return gpus * config.train_dataloader.batch_size * accumulated


def test_every_classification_recipe_is_listed_above() -> None:
    found = {
        path.relative_to(CONFIGS).with_suffix('').as_posix()
        for path in CONFIGS.glob('classification/*in1k*.py')
    }
    assert found == set(CLASSIFICATION.values())


@pytest.mark.parametrize('name', RECIPES)
def test_pretraining_is_the_published_one(name: str) -> None:
    config = load(CLASSIFICATION[name])
    optimizer = config.optim_wrapper.optimizer
    assert (
        config.model.backbone.drop_path_rate,
        config.model.backbone.get('drop_rate', 0),
        optimizer.type,
        optimizer.lr,
        config.param_scheduler.warmup_t,
        images_a_step(config, 8),
    ) == RECIPES[name]
    assert config.auto_scale_lr.base_batch_size == images_a_step(config, 8)
    assert optimizer.weight_decay == 0.05
    assert config.param_scheduler.t_initial == 300
    assert config.train_cfg.max_epochs == 310
    transform = config.train_dataloader.dataset.transform
    assert transform.auto_augment == 'rand-m9-mstd0.5-inc1'
    assert (transform.re_prob, transform.re_mode) == (0.25, 'pixel')
    assert config.model.mixup == dict(
        mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.5
    )
    assert config.model.label_smoothing == 0.1


@pytest.mark.parametrize('name', AT_384)
def test_fine_tuning_is_the_published_one(name: str) -> None:
    config = load(CLASSIFICATION[f'{name}_384'])
    backbone, optimizer = config.model.backbone, config.optim_wrapper.optimizer
    assert (
        backbone.drop_path_rate,
        backbone.drop_rate,
        optimizer.type,
        optimizer.lr,
    ) == AT_384[name]
    assert images_a_step(config, 8) == config.auto_scale_lr.base_batch_size == 1024
    assert config.train_cfg.max_epochs == 30
    assert config.param_scheduler is None
    assert config.model.mixup is None
    assert config.custom_hooks[0].momentum == pytest.approx(1 - 0.9999)
    assert backbone.init_cfg.checkpoint == f'zoo://{name}'


def test_pit_is_trained_as_published() -> None:
    config = load(CLASSIFICATION['pit_ti'])
    schedule = config.param_scheduler
    assert images_a_step(config, 4) == config.auto_scale_lr.base_batch_size == 1024
    assert config.optim_wrapper.optimizer.lr == 5e-4
    assert config.optim_wrapper.clip_grad.max_norm == 5
    rates = schedule.warmup_t, schedule.warmup_lr_init, schedule.lr_min
    assert rates == (20, 5e-7, 5e-6)
    assert config.custom_hooks[0].momentum == pytest.approx(1 - 0.99996)
    assert config.model.backbone.drop_path_rate == 0.1


@pytest.mark.parametrize('name', CLASSIFICATION)
def test_classifiers_are_evaluated_as_published(name: str) -> None:
    entry, config = ZOO[name], load(CLASSIFICATION[name])
    for loader in (config.val_dataloader, config.test_dataloader):
        transform = loader.dataset.transform
        assert transform.input_size == entry.input_size[1]
        assert transform.crop_pct == entry.crop_pct
        assert transform.interpolation == entry.interpolation
        assert 'is_training' not in transform
    text = (CONFIGS / f'{CLASSIFICATION[name]}.py').read_text()
    head = text[: text.index('_base_')]
    gpus = 4 if 'pit' in name else 8
    assert f'tools/dist_train.sh configs/{CLASSIFICATION[name]}.py {gpus}' in head
    assert f'{entry.params / 1e6:.1f} M parameters' in head
    assert f'{entry.macs / 1e9:.2f} G MACs' in head
    assert f'top-1 {entry.top1}' in head
    if name.startswith('poolformer_'):
        assert '(arXiv 2111.11418, table 2).' in head


@pytest.mark.parametrize('name', CLASSIFICATION)
def test_classifiers_are_what_their_name_says(name: str) -> None:
    backbone = load(CLASSIFICATION[name]).model.backbone
    assert backbone.get('arch', backbone.get('name')) == name.removesuffix('_384')
    assert backbone.num_classes == ZOO[name].num_classes


@pytest.mark.parametrize(
    'name', ['poolformer_s24', 'randformer_s12', 'caformer_s18_384', 'pit_ti']
)
def test_classifiers_are_built_with_the_published_parameters(name: str) -> None:
    with torch.device('meta'):
        model = MODELS.build(load(CLASSIFICATION[name]).model)
    assert sum(p.numel() for p in model.parameters()) == ZOO[name].params
