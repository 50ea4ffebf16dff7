# RetinaNet with a CAFormer-S18 on COCO, 12 epochs.
#   tools/dist_train.sh configs/detection/retinanet_caformer_s18_fpn_1x_coco.py 8
# 8 GPUs x 2 images; 33.5 M parameters.
# No result is published; the recipe is PoolFormer's.
_base_ = 'retinanet_poolformer_s12_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        type='mmpoolformer.CAFormer',
        arch='s18',
        init_cfg=dict(checkpoint='zoo://caformer_s18'),
    )
)
