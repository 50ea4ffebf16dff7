# ConvFormer-M36 on ImageNet-1k, 300 epochs.
#   tools/dist_train.sh configs/classification/convformer_m36_8xb128_in1k.py 8
# 8 GPUs x 128 images x 4 accumulated; 57.1 M parameters, 12.89 G MACs.
# Published: top-1 84.5 (arXiv 2210.13452).
_base_ = '_base_/metaformer_baselines.py'

model = dict(backbone=dict(arch='convformer_m36', drop_path_rate=0.4))
param_scheduler = dict(warmup_t=20)
