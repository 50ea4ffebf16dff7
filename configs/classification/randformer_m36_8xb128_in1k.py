# RandFormer-M36 on ImageNet-1k, 300 epochs.
#   tools/dist_train.sh configs/classification/randformer_m36_8xb128_in1k.py 8
# 8 GPUs x 128 images x 4 accumulated; 56.8 M parameters, 9.08 G MACs.
# Published: top-1 81.2 (arXiv 2210.13452).
_base_ = '_base_/metaformer_baselines.py'

model = dict(backbone=dict(arch='randformer_m36', drop_path_rate=0.3))
