# PoolFormer-S12 on an image folder of your own:
#   DATA_ROOT=data/mine tools/dist_train.sh \
#       configs/classification/poolformer_s12_folder.py 1
# Expected: data/mine/{train,val}/CLASS/*.jpg; classes are the folders of train. Starts
# from ImageNet weights, with a new last layer. What fits one GPU, or a CPU, is derived
# from the training pictures:
#   batch    of 16, 32, 64 and 128 the largest that leaves 1,000 steps in 30 epochs
#   epochs   30, or as many as 1,000 steps take, at most 300; the first one is warm-up
#   side     the usual (median) shorter one, in steps of 32, from 64 to 224; --size:
#            another
# 1,000 pictures of 300 x 400: 16 a step, 30 epochs of 62 steps, at 224 x 224. The
# learning rate is for this batch on one GPU; there is less augmentation than on
# ImageNet, and no mixing. No result is published for your data.
_base_ = '_base_/poolformer.py'

from mmpoolformer.data.own_folder import (
    class_pictures,
    fit_schedule,
    fit_workers,
    usual_side,
)

data_root = '{{$DATA_ROOT:data/mine}}'
# Labels follow the folders' names (2 before 10, capitals as small letters). For another
# order: a list of names, or a file with one per line.
classes = None
_classes, _pictures = class_pictures(data_root, classes)
_fitted = fit_schedule(len(_pictures), epochs=30, batch_sizes=(16, 32, 64, 128))
_side = usual_side(_pictures, least=64, most=224)
_workers = fit_workers(4)

model = dict(
    mixup=None,
    backbone=dict(
        arch='poolformer_s12',
        num_classes=len(_classes),
        init_cfg=dict(
            type='Pretrained', checkpoint='zoo://poolformer_s12', fresh=('head.fc',)
        ),
    ),
)
train_dataloader = dict(
    batch_size=_fitted.batch_size,
    num_workers=_workers,
    dataset=dict(
        root=data_root,
        classes=_classes,
        transform=dict(
            _delete_=True, input_size=_side, is_training=True, scale=(0.35, 1.0)
        ),
    ),
)
val_dataloader = dict(
    num_workers=_workers,
    dataset=dict(root=data_root, classes=_classes, transform=dict(input_size=_side)),
)
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=5e-4), clip_grad=dict(max_norm=5))
auto_scale_lr = dict(base_batch_size=_fitted.batch_size)
param_scheduler = dict(t_initial=_fitted.epochs, warmup_t=1, lr_min=1e-6)
train_cfg = dict(max_epochs=_fitted.epochs, val_interval=_fitted.interval)
del _classes, _fitted, _pictures, _side, _workers, classes
