# PoolFormer-M36 on ImageNet-1k, 300 epochs and 10 of cool-down.
#   tools/dist_train.sh configs/classification/poolformer_m36_8xb128_in1k.py 8
# 8 GPUs x 128 images; 56.2 M parameters, 8.80 G MACs.
# Published: top-1 82.1 (arXiv 2111.11418, table 2).
_base_ = '_base_/poolformer.py'

model = dict(backbone=dict(arch='poolformer_m36', drop_path_rate=0.3))
val_dataloader = dict(dataset=dict(transform=dict(crop_pct=0.95)))
test_dataloader = val_dataloader
