"""MetaFormer: the trunk, and the dense backbone with its contract.

After "MetaFormer is actually what you need for vision", arXiv 2111.11418, and
"MetaFormer baselines for vision", arXiv 2210.13452, with
github.com/sail-sg/poolformer and github.com/sail-sg/metaformer (Apache-2.0).
Parameter names are timm's; state dicts in any other known format are renamed while
they are loaded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from mmpoolformer.models.base import (
    DenseBackbone,
    PretrainedModule,
    checked_fusing,
    checked_rate,
)
from mmpoolformer.models.block import MetaFormerStage, downsample_norm, family_norm
from mmpoolformer.models.layers import Stem, truncated_normal
from mmpoolformer.models.variants import FAMILIES, VARIANTS, Variant, resolve_variant
from mmpoolformer.registry import MODELS


class MetaFormerTrunk(PretrainedModule):
    """Stem and stages: what the dense backbone and the classifier share.

    Args:
        variant: The architecture's row of the table.
        in_channels: Channels of the image.
        drop_path_rate: Drop-path rate of the last block; it grows linearly from 0
            at the first one.
        with_cp: Whether blocks recompute their activations in the backward pass
            (less memory, same outputs and gradients).
        init_cfg: `None` (random) or mmengine's, see `PretrainedModule.init_weights`.
        fused: See `MetaFormer`.

    Raises:
        ValueError: If an option is out of its range.
    """

    def __init__(
        self,
        variant: Variant,
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
        fused: bool | str = True,
    ) -> None:
        super().__init__(in_channels, init_cfg)
        checked_rate('drop_path_rate', drop_path_rate)
        checked_fusing(fused)
        self.variant = variant
        depths = variant.depths
        last = max(sum(depths) - 1, 1)
        rates = (drop_path_rate * i / last for i in range(sum(depths)))
        norm = downsample_norm(variant, variant.dims[0])
        self.stem = Stem(in_channels, variant.dims[0], norm)
        self.stages = nn.ModuleList(
            MetaFormerStage(
                variant, i, [next(rates) for _ in range(depth)], with_cp, fused
            )
            for i, depth in enumerate(depths)
        )
        truncated_normal(self, strided=variant.init_strided)


@MODELS.register_module()
class MetaFormer(DenseBackbone, MetaFormerTrunk):
    """The dense backbone: an image to maps at strides 4, 8, 16 and 32.

    Each map that is given out passes a norm of its own, `norm0` to `norm3`, of the
    architecture's kind, which ImageNet weights do not hold. Only the norms of
    `out_indices` exist, so every parameter gets a gradient (stages after the last index
    are not built); the matrices of the mixer `random` are never trained.

    Attributes:
        sizes: The architectures that the class knows by name.
        out_channels: Channels of each map given out.
        out_strides: Image pixels per cell of each map given out.

    Args:
        arch: A name of `sizes` (by default the first), or a dict with the fields of
            `mmpoolformer.models.Variant`, in which `base` names the architecture that
            the others change: `dict(base='s12', pool_size=5)`.
        in_channels: Channels of the image.
        out_indices: Stages whose maps are given out, counted from 0, rising.
        frozen_stages: -1 freezes nothing, 0 the stem, k the stem and the stages
            0..k-1. Frozen parts stay in evaluation mode.
        drop_path_rate: Drop-path rate of the last block, in [0, 1); 0 in the
            published detectors, up to 0.6 in ImageNet training.
        with_cp: Whether blocks recompute their activations in the backward pass.
        init_cfg: `dict(type='Pretrained', checkpoint=X)` with a path, a URL,
            `zoo://poolformer_s12` or `timm://poolformer_s12.sail_in1k`; see
            `PretrainedModule.init_weights`.
        fused: Whether the halves of a block run as single operators, which takes less
            memory and time: `True`, `False` (module by module), or `'triton'`, which on
            CUDA has kernels of its own for the pooling half. Parameters and results are
            the same up to rounding. Gradients of gradients need `False`.
        token_mixers: This and the options below change the field of the same name, see
            `Variant`; `None` leaves what `arch` says.
        pool_size: Window of the pooling mixer, in cells.
        norm: The norm of blocks and outputs.
        activation: The activation in the MLP.
        mlp: Whether blocks have an MLP.
        residual: Whether blocks add their input.
        layer_scale_init: First value of the factors on branches, `False` for none.
        res_scale_init: First value of the factors on shortcuts, `False` for none.
        attention_window: Side of the windows that attention is taken in, in cells.
        strict_size: Whether mixers with a fixed grid refuse maps of other sizes.

    Raises:
        ValueError: If an option is out of its range.
    """

    sizes: ClassVar[Mapping[str, Variant]] = VARIANTS

    def __init__(
        self,
        arch: str | Mapping | Variant | None = None,
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
        *,
        fused: bool | str = True,
        token_mixers: str | Sequence[str] | None = None,
        pool_size: int | None = None,
        norm: str | None = None,
        activation: str | None = None,
        mlp: bool | None = None,
        residual: bool | None = None,
        layer_scale_init: float | bool | None = None,
        res_scale_init: float | bool | Sequence[float | bool] | None = None,
        attention_window: int | None = None,
        strict_size: bool | None = None,
    ) -> None:
        changes = dict(
            token_mixers=token_mixers,
            pool_size=pool_size,
            norm=norm,
            activation=activation,
            mlp=mlp,
            residual=residual,
            layer_scale_init=layer_scale_init,
            res_scale_init=res_scale_init,
            attention_window=attention_window,
            strict_size=strict_size,
        )
        chosen = next(iter(self.sizes)) if arch is None else arch
        variant = replace(
            resolve_variant(chosen, self.sizes),
            **{name: value for name, value in changes.items() if value is not None},
        )
        super().__init__(variant, in_channels, drop_path_rate, with_cp, init_cfg, fused)
        self.set_outputs(out_indices, frozen_stages, 4, partial(family_norm, variant))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of `out_indices`.

        Args:
            x: Images (B, in_channels, H, W); H and W need not be multiples of 32.

        Returns:
            One (B, dims[i], ~H / 4 / 2**i, ~W / 4 / 2**i) map for each index i, laid
            out plainly: mmcv's RoIAlign takes what comes for that and reads channels
            that lie last as if they were rows.
        """
        self.check_input(x)
        x = self.stem(x)
        maps = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.out_indices:
                maps.append(getattr(self, f'norm{i}')(x).contiguous())
        return tuple(maps)


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
