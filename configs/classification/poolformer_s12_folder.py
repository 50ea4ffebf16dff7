# PoolFormer-S12 on an image folder of your own:
#   DATA_ROOT=data/mine tools/dist_train.sh \
#       configs/classification/poolformer_s12_folder.py 1
# Expected: data/mine/{train,val}/CLASS/*.jpg; classes are the folders of train. Starts
# from ImageNet weights, with a new last layer. The recipe is for 1024 images a step, so
# on one GPU add --auto-scale-lr; a shorter one needs both
#   --cfg-options train_cfg.max_epochs=30 param_scheduler.t_initial=30
# No result is published for your data.
_base_ = '_base_/poolformer.py'

from mmpoolformer.classification import folder_classes

data_root = '{{$DATA_ROOT:data/mine}}'
# Labels follow the folders' names (2 before 10, capitals as small letters). For another
# order: a list of names, or a file with one per line.
classes = None
_classes = folder_classes(data_root, classes=classes)
model = dict(
    backbone=dict(
        arch='poolformer_s12',
        num_classes=len(_classes),
        init_cfg=dict(
            type='Pretrained', checkpoint='zoo://poolformer_s12', fresh=('head.fc',)
        ),
    ),
)
train_dataloader = dict(dataset=dict(root=data_root, classes=_classes))
val_dataloader = dict(dataset=dict(root=data_root, classes=_classes))
test_dataloader = val_dataloader
del _classes, classes
