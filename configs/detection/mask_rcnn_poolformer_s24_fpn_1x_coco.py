# Mask R-CNN with a PoolFormer-S24 on COCO, 12 epochs.
#   tools/dist_train.sh configs/detection/mask_rcnn_poolformer_s24_fpn_1x_coco.py 8
# 8 GPUs x 2 images; 41.0 M parameters.
# Published: box AP 40.1, mask AP 37.0 (arXiv 2111.11418, table 3).
_base_ = 'mask_rcnn_poolformer_s12_fpn_1x_coco.py'

model = dict(
    backbone=dict(arch='s24', init_cfg=dict(checkpoint='zoo://poolformer_s24'))
)
