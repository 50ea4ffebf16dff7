# RandFormer-S12 on ImageNet-1k, 300 epochs.
#   tools/dist_train.sh configs/classification/randformer_s12_8xb128_in1k.py 8
# 8 GPUs x 128 images x 4 accumulated; 12.1 M parameters, 1.90 G MACs.
# Published: top-1 76.6 (arXiv 2210.13452).
_base_ = '_base_/metaformer_baselines.py'

model = dict(backbone=dict(arch='randformer_s12', drop_path_rate=0.1))
