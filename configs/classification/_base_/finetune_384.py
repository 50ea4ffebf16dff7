# Fine-tuning of ConvFormer and CAFormer at 384 x 384 (arXiv 2210.13452): 30 epochs of
# 1024 images a step at a constant rate, no mixing, averaged weights.
_base_ = 'metaformer_baselines.py'

model = dict(
    mixup=None,
    backbone=dict(init_cfg=dict(type='Pretrained')),
)
optim_wrapper = dict(optimizer=dict(lr=5e-5), accumulative_counts=1)
auto_scale_lr = dict(base_batch_size=1024)
param_scheduler = None
train_cfg = dict(max_epochs=30)
custom_hooks = [
    dict(
        type='EMAHook',
        ema_type='ExponentialMovingAverage',
        momentum=1e-4,
        update_buffers=True,
    )
]
train_dataloader = dict(dataset=dict(transform=dict(input_size=384)))
val_dataloader = dict(dataset=dict(transform=dict(input_size=384)))
test_dataloader = val_dataloader
