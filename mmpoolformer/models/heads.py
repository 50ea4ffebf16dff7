"""Heads of image classifiers: the last map to logits."""

from torch import Tensor, nn
from torch.nn import functional as F

from mmpoolformer.models.block import family_norm
from mmpoolformer.models.layers import truncated_normal
from mmpoolformer.models.variants import Variant


class NormPoolHead(nn.Module):
    """Norm of the map, then the mean over H and W, then a linear layer.

    PoolFormer's order in the original; timm's PoolFormer v1 averages first and so gives
    other logits.

    Args:
        variant: The architecture's row of the table.
        num_classes: Classes.
        drop_rate: Share of the features that training drops before the linear layer.
    """

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
