# Semantic FPN with a IdentityFormer-S12 on ADE20K, 40k iterations.
#   tools/dist_train.sh configs/segmentation/fpn_identityformer_s12_ade20k_40k.py 8
# 8 GPUs x 4 images; 15.6 M parameters.
# No result is published; the recipe is PoolFormer's.
_base_ = 'fpn_poolformer_s12_ade20k_40k.py'

model = dict(
    backbone=dict(
        type='mmpoolformer.IdentityFormer',
        arch='s12',
        init_cfg=dict(checkpoint='zoo://identityformer_s12'),
    )
)
