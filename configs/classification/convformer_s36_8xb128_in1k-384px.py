# ConvFormer-S36 on ImageNet-1k, 30 epochs of fine-tuning at 384 x 384.
#   tools/dist_train.sh configs/classification/convformer_s36_8xb128_in1k-384px.py 8
# 8 GPUs x 128 images; 40.0 M parameters, 22.54 G MACs.
# Published: top-1 85.4 (arXiv 2210.13452).
_base_ = '_base_/finetune_384.py'

model = dict(
    backbone=dict(
        arch='convformer_s36',
        drop_path_rate=0.5,
        drop_rate=0.4,
        init_cfg=dict(checkpoint='zoo://convformer_s36'),
    )
)
