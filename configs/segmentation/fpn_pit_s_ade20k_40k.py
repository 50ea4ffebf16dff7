# Semantic FPN with a PiT-S on ADE20K, 40k iterations.
#   tools/dist_train.sh configs/segmentation/fpn_pit_s_ade20k_40k.py 8
# 8 GPUs x 4 images; 26.0 M parameters.
# No result is published; the recipe is PoolFormer's.
_base_ = 'fpn_poolformer_s12_ade20k_40k.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpoolformer.PiT',
        arch='s',
        init_cfg=dict(type='Pretrained', checkpoint='zoo://pit_s'),
    ),
    neck=dict(in_channels=[144, 288, 576], num_outs=3),
    # PiT has no map at stride 4.
    decode_head=dict(
        in_channels=[256, 256, 256], in_index=[0, 1, 2], feature_strides=[8, 16, 32]
    ),
)
