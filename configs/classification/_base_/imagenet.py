# Data and runtime of ImageNet classification: data/imagenet/{train,val}/CLASS/*.JPEG.
# A config that inherits it gives the model, the optimizer and the schedule.
default_scope = 'mmengine'

data_root = 'data/imagenet'
train_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type='mmpoolformer.SeededSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='mmpoolformer.TimmDataset',
        root=data_root,
        split='train',
        transform=dict(
            input_size=224,
            is_training=True,
            auto_augment='rand-m9-mstd0.5-inc1',
            color_jitter=0.4,
            interpolation='random',
            re_prob=0.25,
            re_mode='pixel',
        ),
    ),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='mmpoolformer.TimmDataset',
        root=data_root,
        split='val',
        transform=dict(input_size=224, crop_pct=0.9, interpolation='bicubic'),
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='mmpoolformer.Accuracy', topk=(1, 5))
test_evaluator = val_evaluator
val_cfg = dict()
test_cfg = dict()

default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50),
    # One a epoch, the best one besides; `last_checkpoint` names the newest.
    checkpoint=dict(
        type='CheckpointHook',
        interval=1,
        max_keep_ckpts=3,
        save_best='accuracy/top1',
        rule='greater',
    ),
)
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
log_level = 'INFO'
load_from = None
resume = False
