"""Image classifiers over the MetaFormer trunk."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from mmpoolformer.models.base import checked_classes, checked_rate
from mmpoolformer.models.block import family_norm
from mmpoolformer.models.layers import truncated_normal
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


class NormPoolHead(nn.Module):
    """Norm of the map, then the mean over H and W, then a linear layer.

    PoolFormer's order in the original; timm's PoolFormer v1 averages first and so gives
    other logits.

    Args:
        variant: The architecture's row of the table.
        num_classes: Classes.
        drop_rate: Share of the features that training drops before the linear layer.
    """

    # `load_weights` warns of weights that may be from timm.
    timm_averages_first = True

    def __init__(self, variant: Variant, num_classes: int, drop_rate: float) -> None:
        super().__init__()
        channels = variant.dims[-1]
        self.norm = family_norm(variant, channels)
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to logits (B, num_classes)."""
        return self.fc(self.drop(self.norm(x).mean((2, 3))))  # (B, C, H, W) -> (B, C)


class PoolNormHead(nn.Module):
    """The mean over H and W, then LayerNorm, then a linear layer or an MLP.

    Args:
        variant: The architecture's row of the table; its `head` chooses.
        num_classes: Classes.
        drop_rate: Share of the features that training drops before the last layer.
    """

    def __init__(self, variant: Variant, num_classes: int, drop_rate: float) -> None:
        super().__init__()
        channels = variant.dims[-1]
        self.norm = nn.LayerNorm(channels, eps=variant.norm_eps)
        if variant.head == 'mlp':
            self.drop = nn.Identity()
            self.fc = MlpHead(channels, num_classes, drop_rate)
        else:
            self.drop = nn.Dropout(drop_rate)
            self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to logits (B, num_classes)."""
        return self.fc(self.drop(self.norm(x.mean((2, 3)))))  # (B, C, H, W) -> (B, C)


class MlpHead(nn.Module):
    """Linear layer, squared ReLU, LayerNorm, linear layer.

    Args:
        channels: Features; there are four times as many between.
        num_classes: Classes.
        drop_rate: Share of the features that training drops before the last layer.
    """

    def __init__(self, channels: int, num_classes: int, drop_rate: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.norm = nn.LayerNorm(4 * channels)
        self.drop = nn.Dropout(drop_rate)
        self.fc2 = nn.Linear(4 * channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map features x (B, C) to logits (B, num_classes)."""
        x = F.relu(self.fc1(x)).square()  # (B, C) -> (B, 4 C)
        return self.fc2(self.drop(self.norm(x)))


def build_head(variant: Variant, num_classes: int, drop_rate: float = 0.0) -> nn.Module:
    """Build the classifier's head of an architecture.

    Args:
        variant: The architecture's row of the table.
        num_classes: Classes.
        drop_rate: Share of the features that training drops before the last layer.
    """
    kind = NormPoolHead if variant.head == 'norm_pool' else PoolNormHead
    head = kind(variant, num_classes, drop_rate)
    truncated_normal(head, strided=True)
    return head
