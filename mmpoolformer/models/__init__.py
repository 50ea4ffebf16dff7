"""Backbones and classifiers of the MetaFormer family."""

from mmpoolformer.models.classifier import MetaFormerClassifier
from mmpoolformer.models.factory import create_model, list_models
from mmpoolformer.models.metaformer import MetaFormer
from mmpoolformer.models.poolformer import (
    CAFormer,
    ConvFormer,
    IdentityFormer,
    PoolFormer,
    PoolFormerV2,
    RandFormer,
)
from mmpoolformer.models.variants import (
    FAMILIES,
    POOLFORMER,
    VARIANTS,
    Variant,
    resolve_variant,
)

__all__ = [
    'FAMILIES',
    'POOLFORMER',
    'VARIANTS',
    'CAFormer',
    'ConvFormer',
    'IdentityFormer',
    'MetaFormer',
    'MetaFormerClassifier',
    'PoolFormer',
    'PoolFormerV2',
    'RandFormer',
    'Variant',
    'create_model',
    'list_models',
    'resolve_variant',
]
