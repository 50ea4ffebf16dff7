# CAFormer-B36 on ImageNet-1k, 300 epochs.
#   tools/dist_train.sh configs/classification/caformer_b36_8xb128_in1k.py 8
# 8 GPUs x 128 images x 4 accumulated; 98.8 M parameters, 23.22 G MACs.
# Published: top-1 85.5 (arXiv 2210.13452).
_base_ = '_base_/metaformer_baselines.py'

model = dict(backbone=dict(arch='caformer_b36', drop_path_rate=0.6, drop_rate=0.5))
optim_wrapper = dict(optimizer=dict(type='lamb', lr=8e-3))
param_scheduler = dict(warmup_t=20)
