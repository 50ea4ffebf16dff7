"""PoolFormer and the baselines under their registered names: views of the table.

In any OpenMMLab config: `backbone=dict(type='mmpoolformer.PoolFormer', arch='s12')`.
All options are those of `MetaFormer`, of which only the names of `arch` differ.
"""

from typing import ClassVar

from mmpoolformer.models.metaformer import MetaFormer
from mmpoolformer.models.variants import FAMILIES
from mmpoolformer.registry import MODELS


@MODELS.register_module()
class PoolFormer(MetaFormer):
    """Pooling in all stages (arXiv 2111.11418): `arch` s12, s24, s36, m36, m48."""

    sizes: ClassVar = FAMILIES['poolformer']


@MODELS.register_module()
class IdentityFormer(MetaFormer):
    """No token mixing (arXiv 2210.13452): `arch` s12, s24, s36, m36, m48."""

    sizes: ClassVar = FAMILIES['identityformer']


@MODELS.register_module()
class RandFormer(MetaFormer):
    """Random mixing in two stages (arXiv 2210.13452): `arch` s12 to m48.

    Its matrices belong to maps of 14x14 and 7x7 cells; see `GridMixing` for others.
    """

    sizes: ClassVar = FAMILIES['randformer']


@MODELS.register_module()
class PoolFormerV2(MetaFormer):
    """Pooling in the new recipe (arXiv 2210.13452): `arch` s12, s24, s36, m36, m48."""

    sizes: ClassVar = FAMILIES['poolformerv2']


@MODELS.register_module()
class ConvFormer(MetaFormer):
    """Separable convolutions (arXiv 2210.13452): `arch` s18, s36, m36, b36."""

    sizes: ClassVar = FAMILIES['convformer']


@MODELS.register_module()
class CAFormer(MetaFormer):
    """Convolutions, then attention (arXiv 2210.13452): `arch` s18, s36, m36, b36.

    Set `attention_window` (such as 14) where large images take too long.
    """

    sizes: ClassVar = FAMILIES['caformer']
