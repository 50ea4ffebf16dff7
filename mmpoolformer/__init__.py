"""PoolFormer and the MetaFormer family for dense prediction on OpenMMLab.

The names below are imported when first used, so that `import mmpoolformer`
costs nothing and `python -m mmpoolformer.doctor` runs without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from mmpoolformer.version import __version__

if TYPE_CHECKING:
    from mmpoolformer.models import (
        CAFormer,
        ConvFormer,
        IdentityFormer,
        MetaFormer,
        MetaFormerClassifier,
        PiT,
        PiTClassifier,
        PoolFormer,
        PoolFormerV2,
        RandFormer,
        create_model,
        list_models,
        save_pretrained,
    )
    from mmpoolformer.utils.paths import config_path

_HOMES = {
    'CAFormer': 'mmpoolformer.models',
    'ConvFormer': 'mmpoolformer.models',
    'IdentityFormer': 'mmpoolformer.models',
    'MetaFormer': 'mmpoolformer.models',
    'MetaFormerClassifier': 'mmpoolformer.models',
    'PiT': 'mmpoolformer.models',
    'PiTClassifier': 'mmpoolformer.models',
    'PoolFormer': 'mmpoolformer.models',
    'PoolFormerV2': 'mmpoolformer.models',
    'RandFormer': 'mmpoolformer.models',
    'create_model': 'mmpoolformer.models',
    'list_models': 'mmpoolformer.models',
    'save_pretrained': 'mmpoolformer.models',
    'config_path': 'mmpoolformer.utils.paths',
}

__all__ = [
    'CAFormer',
    'ConvFormer',
    'IdentityFormer',
    'MetaFormer',
    'MetaFormerClassifier',
    'PiT',
    'PiTClassifier',
    'PoolFormer',
    'PoolFormerV2',
    'RandFormer',
    '__version__',
    'config_path',
    'create_model',
    'list_models',
    'save_pretrained',
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
