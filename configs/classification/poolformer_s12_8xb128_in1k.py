# PoolFormer-S12 on ImageNet-1k, 300 epochs and 10 of cool-down.
#   tools/dist_train.sh configs/classification/poolformer_s12_8xb128_in1k.py 8
# 8 GPUs x 128 images; 11.9 M parameters, 1.82 G MACs.
# Published: top-1 77.2 (arXiv 2111.11418, table 2).
_base_ = '_base_/poolformer.py'

model = dict(backbone=dict(arch='poolformer_s12', drop_path_rate=0.1))
