# Semantic FPN with a RandFormer-S12 on ADE20K, 40k iterations.
#   tools/dist_train.sh configs/segmentation/fpn_randformer_s12_ade20k_40k.py 8
# 8 GPUs x 4 images; 15.9 M parameters.
# No result is published; the recipe is PoolFormer's.
_base_ = 'fpn_poolformer_s12_ade20k_40k.py'

model = dict(
    backbone=dict(
        type='mmpoolformer.RandFormer',
        arch='s12',
        init_cfg=dict(checkpoint='zoo://randformer_s12'),
    )
)
