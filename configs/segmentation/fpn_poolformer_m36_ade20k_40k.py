# Semantic FPN with a PoolFormer-M36 on ADE20K, 40k iterations.
#   tools/dist_train.sh configs/segmentation/fpn_poolformer_m36_ade20k_40k.py 8
# 8 GPUs x 4 images; 59.8 M parameters.
# Published: mIoU 42.4 (arXiv 2111.11418, table 4).
_base_ = 'fpn_poolformer_s12_ade20k_40k.py'

model = dict(
    backbone=dict(arch='m36', init_cfg=dict(checkpoint='zoo://poolformer_m36')),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
