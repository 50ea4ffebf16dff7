# PoolFormer-S12 on ImageNet-1k, 300 epochs and 10 of cool-down.
#   tools/dist_train.sh configs/classification/poolformer_s12_8xb128_in1k.py 8
# 8 GPUs x 128 images; 11.9 M parameters, 1.82 G MACs.
# Published: top-1 77.2 (arXiv 2111.11418, table 1).
_base_ = '_base_/imagenet.py'

model = dict(
    type='mmpoolformer.ImageClassifier',
    backbone=dict(
        type='mmpoolformer.MetaFormerClassifier',
        arch='poolformer_s12',
        num_classes=1000,
        drop_path_rate=0.1,
    ),
    mixup=dict(mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.5),
    label_smoothing=0.1,
)
# The rate is 1e-3 x (images in a step) / 1024.
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmpoolformer.TimmOptimizer',
    optimizer=dict(type='adamw', lr=1e-3, weight_decay=0.05),
)
auto_scale_lr = dict(base_batch_size=1024)
param_scheduler = dict(
    type='mmpoolformer.CosineLR',
    t_initial=300,
    warmup_t=5,
    warmup_lr_init=1e-6,
    lr_min=1e-5,
    convert_to_iter_based=True,
)
train_cfg = dict(by_epoch=True, max_epochs=310, val_interval=1)
