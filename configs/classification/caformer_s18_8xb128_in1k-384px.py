# CAFormer-S18 on ImageNet-1k, 30 epochs of fine-tuning at 384 x 384.
#   tools/dist_train.sh configs/classification/caformer_s18_8xb128_in1k-384px.py 8
# 8 GPUs x 128 images; 26.3 M parameters, 13.42 G MACs.
# Published: top-1 85.0 (arXiv 2210.13452).
_base_ = '_base_/finetune_384.py'

model = dict(
    backbone=dict(
        arch='caformer_s18',
        drop_path_rate=0.3,
        drop_rate=0.4,
        init_cfg=dict(checkpoint='zoo://caformer_s18'),
    )
)
optim_wrapper = dict(optimizer=dict(type='lamb', lr=1e-4))
