# RetinaNet with a PiT-S on COCO, 12 epochs.
#   tools/dist_train.sh configs/detection/retinanet_pit_s_fpn_1x_coco.py 8
# 8 GPUs x 2 images; 33.3 M parameters.
# No result is published; the recipe is PoolFormer's.
_base_ = 'retinanet_poolformer_s12_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpoolformer.PiT',
        arch='s',
        init_cfg=dict(type='Pretrained', checkpoint='zoo://pit_s'),
    ),
    neck=dict(in_channels=[144, 288, 576]),
)
