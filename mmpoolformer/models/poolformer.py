"""PoolFormer under its registered name: a thin class over the table."""

from collections.abc import Mapping, Sequence

from mmpoolformer.models.metaformer import MetaFormer
from mmpoolformer.models.variants import POOLFORMER, resolve_variant
from mmpoolformer.registry import MODELS


@MODELS.register_module()
class PoolFormer(MetaFormer):
    """PoolFormer as a dense backbone (arXiv 2111.11418).

    In any OpenMMLab config: `backbone=dict(type='mmpoolformer.PoolFormer')`. See
    `MetaFormer` for the maps, their norms and what freezing means.

    Args:
        arch: `'s12'`, `'s24'`, `'s36'`, `'m36'`, `'m48'`, or a dict with the fields
            of `mmpoolformer.models.Variant`.
        in_channels: Channels of the image.
        out_indices: Stages whose maps are given out, counted from 0, rising.
        frozen_stages: -1 freezes nothing, 0 the stem, k the stem and the stages
            0..k-1.
        drop_path_rate: Drop-path rate of the last block, in [0, 1); 0 in the
            published detectors, up to 0.4 in ImageNet training.
        with_cp: Whether blocks recompute their activations in the backward pass.
        init_cfg: `dict(type='Pretrained', checkpoint=X)` with a path, a URL,
            `zoo://poolformer_s12` or `timm://poolformer_s12.sail_in1k`.

    Raises:
        ValueError: If an option is out of its range.
    """

    def __init__(
        self,
        arch: str | Mapping = 's12',
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(
            resolve_variant(arch, POOLFORMER),
            in_channels=in_channels,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            drop_path_rate=drop_path_rate,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )
