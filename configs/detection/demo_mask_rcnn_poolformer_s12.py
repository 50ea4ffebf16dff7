# Mask R-CNN with a PoolFormer-S12 from scratch on generated pictures.
#   python tools/make_demo_data.py
#   python tools/train.py configs/detection/demo_mask_rcnn_poolformer_s12.py
# Pictures of 128 x 128, half the channels after the backbone, fewer proposals: minutes
# on two CPU cores. Small layer scales as in demo_retinanet_poolformer_s12.py.
# No result is published.
_base_ = 'mask_rcnn_poolformer_s12_fpn_1x_coco.py'

data_root = 'data/demo/detection/'
metainfo = dict(classes=('circle', 'square', 'triangle', 'star', 'cross', 'ring'))
scale = (128, 128)

num_classes = len(metainfo['classes'])
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
    neck=dict(out_channels=128, norm_cfg=norm_cfg),
    # Half the picture's side, half the anchors' side.
    rpn_head=dict(
        in_channels=128, feat_channels=128, anchor_generator=dict(scales=[4])
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=128),
        bbox_head=dict(in_channels=128, fc_out_channels=256, num_classes=num_classes),
        mask_roi_extractor=dict(out_channels=128),
        mask_head=dict(
            num_convs=2,
            in_channels=128,
            conv_out_channels=128,
            num_classes=num_classes,
        ),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=128)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
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

# 400 scenes, 5 epochs of 200 steps.
train_cfg = dict(max_epochs=5)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR',
        begin=0,
        end=5,
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
