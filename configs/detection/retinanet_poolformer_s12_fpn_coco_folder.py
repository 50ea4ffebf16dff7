# RetinaNet with a PoolFormer-S12 on a COCO-format folder of your own:
#   DATA_ROOT=data/mine tools/dist_train.sh \
#       configs/detection/retinanet_poolformer_s12_fpn_coco_folder.py 1
# Class names and their number come from the annotation file. Expected layout, each
# part to be changed by the variable in brackets:
#   data/mine/annotations/train.json  [TRAIN_ANN]    data/mine/images  [TRAIN_IMAGES]
#   data/mine/annotations/val.json    [VAL_ANN]      data/mine/images  [VAL_IMAGES]
# (or images/train, train/images, train and the like). What fits one GPU, or a CPU, is
# derived from the training file:
#   batch    of 2, 4 and 8 the largest that leaves 1,000 steps in 12 epochs
#   epochs   12, or as many as 1,000 steps take, at most 300
#   warm-up  100 steps, at most one epoch; then a cosine to 0
#   scale    the pictures' usual (median) sides, at most 1333 x 800; --size H W: another
# 205 pictures of 640 x 480: 2 a step, 12 epochs of 103 steps, at 640 x 480. The
# learning rate is for this batch on one GPU. No result is published for your data.
_base_ = 'retinanet_poolformer_s12_fpn_1x_coco.py'

from mmpoolformer.data.class_names import coco_classes
from mmpoolformer.data.own_folder import coco_folder, coco_pictures, fit_schedule

data_root = '{{$DATA_ROOT:data/mine}}/'
train_ann = '{{$TRAIN_ANN:annotations/train.json}}'
val_ann = '{{$VAL_ANN:annotations/val.json}}'
metainfo = dict(classes=coco_classes(data_root + train_ann, data_root + val_ann))
_count, scale = coco_pictures(data_root + train_ann)
_fitted = fit_schedule(_count, epochs=12, batch_sizes=(2, 4, 8))
_epochs = _fitted.epochs

model = dict(bbox_head=dict(num_classes=len(metainfo['classes'])))

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
_folders = [
    coco_folder(data_root, train_ann, '{{$TRAIN_IMAGES:images}}', 'train'),
    coco_folder(data_root, val_ann, '{{$VAL_IMAGES:images}}', 'val'),
]
train_dataloader = dict(
    batch_size=_fitted.batch_size,
    dataset=dict(
        type='mmpoolformer.CocoFolderDataset',
        metainfo=metainfo,
        data_root=data_root,
        ann_file=train_ann,
        data_prefix=dict(img=_folders[0]),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type='mmpoolformer.CocoFolderDataset',
        metainfo=metainfo,
        data_root=data_root,
        ann_file=val_ann,
        data_prefix=dict(img=_folders[1]),
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader

val_evaluator = dict(ann_file=data_root + val_ann)
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=_epochs, val_interval=_fitted.interval)
param_scheduler = [
    dict(
        type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=_fitted.warmup
    ),
    dict(
        type='CosineAnnealingLR',
        begin=0,
        end=_epochs,
        T_max=_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
optim_wrapper = dict(
    optimizer=dict(lr=2e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=10, norm_type=2),
)
auto_scale_lr = dict(base_batch_size=_fitted.batch_size)
del _count, _epochs, _fitted, _folders
