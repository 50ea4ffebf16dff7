# The recipe of the MetaFormer baselines for ImageNet-1k (arXiv 2210.13452): 4096 images
# a step, by accumulation over 4 batches. What the paper leaves open (augmentation, the
# least rate, cool-down) is as for PoolFormer.
_base_ = 'poolformer.py'

optim_wrapper = dict(optimizer=dict(lr=4e-3), accumulative_counts=4)
auto_scale_lr = dict(base_batch_size=4096)
val_dataloader = dict(dataset=dict(transform=dict(crop_pct=1.0)))
test_dataloader = val_dataloader
