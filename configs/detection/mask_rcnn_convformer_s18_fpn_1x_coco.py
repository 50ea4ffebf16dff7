# Mask R-CNN with a ConvFormer-S18 on COCO, 12 epochs.
#   tools/dist_train.sh configs/detection/mask_rcnn_convformer_s18_fpn_1x_coco.py 8
# 8 GPUs x 2 images; 43.8 M parameters.
# No result is published; the recipe is PoolFormer's.
_base_ = 'mask_rcnn_poolformer_s12_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        type='mmpoolformer.ConvFormer',
        arch='s18',
        init_cfg=dict(checkpoint='zoo://convformer_s18'),
    )
)
