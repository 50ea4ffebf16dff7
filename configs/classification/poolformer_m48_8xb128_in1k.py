# PoolFormer-M48 on ImageNet-1k, 300 epochs and 10 of cool-down.
#   tools/dist_train.sh configs/classification/poolformer_m48_8xb128_in1k.py 8
# 8 GPUs x 128 images; 73.5 M parameters, 11.59 G MACs.
# Published: top-1 82.5 (arXiv 2111.11418, table 2).
_base_ = '_base_/poolformer.py'

model = dict(backbone=dict(arch='poolformer_m48', drop_path_rate=0.4))
val_dataloader = dict(dataset=dict(transform=dict(crop_pct=0.95)))
test_dataloader = val_dataloader
