# ConvFormer-S36 on ImageNet-1k, 300 epochs.
#   tools/dist_train.sh configs/classification/convformer_s36_8xb128_in1k.py 8
# 8 GPUs x 128 images x 4 accumulated; 40.0 M parameters, 7.67 G MACs.
# Published: top-1 84.1 (arXiv 2210.13452).
_base_ = '_base_/metaformer_baselines.py'

model = dict(backbone=dict(arch='convformer_s36', drop_path_rate=0.3))
param_scheduler = dict(warmup_t=20)
