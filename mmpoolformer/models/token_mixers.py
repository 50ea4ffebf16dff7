"""Token mixers: the part of a MetaFormer block that moves information in space."""

from torch import Tensor, nn


class Pooling(nn.Module):
    """Average pooling minus its input (arXiv 2111.11418, equation 4).

    The block adds its input back, so the subtraction leaves plain pooling.
    Cells outside the map are not counted: a border cell averages what exists.

    Args:
        pool_size: Side of the window, odd, in cells.
    """

    def __init__(self, pool_size: int = 3) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(
            pool_size, stride=1, padding=pool_size // 2, count_include_pad=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """Mix x (B, C, H, W) over H and W."""
        return self.pool(x) - x
