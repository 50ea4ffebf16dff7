# Semantic FPN with a PoolFormer-S12 on ADE20K, 40k iterations.
#   tools/dist_train.sh configs/segmentation/fpn_poolformer_s12_ade20k_40k.py 8
# 8 GPUs x 4 images; 15.7 M parameters.
# Published: mIoU 37.2 (arXiv 2111.11418, table 4).
_base_ = '_base_/fpn_ade20k_40k.py'

model = dict(
    backbone=dict(
        type='mmpoolformer.PoolFormer',
        arch='s12',
        init_cfg=dict(type='Pretrained', checkpoint='zoo://poolformer_s12'),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
