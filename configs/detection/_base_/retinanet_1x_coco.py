# RetinaNet's 1x schedule on COCO as the MetaFormer papers train it, without a
# backbone. A config that inherits it gives `model.backbone` (with
# `_delete_=True`) and the channels of its stages 1 to 3 as `model.neck.in_channels`.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
]

# The backbone gives out stages 1 to 3 only, so the pyramid starts at its first
# input; its keys stay those of the released detectors.
model = dict(neck=dict(start_level=0))

# 8 GPUs x 2 images. Weight decay is on everything, gradients are not clipped;
# warm-up of 500 iterations and steps at epochs 8 and 11 are mmdet's own.
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=1e-4)
)
auto_scale_lr = dict(base_batch_size=16)
