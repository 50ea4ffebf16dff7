# RetinaNet with a PoolFormer-S12 from scratch on generated pictures: `make quickstart`.
#   python tools/make_demo_data.py
#   python tools/train.py configs/detection/demo_retinanet_poolformer_s12.py
# Minutes on two CPU cores: pictures of 128 x 128, a head of half the width and depth.
# Many small steps and small layer scales are what learns in so short a time.
# No result is published; the README says what was measured.
_base_ = 'retinanet_poolformer_s12_fpn_1x_coco.py'

data_root = 'data/demo/detection/'
metainfo = dict(classes=('circle', 'square', 'triangle', 'star', 'cross', 'ring'))
scale = (128, 128)

norm_cfg = dict(type='GN', num_groups=16)
model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True,
            depths=(2, 2, 6, 2),
            dims=(64, 128, 320, 512),
            layer_scale_init=0.01,
        ),
        init_cfg=None,
    ),
    neck=dict(out_channels=128, num_outs=4, norm_cfg=norm_cfg),
    bbox_head=dict(
        num_classes=len(metainfo['classes']),
        in_channels=128,
        feat_channels=128,
        stacked_convs=2,
        norm_cfg=norm_cfg,
        anchor_generator=dict(
            octave_base_scale=2, ratios=[1.0], strides=[8, 16, 32, 64]
        ),
    ),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=1,
    dataset=dict(
        metainfo=metainfo,
        data_root=data_root,
        ann_file='annotations/train.json',
        data_prefix=dict(img='images/train/'),
        filter_cfg=dict(min_size=0),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=10,
    num_workers=1,
    dataset=dict(
        metainfo=metainfo,
        data_root=data_root,
        ann_file='annotations/val.json',
        data_prefix=dict(img='images/val/'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator

# 400 scenes, 4 epochs of 200 steps.
train_cfg = dict(max_epochs=4)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR',
        begin=0,
        end=4,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
optim_wrapper = dict(
    optimizer=dict(lr=5e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=10, norm_type=2),
)
auto_scale_lr = dict(base_batch_size=2)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(max_keep_ckpts=2))
log_processor = dict(window_size=20)
randomness = dict(seed=0)
