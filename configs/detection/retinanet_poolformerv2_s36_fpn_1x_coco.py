# RetinaNet with a PoolFormerV2-S36 on COCO, 12 epochs.
#   tools/dist_train.sh configs/detection/retinanet_poolformerv2_s36_fpn_1x_coco.py 8
# 8 GPUs x 2 images; 40.5 M parameters.
# No result is published; the recipe is PoolFormer's.
_base_ = 'retinanet_poolformer_s12_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        type='mmpoolformer.PoolFormerV2',
        arch='s36',
        init_cfg=dict(checkpoint='zoo://poolformerv2_s36'),
    )
)
