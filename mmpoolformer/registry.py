"""Child registries of mmengine's, under the scope `mmpoolformer`.

mmengine imports this module by itself when it meets a type such as
`'mmpoolformer.PoolFormer'`; the `locations` then import what registers the
name. So any OpenMMLab config can use the package without `custom_imports`.
"""

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

MODELS = Registry(
    'model',
    parent=MMENGINE_MODELS,
    scope='mmpoolformer',
    locations=['mmpoolformer.models'],
)
DATASETS = Registry(
    'dataset',
    parent=MMENGINE_DATASETS,
    scope='mmpoolformer',
    locations=['mmpoolformer.datasets.folders'],
)
TRANSFORMS = Registry(
    'transform',
    parent=MMENGINE_TRANSFORMS,
    scope='mmpoolformer',
    locations=['mmpoolformer.datasets.folders'],
)
