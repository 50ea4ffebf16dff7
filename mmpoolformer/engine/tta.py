"""Test-time augmentation: the config's own, or horizontal flips."""

from copy import deepcopy
from importlib import import_module

from mmengine.config import Config, ConfigDict

from mmpoolformer.engine.config import task_scope
from mmpoolformer.utils.errors import UserError
from mmpoolformer.utils.nested import leaf_datasets

# Types with their scope, for configs without a default one.
DEFAULTS = {
    'mmdet': dict(
        model=dict(
            type='DetTTAModel',  # mmdet registers it in mmengine's own registry
            tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
        ),
        pack=dict(type='mmdet.PackDetInputs'),
    ),
    'mmseg': dict(
        model=dict(type='mmseg.SegTTAModel'),
        pack=dict(type='mmseg.PackSegInputs'),
    ),
}


def use_tta(config: Config) -> None:
    """Let a config test with augmentation: its own, or else horizontal flips.

    Raises:
        UserError: If there is no augmentation for the task.
    """
    scope = task_scope(config)
    defaults = DEFAULTS.get(scope)
    if defaults is None and not ('tta_model' in config and 'tta_pipeline' in config):
        raise UserError(
            f'--tta: give tta_model and tta_pipeline in the config, there is no '
            f'default for {scope}; there is for {sorted(DEFAULTS)}'
        )
    parts = (config.model, config.model.get('roi_head') or {})
    if scope == 'mmdet' and any(part.get('mask_head') for part in parts):
        raise UserError(
            "--tta: mmdet can't merge the masks of several views; test without it"
        )
    if scope == 'mmdet':
        import_module('mmdet.models')  # without a default scope nothing else does
    model = config.get('tta_model') or defaults['model']
    config.model = ConfigDict(**model, module=config.model)
    own = config.get('tta_pipeline')
    for dataset in leaf_datasets(config.test_dataloader.dataset):
        dataset['pipeline'] = own or _with_flips(dataset['pipeline'], scope)


def _with_flips(pipeline: list[dict], scope: str) -> list[dict]:
    flip = dict(type=f'{scope}.RandomFlip', direction='horizontal')
    # The image as it is comes first: a segmentation is compared with the annotation of
    # the first view.
    flips = [dict(flip, prob=0.0), dict(flip, prob=1.0)]
    views = dict(type='TestTimeAug', transforms=[flips, [DEFAULTS[scope]['pack']]])
    return [*deepcopy(pipeline[:-1]), deepcopy(views)]
