# RetinaNet with a PoolFormer-S36 on COCO, 12 epochs.
#   tools/dist_train.sh configs/detection/retinanet_poolformer_s36_fpn_1x_coco.py 8
# 8 GPUs x 2 images; 40.6 M parameters.
# Published: box AP 39.5 (arXiv 2111.11418, table 3).
_base_ = 'retinanet_poolformer_s12_fpn_1x_coco.py'

model = dict(
    backbone=dict(arch='s36', init_cfg=dict(checkpoint='zoo://poolformer_s36'))
)
