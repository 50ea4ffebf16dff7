# Semantic FPN with a PoolFormer-S24 on ADE20K, 40k iterations.
#   tools/dist_train.sh configs/segmentation/fpn_poolformer_s24_ade20k_40k.py 8
# 8 GPUs x 4 images; 25.1 M parameters. The paper prints 23.2 M.
# Published: mIoU 40.3 (arXiv 2111.11418, table 4).
_base_ = 'fpn_poolformer_s12_ade20k_40k.py'

model = dict(
    backbone=dict(arch='s24', init_cfg=dict(checkpoint='zoo://poolformer_s24'))
)
