"""Backbones and classifiers of the MetaFormer family."""

from mmpoolformer.models.classifier import MetaFormerClassifier
from mmpoolformer.models.factory import create_model, list_models
from mmpoolformer.models.folding import optimize_for_inference
from mmpoolformer.models.hub import save_pretrained
from mmpoolformer.models.metaformer import (
    CAFormer,
    ConvFormer,
    IdentityFormer,
    MetaFormer,
    PoolFormer,
    PoolFormerV2,
    RandFormer,
)
from mmpoolformer.models.pit import PiT, PiTClassifier
from mmpoolformer.models.variants import (
    FAMILIES,
    PIT,
    POOLFORMER,
    VARIANTS,
    PiTVariant,
    Variant,
    resolve_variant,
)

__all__ = [
    'FAMILIES',
    'PIT',
    'POOLFORMER',
    'VARIANTS',
    'CAFormer',
    'ConvFormer',
    'IdentityFormer',
    'MetaFormer',
    'MetaFormerClassifier',
    'PiT',
    'PiTClassifier',
    'PiTVariant',
    'PoolFormer',
    'PoolFormerV2',
    'RandFormer',
    'Variant',
    'create_model',
    'list_models',
    'optimize_for_inference',
    'resolve_variant',
    'save_pretrained',
]
