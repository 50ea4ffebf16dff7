# Semantic FPN with a PoolFormer-S12 on an ADE20K-layout folder of your own:
#   DATA_ROOT=data/mine tools/dist_train.sh \
#       configs/segmentation/fpn_poolformer_s12_folder_40k.py 1
# Expected: data/mine/{images,annotations}/{training,validation}, pictures ending on
# .jpg [IMG_SUFFIX], annotations .png of the same name, and data/mine/classes.txt (one
# name a line; line k is value k, 0 is not labelled) or classes.json.
# Same schedule as on ADE20K; a shorter one needs both
#   --cfg-options train_cfg.max_iters=4000 param_scheduler.0.end=4000
# The learning rate is for 32 images a step, so on one GPU add --auto-scale-lr. No
# result is published for your data.
_base_ = 'fpn_poolformer_s12_ade20k_40k.py'

from mmpoolformer.data.class_names import seg_classes

data_root = '{{$DATA_ROOT:data/mine}}'
img_suffix = '{{$IMG_SUFFIX:.jpg}}'
_classes = seg_classes(data_root)
metainfo = dict(classes=_classes.names, palette=_classes.palette)
load_labels = [
    dict(type='LoadAnnotations'),
    dict(type='mmpoolformer.MapLabels', ids=_classes.ids, ignored=_classes.ignored),
]
del _classes

model = dict(decode_head=dict(num_classes=len(metainfo['classes'])))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    *load_labels,
    dict(
        type='RandomResize',
        scale=(2048, 512),
        ratio_range=(0.5, 2.0),
        keep_ratio=True,
    ),
    dict(type='RandomCrop', crop_size=(512, 512), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
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
    dataset=dict(
        type='mmpoolformer.SegFolderDataset',
        metainfo=metainfo,
        data_root=data_root,
        img_suffix=img_suffix,
        reduce_zero_label=False,
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(
        type='mmpoolformer.SegFolderDataset',
        metainfo=metainfo,
        data_root=data_root,
        img_suffix=img_suffix,
        reduce_zero_label=False,
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
