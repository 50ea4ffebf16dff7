# CAFormer-M36 on ImageNet-1k, 300 epochs.
#   tools/dist_train.sh configs/classification/caformer_m36_8xb128_in1k.py 8
# 8 GPUs x 128 images x 4 accumulated; 56.2 M parameters, 13.29 G MACs.
# Published: top-1 85.2 (arXiv 2210.13452).
_base_ = '_base_/metaformer_baselines.py'

model = dict(backbone=dict(arch='caformer_m36', drop_path_rate=0.4, drop_rate=0.4))
optim_wrapper = dict(optimizer=dict(type='lamb', lr=8e-3))
param_scheduler = dict(warmup_t=20)
