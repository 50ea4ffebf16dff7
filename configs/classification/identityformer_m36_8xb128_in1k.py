# IdentityFormer-M36 on ImageNet-1k, 300 epochs.
#   tools/dist_train.sh configs/classification/identityformer_m36_8xb128_in1k.py 8
# 8 GPUs x 128 images x 4 accumulated; 56.1 M parameters, 8.81 G MACs.
# Published: top-1 80.0 (arXiv 2210.13452).
_base_ = '_base_/metaformer_baselines.py'

model = dict(backbone=dict(arch='identityformer_m36', drop_path_rate=0.3))
