"""Backbones and classifiers of the MetaFormer family."""

from mmpoolformer.models.classifier import MetaFormerClassifier
from mmpoolformer.models.factory import create_model, list_models
from mmpoolformer.models.metaformer import MetaFormer
from mmpoolformer.models.poolformer import PoolFormer
from mmpoolformer.models.variants import (
    POOLFORMER,
    VARIANTS,
    Variant,
    resolve_variant,
)

__all__ = [
    'POOLFORMER',
    'VARIANTS',
    'MetaFormer',
    'MetaFormerClassifier',
    'PoolFormer',
    'Variant',
    'create_model',
    'list_models',
    'resolve_variant',
]
