# IdentityFormer-S24 on ImageNet-1k, 300 epochs.
#   tools/dist_train.sh configs/classification/identityformer_s24_8xb128_in1k.py 8
# 8 GPUs x 128 images x 4 accumulated; 21.3 M parameters, 3.42 G MACs.
# Published: top-1 78.2 (arXiv 2210.13452).
_base_ = '_base_/metaformer_baselines.py'

model = dict(backbone=dict(arch='identityformer_s24', drop_path_rate=0.1))
