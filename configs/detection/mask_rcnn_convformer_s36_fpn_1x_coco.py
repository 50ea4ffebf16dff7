# Mask R-CNN with a ConvFormer-S36 on COCO, 12 epochs.
#   tools/dist_train.sh configs/detection/mask_rcnn_convformer_s36_fpn_1x_coco.py 8
# 8 GPUs x 2 images; 57.1 M parameters.
# No result is published; the recipe is PoolFormer's.
_base_ = 'mask_rcnn_poolformer_s12_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        type='mmpoolformer.ConvFormer',
        arch='s36',
        init_cfg=dict(checkpoint='zoo://convformer_s36'),
    )
)
