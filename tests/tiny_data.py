"""Tiny data sets and configs for tests: squares and discs, 64 x 64, and folders."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SIDE = 64
# An odd number, so that two processes can't share the images evenly.
COUNTS = {'train': 16, 'val': 7}
ADE_NAMES = {'train': 'training', 'val': 'validation'}
CLASSES = ('square', 'disc')
COLOURS = ((230, 40, 40), (40, 60, 230))

DETECTION = """
_base_ = '{root}/configs/detection/{base}.py'
classes = ('square', 'disc')
metainfo = dict(classes=classes)
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask={masks}),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='PackDetInputs', meta_keys=(
        'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
data = dict(
    type='CocoDataset', metainfo=metainfo, data_root='{data}/', pipeline=pipeline)
train_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False,
    dataset=dict(_delete_=True, ann_file='train.json',
                 filter_cfg=dict(filter_empty_gt=True),
                 data_prefix=dict(img='images/training/'), **data))
val_dataloader = dict(
    batch_size=1, num_workers=0, persistent_workers=False,
    dataset=dict(_delete_=True, ann_file='val.json', test_mode=True,
                 data_prefix=dict(img='images/validation/'), **data))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='{data}/val.json')
test_evaluator = val_evaluator
model = dict(
    backbone=dict(_delete_=True, type='mmpoolformer.PoolFormer', arch=dict(
        depths=(1, 1, 1, 1), dims=(16, 32, 64, 64), layer_scale_init=1.0), {indices}),
    {model})
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = []
train_cfg = dict(max_epochs=2)
default_hooks = dict(logger=dict(interval=1))
randomness = dict(seed=0)
"""
RETINANET = """neck=dict(in_channels=[32, 64, 64], out_channels=32),
    bbox_head=dict(num_classes=2, stacked_convs=1, in_channels=32, feat_channels=32)"""
MASK_RCNN = """neck=dict(in_channels=[16, 32, 64, 64], out_channels=32),
    rpn_head=dict(in_channels=32, feat_channels=32),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=32),
        bbox_head=dict(num_classes=2, in_channels=32, fc_out_channels=32),
        mask_roi_extractor=dict(out_channels=32),
        mask_head=dict(num_classes=2, in_channels=32, conv_out_channels=32))"""

SEGMENTATION = """
_base_ = '{root}/configs/segmentation/fpn_poolformer_s12_ade20k_40k.py'
metainfo = dict(classes=('square', 'disc', 'background'),
                palette=[[230, 40, 40], [40, 60, 230], [99, 99, 99]])
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs'),
]
data = dict(type='BaseSegDataset', metainfo=metainfo, data_root='{data}',
            img_suffix='.png', reduce_zero_label=True, pipeline=pipeline)
train_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False,
    dataset=dict(_delete_=True, data_prefix=dict(
        img_path='images/training', seg_map_path='annotations/training'), **data))
val_dataloader = dict(
    num_workers=0, persistent_workers=False,
    dataset=dict(_delete_=True, data_prefix=dict(
        img_path='images/validation', seg_map_path='annotations/validation'), **data))
test_dataloader = val_dataloader
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(_delete_=True, type='mmpoolformer.PoolFormer', arch=dict(
        depths=(1, 1, 1, 1), dims=(16, 32, 64, 64), layer_scale_init=1.0)),
    neck=dict(in_channels=[16, 32, 64, 64], out_channels=32),
    decode_head=dict(in_channels=[32, 32, 32, 32], channels=16,
                     num_classes=3, dropout_ratio=0.0))
optim_wrapper = dict(optimizer=dict(lr=5e-4))
param_scheduler = []
train_cfg = dict(max_iters=4, val_interval=2)
default_hooks = dict(
    logger=dict(interval=1), checkpoint=dict(interval=2))
randomness = dict(seed=0)
"""

CLASSIFICATION = """
_base_ = '{root}/configs/classification/poolformer_s12_8xb128_in1k.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpoolformer.MetaFormerClassifier',
        arch=dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), layer_scale_init=0.5),
        num_classes=2, drop_path_rate=0.3, drop_rate=0.2))
transform = dict(input_size=32, is_training=True, re_prob=0.25,
                 auto_augment='rand-m9-mstd0.5-inc1')
train_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False,
    dataset=dict(root='{data}', transform=transform))
val_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False,
    dataset=dict(root='{data}', transform=dict(input_size=32)))
test_dataloader = val_dataloader
optim_wrapper = dict(accumulative_counts=3)
param_scheduler = dict(t_initial=2, warmup_t=1)
train_cfg = dict(max_epochs=2, val_interval=2)
default_hooks = dict(logger=dict(interval=1))
randomness = dict(seed=4)
"""


def write_data(folder: Path) -> None:
    """Write the same pictures as COCO (`{train,val}.json`) and in ADE20K's layout."""
    rng = np.random.default_rng(0)
    for split, count in COUNTS.items():
        ade = ADE_NAMES[split]
        for kind in ('images', 'annotations'):
            (folder / kind / ade).mkdir(parents=True)
        images, annotations = [], []
        for i in range(count):
            picture, labels, found = _draw(rng)
            name = f'{i:03d}.png'
            Image.fromarray(picture).save(folder / 'images' / ade / name)
            Image.fromarray(labels).save(folder / 'annotations' / ade / name)
            images.append(dict(id=i, file_name=name, height=SIDE, width=SIDE))
            for item in found:
                ids = dict(id=len(annotations) + 1, image_id=i)
                annotations.append({**ids, **item})
        categories = [dict(id=k + 1, name=name) for k, name in enumerate(CLASSES)]
        coco = dict(
            info={}, images=images, annotations=annotations, categories=categories
        )
        (folder / f'{split}.json').write_text(json.dumps(coco))


def write_detection_config(path: Path, data: Path, masks: bool = False) -> None:
    """Write a config of a tiny RetinaNet, or with `masks` Mask R-CNN."""
    family = 'mask_rcnn' if masks else 'retinanet'
    text = DETECTION.format(
        root=ROOT,
        data=data,
        masks=masks,
        base=f'{family}_poolformer_s12_fpn_1x_coco',
        indices='' if masks else 'out_indices=(1, 2, 3)',
        model=MASK_RCNN if masks else RETINANET,
    )
    path.write_text(text)


def write_segmentation_config(path: Path, data: Path) -> None:
    """Write a config of a tiny Semantic FPN."""
    path.write_text(SEGMENTATION.format(root=ROOT, data=data))


def write_classification_config(path: Path, data: Path, more: str = '') -> None:
    """Write a config of a tiny PoolFormer and pictures of noise of two classes."""
    rng = np.random.default_rng(0)
    for i in range(28):
        split = 'train' if i < 24 else 'val'
        place = data / split / f'class_{i % 2}'
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (40, 36, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f'{i}.png')
    path.write_text(CLASSIFICATION.format(root=ROOT, data=data) + more)


def _draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[dict]]:
    """Draw a square and a disc; pictures (H, W, 3), labels (H, W) from 1 up, boxes."""
    picture = rng.integers(90, 130, (SIDE, SIDE, 3), dtype=np.uint8)
    labels = np.full((SIDE, SIDE), 3, dtype=np.uint8)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    found = []
    for k, left in enumerate(rng.permutation([2, 33]).tolist()):
        size = int(rng.integers(16, 28))
        top = int(rng.integers(0, SIDE - size))
        inside = (rows >= top) & (rows < top + size)
        inside &= (columns >= left) & (columns < left + size)
        if CLASSES[k] == 'disc':
            radius = size / 2
            inside = (
                np.hypot(rows + 0.5 - top - radius, columns + 0.5 - left - radius)
                < radius
            )
        picture[inside] = COLOURS[k]
        labels[inside] = k + 1
        corners = [
            left,
            top,
            left + size,
            top,
            left + size,
            top + size,
            left,
            top + size,
        ]
        found.append(
            dict(
                category_id=k + 1,
                bbox=[left, top, size, size],
                area=int(inside.sum()),
                iscrowd=0,
                segmentation=[corners],
            )
        )
    return picture, labels, found


def write_classes(root: Path, classes: Sequence[str], count: int = 4) -> None:
    """Write an image folder: noise of random colours, of several sizes."""
    generator = np.random.default_rng(0)
    for i, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for j in range(count):
            colour = generator.integers(0, 200, 3)
            noise = generator.integers(0, 56, (50 + 3 * i, 60 - 2 * j, 3))
            pixels = (colour + noise).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f'{j}.png')
