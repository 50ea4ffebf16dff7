# Semantic FPN with a PoolFormer-S36 on ADE20K, 40k iterations.
#   tools/dist_train.sh configs/segmentation/fpn_poolformer_s36_ade20k_40k.py 8
# 8 GPUs x 4 images; 34.6 M parameters.
# Published: mIoU 42.0 (arXiv 2111.11418, table 4).
_base_ = 'fpn_poolformer_s12_ade20k_40k.py'

model = dict(
    backbone=dict(arch='s36', init_cfg=dict(checkpoint='zoo://poolformer_s36'))
)
