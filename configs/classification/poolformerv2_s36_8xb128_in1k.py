# PoolFormerV2-S36 on ImageNet-1k, 300 epochs.
#   tools/dist_train.sh configs/classification/poolformerv2_s36_8xb128_in1k.py 8
# 8 GPUs x 128 images x 4 accumulated; 30.8 M parameters, 5.01 G MACs.
# Published: top-1 81.6 (arXiv 2210.13452).
_base_ = '_base_/metaformer_baselines.py'

model = dict(backbone=dict(arch='poolformerv2_s36', drop_path_rate=0.2))
