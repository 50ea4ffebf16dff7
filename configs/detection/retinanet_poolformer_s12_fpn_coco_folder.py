# RetinaNet with a PoolFormer-S12 on a COCO-format folder of your own:
#   DATA_ROOT=data/mine tools/dist_train.sh \
#       configs/detection/retinanet_poolformer_s12_fpn_coco_folder.py 1
# Class names and their number come from the annotation file. Expected layout, each
# part to be changed by the variable in brackets:
#   data/mine/annotations/train.json  [TRAIN_ANN]    data/mine/images  [TRAIN_IMAGES]
#   data/mine/annotations/val.json    [VAL_ANN]      data/mine/images  [VAL_IMAGES]
# Same schedule as on COCO; the learning rate is for 16 images a step, so on one GPU
# add --auto-scale-lr. No result is published for your data.
_base_ = 'retinanet_poolformer_s12_fpn_1x_coco.py'

from mmpoolformer.data.class_names import coco_classes

data_root = '{{$DATA_ROOT:data/mine}}/'
train_ann = '{{$TRAIN_ANN:annotations/train.json}}'
val_ann = '{{$VAL_ANN:annotations/val.json}}'
metainfo = dict(classes=coco_classes(data_root + train_ann, data_root + val_ann))

model = dict(bbox_head=dict(num_classes=len(metainfo['classes'])))

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
