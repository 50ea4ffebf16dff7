# Semantic FPN with a PoolFormerV2-S24 on ADE20K, 40k iterations.
#   tools/dist_train.sh configs/segmentation/fpn_poolformerv2_s24_ade20k_40k.py 8
# 8 GPUs x 4 images; 25.1 M parameters.
# No result is published; the recipe is PoolFormer's.
_base_ = 'fpn_poolformer_s12_ade20k_40k.py'

model = dict(
    backbone=dict(
        type='mmpoolformer.PoolFormerV2',
        arch='s24',
        init_cfg=dict(checkpoint='zoo://poolformerv2_s24'),
    )
)
