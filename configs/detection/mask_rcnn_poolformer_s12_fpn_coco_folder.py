# Mask R-CNN with a PoolFormer-S12 on a COCO-format folder of your own with masks:
#   DATA_ROOT=data/mine tools/dist_train.sh \
#       configs/detection/mask_rcnn_poolformer_s12_fpn_coco_folder.py 1
# Layout, variables and learning rate: as in retinanet_poolformer_s12_fpn_coco_folder.
# No result is published for your data.
_base_ = 'mask_rcnn_poolformer_s12_fpn_1x_coco.py'

from mmpoolformer.data.class_names import coco_classes

data_root = '{{$DATA_ROOT:data/mine}}/'
train_ann = '{{$TRAIN_ANN:annotations/train.json}}'
val_ann = '{{$VAL_ANN:annotations/val.json}}'
metainfo = dict(classes=coco_classes(data_root + train_ann, data_root + val_ann))

num_classes = len(metainfo['classes'])
model = dict(
    roi_head=dict(
        bbox_head=dict(num_classes=num_classes),
        mask_head=dict(num_classes=num_classes),
    )
)

train_dataloader = dict(
    dataset=dict(
        type='mmpoolformer.CocoFolderDataset',
        metainfo=metainfo,
        data_root=data_root,
        ann_file=train_ann,
        data_prefix=dict(img='{{$TRAIN_IMAGES:images}}/'),
    )
)
val_dataloader = dict(
    dataset=dict(
        type='mmpoolformer.CocoFolderDataset',
        metainfo=metainfo,
        data_root=data_root,
        ann_file=val_ann,
        data_prefix=dict(img='{{$VAL_IMAGES:images}}/'),
    )
)
test_dataloader = val_dataloader

val_evaluator = dict(ann_file=data_root + val_ann)
test_evaluator = val_evaluator
