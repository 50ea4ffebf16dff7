# ConvFormer-S18 on ImageNet-1k, 30 epochs of fine-tuning at 384 x 384.
#   tools/dist_train.sh configs/classification/convformer_s18_8xb128_in1k-384px.py 8
# 8 GPUs x 128 images; 26.8 M parameters, 11.63 G MACs.
# Published: top-1 84.4 (arXiv 2210.13452).
_base_ = '_base_/finetune_384.py'

model = dict(
    backbone=dict(
        arch='convformer_s18',
        drop_path_rate=0.3,
        drop_rate=0.4,
        init_cfg=dict(checkpoint='zoo://convformer_s18'),
    )
)
