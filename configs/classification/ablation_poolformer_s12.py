# The paper's ablation of PoolFormer-S12 (arXiv 2111.11418, table 5): the row as it is
# published. `tools/ablate.py` changes `model.backbone.arch` for the other rows.
#   tools/dist_train.sh configs/classification/ablation_poolformer_s12.py 8 \
#       --cfg-options model.backbone.arch.pool_size=5
# 8 GPUs x 128 images; 11.9 M parameters, 1.82 G MACs.
# Published: top-1 77.2; the other rows are in mmpoolformer/apps/ablation.py.
_base_ = '_base_/poolformer.py'

model = dict(backbone=dict(arch=dict(base='poolformer_s12'), drop_path_rate=0.1))
