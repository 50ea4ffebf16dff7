"""Image classifiers over the MetaFormer trunk."""

from collections.abc import Mapping

from torch import Tensor

from mmpoolformer.models.base import checked_classes, checked_rate
from mmpoolformer.models.heads import build_head
from mmpoolformer.models.metaformer import MetaFormerTrunk
from mmpoolformer.models.variants import VARIANTS, Variant, resolve_variant
from mmpoolformer.registry import MODELS


@MODELS.register_module()
class MetaFormerClassifier(MetaFormerTrunk):
    """Images to logits.

    Args:
        arch: A name of `VARIANTS`, such as `'poolformer_s12'`, or a dict with the
            fields of `mmpoolformer.models.Variant`, in which `base` names the
            architecture that the others change:
            `dict(base='poolformer_s12', pool_size=5)`.
        num_classes: Classes, from 1.
        in_channels: Channels of the image.
        drop_path_rate: Drop-path rate of the last block, in [0, 1).
        drop_rate: Dropout rate before the last linear layer, in [0, 1).
        with_cp: Whether blocks recompute their activations in the backward pass.
        init_cfg: See `PretrainedModule.init_weights`.
        fused: How blocks run, see `MetaFormer`.

    Raises:
        ValueError: If an option is out of its range.
    """

    def __init__(
        self,
        arch: str | Mapping | Variant,
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
        drop_rate: float = 0.0,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
        fused: bool | str = True,
    ) -> None:
        variant = resolve_variant(arch, VARIANTS)
        super().__init__(variant, in_channels, drop_path_rate, with_cp, init_cfg, fused)
        self.num_classes = checked_classes(num_classes)
        checked_rate('drop_rate', drop_rate)
        self.head = build_head(variant, num_classes, drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, in_channels, H, W) to logits (B, num_classes)."""
        self.check_input(x)
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(x)
