# PoolFormer-S12 from scratch on the generated pictures: `make pretrain-demo`.
#   python tools/make_demo_data.py
#   python tools/train.py configs/classification/demo_poolformer_s12.py
# Minutes on two CPU cores: pictures of 64 x 64, without mixing. The backbone is that of
# detection/demo_retinanet_poolformer_s12.py, which can start from its checkpoint.
# No result is published; the README says what was measured.
_base_ = '_base_/poolformer.py'

model = dict(
    backbone=dict(
        arch=dict(
            depths=(2, 2, 6, 2),
            dims=(64, 128, 320, 512),
            layer_scale_init=0.01,
        ),
        num_classes=6,
    ),
    mixup=None,
)
data_root = 'data/demo/classification'
train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    dataset=dict(
        root=data_root,
        transform=dict(
            _delete_=True, input_size=64, is_training=True, scale=(0.5, 1.0)
        ),
    ),
)
val_dataloader = dict(
    batch_size=50,
    num_workers=1,
    dataset=dict(root=data_root, transform=dict(input_size=64, crop_pct=1.0)),
)
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=5e-4))
auto_scale_lr = dict(base_batch_size=16)
param_scheduler = dict(t_initial=5, warmup_t=1)
train_cfg = dict(max_epochs=5)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(max_keep_ckpts=1))
randomness = dict(seed=0)
