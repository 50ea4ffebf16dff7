"""Child registries of mmengine's, under the scope `mmpoolformer`.

mmengine imports this module by itself when it meets a type such as
`'mmpoolformer.PoolFormer'`; the `locations` then import what registers the
name. So any OpenMMLab config can use the package without `custom_imports`.
"""

from mmengine import registry as mmengine
from mmengine.registry import Registry


def _child(parent: Registry, *locations: str) -> Registry:
    places = [f'mmpoolformer.{place}' for place in locations]
    return Registry(parent.name, parent=parent, scope='mmpoolformer', locations=places)


MODELS = _child(mmengine.MODELS, 'models', 'classification')
DATASETS = _child(mmengine.DATASETS, 'data.folders', 'classification')
TRANSFORMS = _child(mmengine.TRANSFORMS, 'data.folders')
DATA_SAMPLERS = _child(mmengine.DATA_SAMPLERS, 'classification', 'engine.loops')
METRICS = _child(mmengine.METRICS, 'classification')
HOOKS = _child(mmengine.HOOKS, 'engine.hooks.checkpoint', 'engine.hooks.finite')
PARAM_SCHEDULERS = _child(mmengine.PARAM_SCHEDULERS, 'classification')
OPTIM_WRAPPER_CONSTRUCTORS = _child(
    mmengine.OPTIM_WRAPPER_CONSTRUCTORS, 'classification'
)
