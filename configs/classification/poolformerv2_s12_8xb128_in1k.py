# PoolFormerV2-S12 on ImageNet-1k, 300 epochs.
#   tools/dist_train.sh configs/classification/poolformerv2_s12_8xb128_in1k.py 8
# 8 GPUs x 128 images x 4 accumulated; 11.9 M parameters, 1.83 G MACs.
# Published: top-1 78.0 (arXiv 2210.13452).
_base_ = '_base_/metaformer_baselines.py'

model = dict(backbone=dict(arch='poolformerv2_s12', drop_path_rate=0.1))
