"""Token mixers: the part of a MetaFormer block that moves information in space."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmpoolformer.models.layers import StarReLU
from mmpoolformer.models.windows import any_size, join_windows, split_windows


class Pooling(nn.Module):
    """Average pooling minus its input (arXiv 2111.11418, equation 4).

    The block adds its input back, so the subtraction leaves plain pooling.
    Cells outside the map are not counted: a border cell averages what exists.

    Args:
        pool_size: Side of the window, from 1, in cells. An even window reaches one cell
            further up and left than down and right.
    """

    def __init__(self, pool_size: int = 3) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(
            pool_size, stride=1, padding=pool_size // 2, count_include_pad=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """Mix x (B, C, H, W) over H and W."""
        pooled = self.pool(x)
        if self.pool.kernel_size % 2 == 0:  # one row and one column too many
            pooled = pooled[..., :-1, :-1]
        return pooled - x


class DepthwiseConv(nn.Module):
    """A 3x3 convolution of each channel (ablation of arXiv 2111.11418), without bias.

    The paper tells no kernel size; with a larger one S12 has more parameters than the
    11.9 M of its table 5.

    Args:
        channels: Channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        # In a module of its own: as a part of the block it would be taken for the
        # convolution in front of the block's second norm when BatchNorms are folded.
        self.dwconv = nn.Conv2d(
            channels, channels, 3, padding=1, groups=channels, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """Mix x (B, C, H, W) over H and W."""
        return self.dwconv(x)


class SepConv(nn.Module):
    """Separable convolution as in MobileNetV2 (arXiv 1801.04381).

    Args:
        channels: Channels in and out; there are twice as many between.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        middle = 2 * channels
        self.pwconv1 = nn.Conv2d(channels, middle, 1, bias=False)
        self.act1 = StarReLU()
        self.dwconv = nn.Conv2d(middle, middle, 7, padding=3, groups=middle, bias=False)
        self.pwconv2 = nn.Conv2d(middle, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix x (B, C, H, W) over H and W."""
        return self.pwconv2(self.dwconv(self.act1(self.pwconv1(x))))


class Attention(nn.Module):
    """Self-attention over all cells of the map, or of windows (arXiv 2203.16527).

    Torch computes it in pieces, so whole maps do not need the memory of all scores. One
    image of 800x1344 in CAFormer-S18, with torch 2.11 in float32 on a CPU, peak memory
    of the process:

    | attention | inference | training | GMACs |
    |---|---|---|---|
    | whole map | 1.1 GiB | 4.1 GiB | 188 |
    | windows of 14 but for every third block | 1.1 GiB | 4.7 GiB | 124 |
    | whole map, all scores at once (not used) | 2.3 GiB | 11.4 GiB | 188 |

    So windows save time on large images, and memory only where torch has no such
    kernel. Weights trained without them need fine-tuning with them.

    Args:
        channels: Channels in and out.
        head_dim: Channels of one head; there are `channels // head_dim` heads, at
            least one.
        bias: Whether the output projection adds a bias.
        window: Side of the windows in cells; `None` takes the whole map. A window that
            reaches over the border attends to the cells that exist.
    """

    def __init__(
        self,
        channels: int,
        head_dim: int = 32,
        bias: bool = False,
        window: int | None = None,
    ) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.window = window
        inner = max(channels // head_dim, 1) * head_dim
        self.qkv = nn.Linear(channels, 3 * inner, bias=False)
        self.proj = nn.Linear(inner, channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Mix x (B, C, H, W) over H and W."""
        size = x.shape[2:]
        if self.window is None or (not any_size() and max(size) <= self.window):
            return self._attend(x)
        window = (self.window, self.window)
        mask = None
        if any_size() or any(side % self.window for side in size):
            exists = split_windows(x.new_ones(1, 1, *size), window).flatten(1) > 0
            # One (1, heads, queries, keys) mask for each window of each image.
            mask = exists[:, None, None].repeat(x.shape[0], 1, 1, 1)
        return join_windows(self._attend(split_windows(x, window), mask), size)

    def _attend(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        height, width = x.shape[2:]
        tokens = x.permute(0, 2, 3, 1).flatten(1, 2)  # (B, C, H, W) -> (B, N, C)
        qkv = self.qkv(tokens).unflatten(2, (3, -1, self.head_dim))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, N, head_dim)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        mixed = mixed.transpose(1, 2).flatten(2)  # -> (B, N, heads * head_dim)
        tokens = self.proj(mixed).unflatten(1, (height, width))
        return tokens.permute(0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W)


class GridMixing(nn.Module):
    """Mixing of the cells of a fixed grid by a matrix, the same for all channels.

    The matrix belongs to the grid that it was made for, 14x14 or 7x7 in images of
    224x224, and there the mixing is the papers'. A map of another size is cut into
    windows of that grid, from its upper left corner, and mixed within each; windows at
    the lower and right border are filled up with zeros. `strict` refuses instead.

    Args:
        grid: Height and width of the trained map, in cells.
        strict: Whether maps of another size are refused.
    """

    def __init__(self, grid: tuple[int, int], strict: bool = False) -> None:
        super().__init__()
        self.grid = tuple(grid)
        self.strict = strict

    def matrix(self) -> Tensor:
        """Return the weights (N, N) of the N cells (columns) in each cell (rows)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Mix x (B, C, H, W) over H and W."""
        size = tuple(x.shape[2:])
        if (self.strict or not any_size()) and size == self.grid:
            return self._mix(x)
        if self.strict:
            raise ValueError(
                f'map of {size[0]}x{size[1]} cells: {type(self).__name__} was built '
                f'for {self.grid[0]}x{self.grid[1]}; give images of the size it was '
                'trained on, set image_size, or allow windows by strict_size=False'
            )
        return self._mix_windows(x)

    def _mix(self, x: Tensor) -> Tensor:
        mixed = F.linear(x.flatten(2), self.matrix())  # (B, C, N) -> (B, C, N)
        return mixed.unflatten(2, self.grid)

    def _mix_windows(self, x: Tensor) -> Tensor:
        return join_windows(self._mix(split_windows(x, self.grid)), x.shape[2:])


class RandomMixing(GridMixing):
    """A fixed random average of all cells (arXiv 2210.13452).

    Every row of the matrix adds up to 1. In windows that reach over the border the
    weights of the cells that exist are raised so that they still do, as in `Pooling`.

    Args:
        grid: Height and width of the trained map, in cells.
        strict: Whether maps of another size are refused.
    """

    def __init__(self, grid: tuple[int, int], strict: bool = False) -> None:
        super().__init__(grid, strict)
        cells = grid[0] * grid[1]
        # A parameter as in the original, and counted as one, but never trained.
        self.random_matrix = nn.Parameter(
            torch.rand(cells, cells).softmax(-1), requires_grad=False
        )

    def matrix(self) -> Tensor:
        """Return the random matrix."""
        return self.random_matrix

    def _mix_windows(self, x: Tensor) -> Tensor:
        mixed = super()._mix_windows(x)
        fits = (n % side == 0 for n, side in zip(x.shape[2:], self.grid, strict=True))
        if not any_size() and all(fits):
            return mixed
        weight = super()._mix_windows(x.new_ones(1, 1, *x.shape[2:]))
        return mixed / weight


class SpatialFc(GridMixing):
    """A linear layer over the cells, without bias (hybrids of arXiv 2111.11418).

    Args:
        grid: Height and width of the trained map, in cells.
        strict: Whether maps of another size are refused.
    """

    def __init__(self, grid: tuple[int, int], strict: bool = False) -> None:
        super().__init__(grid, strict)
        cells = grid[0] * grid[1]
        self.fc = nn.Linear(cells, cells, bias=False)

    def matrix(self) -> Tensor:
        """Return the layer's weight."""
        return self.fc.weight
