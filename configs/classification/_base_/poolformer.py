# PoolFormer's recipe for ImageNet-1k (arXiv 2111.11418): 300 epochs and 10 at the least
# rate, 1024 images a step. A config that inherits it gives `model.backbone.arch` and
# `drop_path_rate`.
_base_ = 'imagenet.py'

model = dict(
    type='mmpoolformer.ImageClassifier',
    backbone=dict(type='mmpoolformer.MetaFormerClassifier', num_classes=1000),
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
