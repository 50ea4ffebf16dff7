# RetinaNet with a PoolFormer-S12 on COCO, 12 epochs.
#   tools/dist_train.sh configs/detection/retinanet_poolformer_s12_fpn_1x_coco.py 8
# 8 GPUs x 2 images; 21.7 M parameters.
# Published: box AP 36.2 (arXiv 2111.11418, table 3).
_base_ = '_base_/retinanet_1x_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpoolformer.PoolFormer',
        arch='s12',
        out_indices=(1, 2, 3),
        init_cfg=dict(type='Pretrained', checkpoint='zoo://poolformer_s12'),
    ),
    neck=dict(in_channels=[128, 320, 512]),
)
