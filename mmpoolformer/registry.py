"""Child registries of mmengine's, under the scope `mmpoolformer`.

mmengine imports this module by itself when it meets a type such as
`'mmpoolformer.PoolFormer'`; the `locations` then import what registers the
name. So any OpenMMLab config can use the package without `custom_imports`.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from importlib import import_module

from mmengine import registry as mmengine
from mmengine.registry import DefaultScope, Registry

# Data sets derived from those of mmdet and mmseg, with their modules.
FOLDERS = {
    'CocoFolderDataset': 'mmpoolformer.data.coco_folder',
    'SegFolderDataset': 'mmpoolformer.data.seg_folder',
}


def scope_of(config: Mapping) -> AbstractContextManager:
    """Look names up as mmengine's Runner does for a config, whatever ran before.

    Without a `default_scope` they are mmengine's; a scope of None would leave that of
    the last run in this process, where `mmseg.LoadImageFromFile`, say, is not found.
    """
    scope = config.get('default_scope') or 'mmengine'
    return DefaultScope.overwrite_default_scope(scope)


class DatasetRegistry(Registry):
    """A registry that imports mmdet or mmseg, for seconds, only where it must."""

    def get(self, key: str) -> type | None:
        """Return the class of a name, as mmengine does."""
        if module := FOLDERS.get(key.rpartition('.')[2]):
            import_module(module)
        return super().get(key)


def _child(parent: Registry, *locations: str, kind: type = Registry) -> Registry:
    places = [f'mmpoolformer.{place}' for place in locations]
    return kind(parent.name, parent=parent, scope='mmpoolformer', locations=places)


MODELS = _child(mmengine.MODELS, 'models', 'classification')
DATASETS = _child(mmengine.DATASETS, 'classification', kind=DatasetRegistry)
TRANSFORMS = _child(mmengine.TRANSFORMS, 'data.map_labels')
DATA_SAMPLERS = _child(mmengine.DATA_SAMPLERS, 'classification', 'engine.loops')
METRICS = _child(mmengine.METRICS, 'classification')
HOOKS = _child(mmengine.HOOKS, 'engine.hooks.checkpoint', 'engine.hooks.finite')
PARAM_SCHEDULERS = _child(mmengine.PARAM_SCHEDULERS, 'classification')
OPTIM_WRAPPER_CONSTRUCTORS = _child(
    mmengine.OPTIM_WRAPPER_CONSTRUCTORS, 'classification'
)
