# Mask R-CNN with a RandFormer-S12 on COCO, 12 epochs.
#   tools/dist_train.sh configs/detection/mask_rcnn_randformer_s12_fpn_1x_coco.py 8
# 8 GPUs x 2 images; 31.8 M parameters.
# No result is published; the recipe is PoolFormer's.
_base_ = 'mask_rcnn_poolformer_s12_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        type='mmpoolformer.RandFormer',
        arch='s12',
        init_cfg=dict(checkpoint='zoo://randformer_s12'),
    )
)
