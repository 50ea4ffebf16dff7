# Semantic FPN with a ConvFormer-S36 on ADE20K, 40k iterations.
#   tools/dist_train.sh configs/segmentation/fpn_convformer_s36_ade20k_40k.py 8
# 8 GPUs x 4 images; 41.2 M parameters.
# No result is published; the recipe is PoolFormer's.
_base_ = 'fpn_poolformer_s12_ade20k_40k.py'

model = dict(
    backbone=dict(
        type='mmpoolformer.ConvFormer',
        arch='s36',
        init_cfg=dict(checkpoint='zoo://convformer_s36'),
    )
)
