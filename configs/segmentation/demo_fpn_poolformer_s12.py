# Semantic FPN with a PoolFormer-S12 from scratch on generated pictures.
#   python tools/make_demo_data.py
#   python tools/train.py configs/segmentation/demo_fpn_poolformer_s12.py
# Pictures of 128 x 128, half the channels after the backbone: minutes on two CPU
# cores. Small layer scales as in configs/detection/demo_retinanet_poolformer_s12.py.
# No result is published.
_base_ = 'fpn_poolformer_s12_ade20k_40k.py'

data_root = 'data/demo/segmentation'
# Value k + 1 of the annotations is class k, 0 is not labelled: as in ADE20K.
metainfo = dict(
    classes=(
        'background',
        'circle',
        'square',
        'triangle',
        'star',
        'cross',
        'ring',
    ),
    palette=[
        [70, 70, 70],
        [230, 159, 0],
        [86, 180, 233],
        [0, 158, 115],
        [204, 121, 167],
        [240, 228, 66],
        [213, 94, 0],
    ],
)
scale = (128, 128)

model = dict(
    data_preprocessor=dict(size=scale),
    backbone=dict(
        arch=dict(
            _delete_=True,
            depths=(2, 2, 6, 2),
            dims=(64, 128, 320, 512),
            layer_scale_init=0.01,
        ),
        init_cfg=None,
    ),
    neck=dict(out_channels=128),
    decode_head=dict(
        in_channels=[128, 128, 128, 128],
        channels=64,
        num_classes=len(metainfo['classes']),
    ),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs'),
]
dataset = dict(
    type='BaseSegDataset',
    metainfo=metainfo,
    data_root=data_root,
    img_suffix='.jpg',
    seg_map_suffix='.png',
    reduce_zero_label=True,
)
train_dataloader = dict(num_workers=1, dataset=dict(pipeline=train_pipeline, **dataset))
val_dataloader = dict(
    batch_size=1, num_workers=1, dataset=dict(pipeline=test_pipeline, **dataset)
)
test_dataloader = val_dataloader

# 4 images a step.
train_cfg = dict(max_iters=1000, val_interval=200)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', eta_min=0.0, power=0.9, begin=50, end=1000, by_epoch=False),
]
optim_wrapper = dict(
    optimizer=dict(lr=5e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=10, norm_type=2),
)
auto_scale_lr = dict(base_batch_size=4)
default_hooks = dict(
    logger=dict(interval=20), checkpoint=dict(interval=200, max_keep_ckpts=2)
)
randomness = dict(seed=0)
