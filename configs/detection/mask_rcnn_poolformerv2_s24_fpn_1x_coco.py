# Mask R-CNN with a PoolFormerV2-S24 on COCO, 12 epochs.
#   tools/dist_train.sh configs/detection/mask_rcnn_poolformerv2_s24_fpn_1x_coco.py 8
# 8 GPUs x 2 images; 41.0 M parameters.
# No result is published; the recipe is PoolFormer's.
_base_ = 'mask_rcnn_poolformer_s12_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        type='mmpoolformer.PoolFormerV2',
        arch='s24',
        init_cfg=dict(checkpoint='zoo://poolformerv2_s24'),
    )
)
