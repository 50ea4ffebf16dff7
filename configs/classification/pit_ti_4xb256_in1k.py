# PiT-Ti on ImageNet-1k, 300 epochs and 10 of cool-down.
#   tools/dist_train.sh configs/classification/pit_ti_4xb256_in1k.py 4
# 4 GPUs x 256 images; 4.8 M parameters, 0.70 G MACs.
# Published: top-1 73.0 (arXiv 2103.16302); 74.6 with a teacher:
#   --cfg-options model.backbone.name=pit_ti_distilled \
#       model.distillation="{'teacher':'regnety_160','kind':'hard'}"
# Hard or soft distillation with alpha 0.5 and tau 1; timm's RegNetY-160 is downloaded.
_base_ = '_base_/poolformer.py'

model = dict(
    backbone=dict(_delete_=True, name='pit_ti', num_classes=1000, drop_path_rate=0.1),
    distillation=None,
)
# The rate is 5e-4 x (images in a step) / 1024.
optim_wrapper = dict(optimizer=dict(lr=5e-4), clip_grad=dict(max_norm=5.0, norm_type=2))
param_scheduler = dict(warmup_t=20, warmup_lr_init=5e-7, lr_min=5e-6)
train_dataloader = dict(batch_size=256)
custom_hooks = [
    dict(
        type='EMAHook',
        ema_type='ExponentialMovingAverage',
        momentum=4e-5,
        update_buffers=True,
    )
]
