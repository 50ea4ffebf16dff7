# Mask R-CNN with a PoolFormer-S12 on COCO, 12 epochs.
#   tools/dist_train.sh configs/detection/mask_rcnn_poolformer_s12_fpn_1x_coco.py 8
# 8 GPUs x 2 images; 31.6 M parameters.
# Published: box AP 37.3, mask AP 34.6 (arXiv 2111.11418, table 3).
_base_ = '_base_/mask_rcnn_1x_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpoolformer.PoolFormer',
        arch='s12',
        init_cfg=dict(type='Pretrained', checkpoint='zoo://poolformer_s12'),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
