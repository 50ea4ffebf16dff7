# RandFormer-M48 on ImageNet-1k, 300 epochs.
#   tools/dist_train.sh configs/classification/randformer_m48_8xb128_in1k.py 8
# 8 GPUs x 128 images x 4 accumulated; 74.3 M parameters, 11.96 G MACs.
# Published: top-1 81.4 (arXiv 2210.13452).
_base_ = '_base_/metaformer_baselines.py'

model = dict(backbone=dict(arch='randformer_m48', drop_path_rate=0.4))
