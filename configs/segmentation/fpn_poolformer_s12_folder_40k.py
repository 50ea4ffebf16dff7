# Semantic FPN with a PoolFormer-S12 on an ADE20K-layout folder of your own:
#   DATA_ROOT=data/mine tools/dist_train.sh \
#       configs/segmentation/fpn_poolformer_s12_folder_40k.py 1
# Expected: data/mine/{images,annotations}/{training,validation}, pictures ending on
# .jpg [IMG_SUFFIX], annotations .png of the same name, and data/mine/classes.txt (one
# name a line; line k is value k, 0 is not labelled) or classes.json. What fits one GPU,
# or a CPU, is derived from the training pictures:
#   batch    of 4, 8 and 16 the largest that leaves 1,000 steps in 64 epochs
#   steps    64 epochs as on ADE20K and at most its 40,000, at least 1,000, but no
#            more than 300 epochs
#   warm-up  100 steps, at most one epoch; then poly to 0
#   crop     the usual (median) shorter side, in steps of 32 up to 512; --size: another
# 205 pictures of 640 x 480: 8 a step, 1,600 steps, crops of 480 x 480. The learning
# rate is for this batch on one GPU. No result is published for your data.
_base_ = 'fpn_poolformer_s12_ade20k_40k.py'

from mmpoolformer.data.class_names import seg_classes
from mmpoolformer.data.own_folder import (
    fit_schedule,
    fit_workers,
    seg_pictures,
    usual_side,
)

data_root = '{{$DATA_ROOT:data/mine}}'
img_suffix = '{{$IMG_SUFFIX:.jpg}}'
_classes = seg_classes(data_root)
metainfo = dict(classes=_classes.names, palette=_classes.palette)
load_labels = [
    dict(type='LoadAnnotations'),
    dict(type='mmpoolformer.MapLabels', ids=_classes.ids, ignored=_classes.ignored),
]
_pictures = seg_pictures(data_root, img_suffix)
_fitted = fit_schedule(len(_pictures), epochs=64, batch_sizes=(4, 8, 16))
_steps = min(40000, _fitted.epochs * _fitted.steps)
_side = usual_side(_pictures, least=64, most=512)
_workers = fit_workers(4)

model = dict(
    data_preprocessor=dict(size=(_side, _side)),
    decode_head=dict(num_classes=len(metainfo['classes'])),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    *load_labels,
    dict(
        type='RandomResize',
        scale=(4 * _side, _side),
        ratio_range=(0.5, 2.0),
        keep_ratio=True,
    ),
    dict(type='RandomCrop', crop_size=(_side, _side), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(4 * _side, _side), keep_ratio=True),
    dict(type='ResizeToMultiple', size_divisor=32),
    *load_labels,
    dict(type='PackSegInputs'),
]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale_factor=ratio, keep_ratio=True)
                for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
            ],
            [dict(type='ResizeToMultiple', size_divisor=32)],
            [
                dict(type='RandomFlip', prob=0.0, direction='horizontal'),
                dict(type='RandomFlip', prob=1.0, direction='horizontal'),
            ],
            [load_labels[0]],
            [load_labels[1]],
            [dict(type='PackSegInputs')],
        ],
    ),
]

train_dataloader = dict(
    batch_size=_fitted.batch_size,
    num_workers=_workers,
    dataset=dict(
        type='mmpoolformer.SegFolderDataset',
        metainfo=metainfo,
        data_root=data_root,
        img_suffix=img_suffix,
        reduce_zero_label=False,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    num_workers=_workers,
    dataset=dict(
        type='mmpoolformer.SegFolderDataset',
        metainfo=metainfo,
        data_root=data_root,
        img_suffix=img_suffix,
        reduce_zero_label=False,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

train_cfg = dict(max_iters=_steps, val_interval=_steps // 10)
param_scheduler = [
    dict(
        type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=_fitted.warmup
    ),
    dict(
        type='PolyLR',
        eta_min=0.0,
        power=0.9,
        begin=_fitted.warmup,
        end=_steps,
        by_epoch=False,
    ),
]
optim_wrapper = dict(clip_grad=dict(max_norm=10, norm_type=2))
auto_scale_lr = dict(base_batch_size=_fitted.batch_size)
default_hooks = dict(checkpoint=dict(interval=_steps // 10, max_keep_ckpts=3))
del _classes, _fitted, _pictures, _side, _steps, _workers
