# Semantic FPN with a PoolFormer-M48 on ADE20K, 40k iterations.
#   tools/dist_train.sh configs/segmentation/fpn_poolformer_m48_ade20k_40k.py 8
# 8 GPUs x 4 images; 77.1 M parameters.
# Published: mIoU 42.7 (arXiv 2111.11418, table 4).
_base_ = 'fpn_poolformer_m36_ade20k_40k.py'

model = dict(
    backbone=dict(arch='m48', init_cfg=dict(checkpoint='zoo://poolformer_m48'))
)
