"""Mixers, norms and position embeddings against closed forms and crops of the map."""

import numpy as np
import pytest
import torch
from compared import image
from random_weights import randomised
from torch import nn
from torch.nn import functional as F

from mmpoolformer.models import MetaFormer, PoolFormer, Variant
from mmpoolformer.models.layers import ChannelNorm, GroupNorm1
from mmpoolformer.models.token_mixers import (
    Attention,
    DepthwiseConv,
    Pooling,
    RandomMixing,
    SpatialFc,
)
from mmpoolformer.models.windows import join_windows, split_windows

TINY = dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32), image_size=64, head_dim=8)


@pytest.mark.parametrize('size', range(1, 10))
def test_pooling_averages_the_cells_that_exist(size: int) -> None:
    x = image(2, 3, 5, 7)
    found = Pooling(size)(x)
    before, after = size // 2, (size - 1) // 2
    for row in range(5):
        for column in range(7):
            window = x[
                ...,
                max(row - before, 0) : row + after + 1,
                max(column - before, 0) : column + after + 1,
            ]
            expected = window.mean((2, 3)) - x[..., row, column]
            torch.testing.assert_close(found[..., row, column], expected)


def test_depthwise_convolution_weighs_the_cells_around_of_its_channel() -> None:
    x, mixer = image(2, 3, 5, 7), DepthwiseConv(3)
    weight = mixer.dwconv.weight
    assert weight.shape == (3, 1, 3, 3) and mixer.dwconv.bias is None
    padded, expected = F.pad(x, (1, 1, 1, 1)), 0.0
    for row, column in np.ndindex(3, 3):
        factors = weight[:, :, row, column, None]
        expected = expected + factors * padded[..., row : row + 5, column : column + 7]
    torch.testing.assert_close(mixer(x), expected)


@pytest.mark.parametrize('window', [(2, 3), (4, 4), (5, 1)])
def test_windows_are_crops_and_come_together_again(window: tuple[int, int]) -> None:
    x = image(2, 3, 5, 7)
    windows = split_windows(x, window)
    h, w = window
    rows, columns = -(-5 // h), -(-7 // w)
    assert windows.shape == (2 * rows * columns, 3, h, w)
    padded = F.pad(x, (0, columns * w - 7, 0, rows * h - 5))
    second_row = padded[1:, :, (rows - 1) * h :, :w]
    torch.testing.assert_close(windows[-columns][None], second_row, rtol=0, atol=0)
    assert torch.equal(join_windows(windows, (5, 7)), x)


def mixed_by_hand(x: torch.Tensor, matrix: torch.Tensor, side: int, average: bool):
    """Mix every cell with the cells of its window that exist, one by one."""
    x, matrix = x.double().numpy(), matrix.detach().double().numpy()
    height, width = x.shape[2:]
    found = np.zeros_like(x)
    for row, column in np.ndindex(height, width):
        top, left = row // side * side, column // side * side
        weights = matrix[(row - top) * side + column - left]
        total = 0.0
        for i, weight in enumerate(weights):
            y, z = top + i // side, left + i % side
            if y < height and z < width:
                found[..., row, column] += weight * x[..., y, z]
                total += weight
        if average:
            found[..., row, column] /= total
    return torch.from_numpy(found).float()


@pytest.mark.parametrize('size', [(4, 4), (8, 4), (5, 7), (2, 3), (1, 9)])
@pytest.mark.parametrize('kind', [RandomMixing, SpatialFc])
def test_fixed_grids_mix_within_windows(kind: type, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    mixer = kind((4, 4))
    x = image(2, 3, *size)
    expected = mixed_by_hand(x, mixer.matrix(), 4, average=kind is RandomMixing)
    torch.testing.assert_close(mixer(x), expected, rtol=1e-5, atol=1e-5)


def test_random_mixing_keeps_constants_at_any_size() -> None:
    for size in ((4, 4), (5, 7), (2, 3)):
        ones = torch.ones(1, 2, *size)
        torch.testing.assert_close(RandomMixing((4, 4))(ones), ones)


def test_random_matrix_is_never_trained() -> None:
    mixer = RandomMixing((4, 4))
    rows = mixer.random_matrix.sum(-1)
    torch.testing.assert_close(rows, torch.ones(16))
    assert not mixer.random_matrix.requires_grad
    assert list(mixer.state_dict()) == ['random_matrix']


@pytest.mark.parametrize('mixer', ['random', 'spatial_fc'])
def test_strict_size_refuses_other_maps(mixer: str) -> None:
    model = PoolFormer(dict(TINY, token_mixers=mixer, strict_size=True))
    assert len(model(image(1, 3, 64, 64))) == 4
    with pytest.raises(ValueError, match=r'map of 16x24 cells: .* built for 16x16'):
        model(image(1, 3, 64, 96))
    assert len(PoolFormer(dict(TINY, token_mixers=mixer))(image(1, 3, 64, 96))) == 4


def by_hand(mixer: Attention, x: torch.Tensor) -> torch.Tensor:
    """Compute attention from its formula, head by head."""
    tokens = x.flatten(2).transpose(1, 2)
    q, k, v = mixer.qkv(tokens).chunk(3, -1)
    heads = []
    for i in range(0, q.shape[-1], mixer.head_dim):
        part = slice(i, i + mixer.head_dim)
        scores = q[..., part] @ k[..., part].mT / mixer.head_dim**0.5
        heads.append(scores.softmax(-1) @ v[..., part])
    return mixer.proj(torch.cat(heads, -1)).mT.unflatten(2, x.shape[2:])


@pytest.mark.parametrize(('channels', 'head_dim'), [(16, 4), (12, 32), (20, 8)])
def test_attention_is_its_formula(channels: int, head_dim: int) -> None:
    torch.manual_seed(0)
    mixer = Attention(channels, head_dim, bias=True)
    x = image(2, channels, 5, 7)
    torch.testing.assert_close(mixer(x), by_hand(mixer, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('size', [(6, 9), (5, 7), (4, 2), (3, 3)])
def test_windowed_attention_sees_its_window_alone(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    mixer = Attention(16, 4, window=3)
    x = image(2, 16, *size)
    found = mixer(x)
    for top in range(0, size[0], 3):
        for left in range(0, size[1], 3):
            window = (..., slice(top, top + 3), slice(left, left + 3))
            expected = by_hand(mixer, x[window])
            torch.testing.assert_close(found[window], expected, rtol=1e-5, atol=1e-5)


def test_every_nth_block_attends_to_the_whole_map() -> None:
    arch = dict(TINY, depths=(7, 3, 2, 1), token_mixers='attention')
    model = PoolFormer(arch, attention_window=4)
    windows = [
        [block.token_mixer.window for block in stage.blocks] for stage in model.stages
    ]
    assert windows == [[4, 4, None, 4, 4, None, 4], [4, 4, None], [4, 4], [4]]
    none = PoolFormer(dict(arch, global_every=0), attention_window=4)
    assert {b.token_mixer.window for b in none.stages[0].blocks} == {4}


def test_windows_that_hold_the_map_change_nothing() -> None:
    options = dict(token_mixers='attention')
    whole = randomised(PoolFormer(dict(TINY, **options))).eval()
    windowed = PoolFormer(dict(TINY, **options), attention_window=18).eval()
    windowed.load_state_dict(whole.state_dict())
    with torch.no_grad():
        for found, expected in zip(
            windowed(image(1, 3, 64, 72)), whole(image(1, 3, 64, 72)), strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_position_embedding_is_added_where_attention_starts() -> None:
    arch = Variant(
        **TINY,
        token_mixers=('pooling', 'identity', 'attention', 'attention'),
        position_embedding=True,
    )
    model = MetaFormer(arch)
    stages = [name for name, _ in model.named_parameters() if 'pos_embed' in name]
    assert stages == ['stages.2.pos_embed']
    assert model.stages[2].pos_embed.shape == (1, 24, 4, 4)


@pytest.mark.parametrize('size', [(4, 4), (7, 5), (3, 9)])
def test_position_embedding_is_resampled_bicubically(size: tuple[int, int]) -> None:
    arch = dict(TINY, token_mixers='attention', position_embedding=True)
    stage = PoolFormer(dict(arch, image_size=16)).stages[0]
    stage.downsample = stage.blocks = nn.Identity()
    embedding = image(1, 8, 4, 4)
    stage.pos_embed.data.copy_(embedding)
    found = stage(torch.zeros(2, 8, *size))
    expected = cubic_rows(cubic_rows(embedding, size[0]).mT, size[1]).mT
    torch.testing.assert_close(found, expected.expand(2, -1, -1, -1))


def cubic_rows(x: torch.Tensor, rows: int) -> torch.Tensor:
    """Resample the rows of (..., H, W) by cubic convolution with a = -0.75."""
    height, a = x.shape[-2], -0.75
    found = []
    for row in range(rows):
        place = (row + 0.5) * height / rows - 0.5
        first = int(np.floor(place)) - 1
        total = 0.0
        for i in range(first, first + 4):
            d = abs(place - i)
            near = (a + 2) * d**3 - (a + 3) * d**2 + 1
            far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
            weight = near if d <= 1 else far if d < 2 else 0.0
            total = total + weight * x[..., min(max(i, 0), height - 1), :]
        found.append(total)
    return torch.stack(found, -2)


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('kind', [GroupNorm1, ChannelNorm])
def test_norms_of_half_precision_take_float32_statistics(kind: type, bias: bool):
    norm = kind(8, eps=1e-6, bias=bias).half()
    assert (norm.bias is not None) == bias
    x = (300 * image(2, 8, 16, 16)).half()
    axes = (1, 2, 3) if kind is GroupNorm1 else (1,)
    wide = x.double()
    variance = wide.var(axes, correction=0, keepdim=True)
    expected = (wide - wide.mean(axes, keepdim=True)) / (variance + 1e-6).sqrt()
    torch.testing.assert_close(norm(x).double(), expected, rtol=2e-3, atol=2e-3)


def test_norm_of_a_frozen_map_in_any_layout_has_a_gradient() -> None:
    x = image(2, 8, 5, 7).contiguous(memory_format=torch.channels_last)
    norm = GroupNorm1(8, bias=False)
    norm(x).sum().backward()
    deviations = x - x.mean((1, 2, 3), keepdim=True)
    expected = deviations / x.std((1, 2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(
        norm.weight.grad, expected.sum((0, 2, 3)), rtol=1e-3, atol=1e-3
    )
