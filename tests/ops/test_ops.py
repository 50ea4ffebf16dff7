"""Every operator, in every implementation, against plain PyTorch in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from mmpoolformer.ops import (
    POOLINGS,
    mlp_residual,
    pool_residual,
    pooling,
    star_relu,
)
from mmpoolformer.ops.activations import ACTIVATIONS
from mmpoolformer.ops.pooling import moments

DEVICES = {'torch': 'cpu', 'triton': 'cuda' if torch.cuda.is_available() else 'cpu'}
LAYOUTS = (torch.contiguous_format, torch.channels_last)
SIZES = [(1, 8, 1, 1), (1, 5, 1, 6), (2, 70, 9, 8), (3, 64, 7, 13)]


def noise(*shape: int, offset: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64) + offset


def plain_pool(
    x: Tensor, factors: Tensor, size: int, kept: Tensor, res_scale: Tensor
) -> Tensor:
    normed = F.group_norm(x, 1, eps=1e-5)
    pooled = F.avg_pool2d(normed, size, 1, size // 2, count_include_pad=False)
    branch = (pooled - normed) * factors[:, None, None] * kept
    return x * res_scale[:, None, None] + branch


def plain_mlp(
    x: Tensor,
    normed: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    activation: str,
    factors: Tensor,
    kept: Tensor,
    res_scale: Tensor,
) -> Tensor:
    functions = {
        'gelu': lambda t: t * 0.5 * (1 + torch.erf(t / 2**0.5)),
        'relu': lambda t: t.clamp(min=0),
        'silu': lambda t: t / (1 + torch.exp(-t)),
        'relu_squared': lambda t: t.clamp(min=0) ** 2,
    }
    hidden = F.conv2d(normed, weight1[..., None, None], bias1)
    branch = F.conv2d(functions[activation](hidden), weight2[..., None, None])
    branch = branch * factors[:, None, None]
    if bias2 is not None:
        branch = branch + bias2[:, None, None]
    return x * res_scale[:, None, None] + kept * branch


def relative(found: Tensor, expected: Tensor) -> float:
    difference = (found.cpu().double() - expected).abs().max()
    return (difference / expected.abs().max().clamp(min=1e-3)).item()


# The interpreter takes a second for every hundred cells, so Triton gets small maps; 70
# channels are more than one program reduces.
POOL_CASES = [
    ('torch', pool_size, scaled, size, offset)
    for pool_size, scaled in ((1, False), (3, False), (3, True), (5, True))
    for size in SIZES
    for offset in (0.0, 30.0)
] + [
    ('triton', 3, False, (2, 70, 3, 4), 0.0),
    ('triton', 3, False, (1, 5, 1, 6), 30.0),
]


@pytest.mark.parametrize('layout', LAYOUTS, ids=['nchw', 'nhwc'])
@pytest.mark.parametrize(
    ('implementation', 'pool_size', 'scaled', 'size', 'offset'), POOL_CASES, ids=str
)
def test_pooling_half_equals_the_plain_one(
    implementation: str,
    pool_size: int,
    scaled: bool,
    size: tuple[int, ...],
    offset: float,
    layout: torch.memory_format,
) -> None:
    if implementation == 'triton':
        pytest.importorskip('triton')  # not on Macs
    images, channels = size[:2]
    x = noise(*size, offset=offset)
    factors, res_scale = noise(channels), noise(channels + 1)[1:]
    kept = torch.tensor([2.0, 0.0, 1.0])[:images].double().view(-1, 1, 1, 1)
    if not scaled:
        res_scale = torch.ones_like(res_scale)
    grad = noise(*size)[..., torch.randperm(size[3])]
    inputs = [t.clone().requires_grad_() for t in (x, factors, res_scale)]
    expected = plain_pool(*inputs[:2], pool_size, kept, inputs[2])
    expected_grads = torch.autograd.grad(expected, inputs, grad)

    device = DEVICES[implementation]
    mine = [t.detach().float().to(device).requires_grad_() for t in inputs]
    found = pool_residual(
        mine[0].contiguous(memory_format=layout),
        mine[1],
        1e-5,
        pool_size,
        kept=kept.float().to(device),
        res_scale=mine[2] if scaled else None,
        implementation=implementation,
    )
    assert relative(found, expected) < 1e-5
    used = mine if scaled else mine[:2]
    grads = torch.autograd.grad(found, used, grad.float().to(device))
    # float32 holds seven digits of x, of which the mean takes its share away
    allowed = 1e-5 if offset == 0 else 1e-4
    for ours, theirs in zip(grads, expected_grads, strict=False):
        assert relative(ours, theirs) < allowed


@pytest.mark.parametrize('scaled', [True, False])
@pytest.mark.parametrize('pool_size', [1, 3, 5])
def test_pooling_half_passes_gradcheck(pool_size: int, scaled: bool) -> None:
    x = noise(2, 3, 4, 5).requires_grad_()
    factors, res_scale = noise(3).requires_grad_(), noise(4)[1:].requires_grad_()
    kept = torch.tensor([2.0, 0.5]).double().view(-1, 1, 1, 1)

    def half(x: Tensor, factors: Tensor, res_scale: Tensor) -> Tensor:
        scale = res_scale if scaled else None
        return pool_residual(x, factors, 1e-3, pool_size, kept=kept, res_scale=scale)

    torch.autograd.gradcheck(half, (x, factors, res_scale))
    without_x = half(x.detach(), factors, res_scale)
    assert torch.autograd.grad(without_x.sum(), factors)[0].shape == (3,)


@pytest.mark.parametrize('compiled', [False, True])
@pytest.mark.parametrize('layout', LAYOUTS, ids=['nchw', 'nhwc'])
@pytest.mark.parametrize('offset', [0, 3, 100, 10_000])
def test_moments_keep_their_digits(
    offset: float,
    layout: torch.memory_format,
    compiled: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pooling, 'is_compiling', lambda: compiled)
    x = noise(2, 16, 128, 96).float() + offset
    mean, rstd = moments(x.contiguous(memory_format=layout), 1e-5)
    exact = x.double()
    expected = (exact.var((1, 2, 3), correction=0) + 1e-5).rsqrt()
    assert relative(rstd.flatten(), expected) < 2e-6
    assert relative(mean.flatten(), exact.mean((1, 2, 3))) < 1e-6


class WithoutFloat64(TorchDispatchMode):
    """Fails as a device does that has no float64, such as Apple's MPS."""

    def __torch_dispatch__(
        self, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        for found in tree_flatten(result)[0]:
            if isinstance(found, Tensor) and found.dtype == torch.float64:
                raise TypeError(f'{func}: this device has no float64')
        return result


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_other_devices_need_no_float64(dtype: torch.dtype) -> None:
    x = torch.empty(2, 3, 8, 8, device='meta', dtype=dtype, requires_grad=True)
    numbers = torch.empty(3, device='meta', requires_grad=True)
    with WithoutFloat64():
        y = pool_residual(x, numbers, 1e-5, res_scale=numbers)
        star_relu(y, numbers[:1], numbers[:1]).sum().backward()
    assert x.grad.shape == x.shape


MLP_CASES = [
    dict(bias=bias, factors=factors, kept=kept, res_scale=res_scale)
    for bias in (True, False)
    for factors, kept, res_scale in (
        (True, True, True),
        (True, False, False),
        (False, True, False),
        (False, False, True),
        (False, False, False),
    )
]


def mlp_inputs(size: tuple[int, ...], case: dict) -> tuple[list, dict]:
    images, channels = size[:2]
    hidden = 2 * channels
    tensors = [
        noise(*size),
        noise(*size)[..., torch.randperm(size[3])],
        noise(hidden, channels) / channels**0.5,
        noise(hidden) if case['bias'] else None,
        noise(channels, hidden) / hidden**0.5,
        noise(channels) if case['bias'] else None,
    ]
    scales = dict(
        factors=noise(channels + 2)[2:] if case['factors'] else None,
        kept=torch.tensor([2.0, 0.0, 0.5])[:images].double().view(-1, 1, 1, 1)
        if case['kept']
        else None,
        res_scale=noise(channels + 1)[1:] if case['res_scale'] else None,
    )
    return tensors, scales


@pytest.mark.parametrize('activation', ACTIVATIONS)
@pytest.mark.parametrize('case', MLP_CASES, ids=lambda case: str([*case.values()]))
def test_mlp_half_equals_the_plain_one(case: dict, activation: str) -> None:
    size = (3, 20, 5, 7)
    tensors, scales = mlp_inputs(size, case)
    ones = dict(
        factors=torch.ones(20), kept=torch.ones(3, 1, 1, 1), res_scale=torch.ones(20)
    )
    differentiable = [*tensors, scales['factors'], scales['res_scale']]
    for tensor in differentiable:
        if tensor is not None:
            tensor.requires_grad_()
    given = {name: ones[name].double() for name in ones}
    given |= {name: value for name, value in scales.items() if value is not None}
    expected = plain_mlp(*tensors, activation, **given)
    wanted = [tensor for tensor in differentiable if tensor is not None]
    grad = noise(*size)
    expected_grads = torch.autograd.grad(expected, wanted, grad)

    mine = [
        None if t is None else t.detach().float().requires_grad_()
        for t in differentiable
    ]
    found = mlp_residual(
        *mine[:6],
        activation,
        factors=mine[6],
        kept=None if scales['kept'] is None else scales['kept'].float(),
        res_scale=mine[7],
    )
    assert relative(found, expected) < 1e-5
    with torch.no_grad():
        alone = mlp_residual(
            *mine[:6],
            activation,
            factors=mine[6],
            kept=None if scales['kept'] is None else scales['kept'].float(),
            res_scale=mine[7],
        )
    assert relative(alone, expected) < 1e-5
    used = [tensor for tensor in mine if tensor is not None]
    grads = torch.autograd.grad(found, used, grad.float())
    for ours, theirs in zip(grads, expected_grads, strict=True):
        assert relative(ours, theirs) < 1e-5


@pytest.mark.parametrize('activation', ACTIVATIONS)
def test_mlp_half_passes_gradcheck(activation: str) -> None:
    tensors, scales = mlp_inputs((2, 3, 2, 3), MLP_CASES[0])
    inputs = [*tensors, scales['factors'], scales['res_scale']]
    for tensor in inputs:
        tensor.requires_grad_()

    def half(*given: Tensor) -> Tensor:
        *tensors, factors, res_scale = given
        options = dict(factors=factors, res_scale=res_scale, kept=scales['kept'])
        return mlp_residual(*tensors, activation, **options)

    torch.autograd.gradcheck(half, inputs)


def test_star_relu_equals_its_formula_and_passes_gradcheck() -> None:
    x = noise(3, 4).requires_grad_()
    scale = torch.tensor([0.9], dtype=torch.float64, requires_grad=True)
    bias = torch.tensor([-0.4], dtype=torch.float64, requires_grad=True)
    expected = 0.9 * x.clamp(min=0) ** 2 - 0.4
    torch.testing.assert_close(star_relu(x, scale, bias), expected)
    torch.autograd.gradcheck(star_relu, (x, scale, bias))


def test_mistakes_are_named() -> None:
    x, factors = torch.zeros(1, 4, 2, 2), torch.ones(4)
    with pytest.raises(ValueError, match=r'pool_size=2: .* odd'):
        pool_residual(x, factors, 1e-5, 2)
    with pytest.raises(ValueError, match="implementation='cuda': choose from"):
        pool_residual(x, factors, 1e-5, implementation='cuda')
    with pytest.raises(ValueError, match=r'pool_size=5.*pool_size=3'):
        pool_residual(x, factors, 1e-5, 5, implementation='triton')
    weight = torch.ones(4, 4)
    with pytest.raises(ValueError, match="activation='tanh': choose from gelu, relu"):
        mlp_residual(x, x, weight, None, weight, None, 'tanh')
    assert tuple(DEVICES) == POOLINGS
