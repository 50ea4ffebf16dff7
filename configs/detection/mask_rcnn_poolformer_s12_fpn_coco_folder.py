# Mask R-CNN with a PoolFormer-S12 on a COCO-format folder of your own with masks:
#   DATA_ROOT=data/mine tools/dist_train.sh \
#       configs/detection/mask_rcnn_poolformer_s12_fpn_coco_folder.py 1
# Layout, variables, schedule and scale: as in retinanet_poolformer_s12_fpn_coco_folder.
# No result is published for your data.
_base_ = 'retinanet_poolformer_s12_fpn_coco_folder.py'

from mmengine.config import Config

_model = Config.fromfile(
    '{{fileDirname}}/mask_rcnn_poolformer_s12_fpn_1x_coco.py'
).model
for _head in ('bbox_head', 'mask_head'):
    _model.roi_head[_head].num_classes = len(_base_.metainfo['classes'])
model = dict(_delete_=True, **_model)

train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline
train_pipeline[1].with_mask = test_pipeline[2].with_mask = True
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

val_evaluator = dict(metric=['bbox', 'segm'])
test_evaluator = val_evaluator
del Config, _head, _model
