# CAFormer-S18 on ImageNet-1k, 300 epochs.
#   tools/dist_train.sh configs/classification/caformer_s18_8xb128_in1k.py 8
# 8 GPUs x 128 images x 4 accumulated; 26.3 M parameters, 4.13 G MACs.
# Published: top-1 83.6 (arXiv 2210.13452).
_base_ = '_base_/metaformer_baselines.py'

model = dict(backbone=dict(arch='caformer_s18', drop_path_rate=0.15))
optim_wrapper = dict(optimizer=dict(type='lamb', lr=8e-3))
param_scheduler = dict(warmup_t=20)
