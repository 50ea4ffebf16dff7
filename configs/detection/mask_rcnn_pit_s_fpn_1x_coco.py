# Mask R-CNN with a PiT-S on COCO, 12 epochs.
#   tools/dist_train.sh configs/detection/mask_rcnn_pit_s_fpn_1x_coco.py 8
# 8 GPUs x 2 images; 42.5 M parameters.
# No result is published; the recipe is PoolFormer's.
_base_ = 'mask_rcnn_poolformer_s12_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpoolformer.PiT',
        arch='s',
        init_cfg=dict(type='Pretrained', checkpoint='zoo://pit_s'),
    ),
    neck=dict(in_channels=[144, 288, 576]),
    # PiT has no map at stride 4: anchors keep their sizes, 32 to 512 pixels.
    rpn_head=dict(anchor_generator=dict(scales=[4], strides=[8, 16, 32, 64, 128])),
    roi_head=dict(
        bbox_roi_extractor=dict(featmap_strides=[8, 16, 32, 64]),
        mask_roi_extractor=dict(featmap_strides=[8, 16, 32, 64]),
    ),
)
