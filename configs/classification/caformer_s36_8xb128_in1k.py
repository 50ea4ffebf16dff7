# CAFormer-S36 on ImageNet-1k, 300 epochs.
#   tools/dist_train.sh configs/classification/caformer_s36_8xb128_in1k.py 8
# 8 GPUs x 128 images x 4 accumulated; 39.3 M parameters, 8.00 G MACs.
# Published: top-1 84.5 (arXiv 2210.13452).
_base_ = '_base_/metaformer_baselines.py'

model = dict(backbone=dict(arch='caformer_s36', drop_path_rate=0.3, drop_rate=0.4))
optim_wrapper = dict(optimizer=dict(type='lamb', lr=8e-3))
param_scheduler = dict(warmup_t=20)
