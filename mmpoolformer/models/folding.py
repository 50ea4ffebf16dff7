"""Models for inference only: constants folded into weights, laid out for speed."""

from collections.abc import Callable
from copy import deepcopy
from math import inf
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmpoolformer.models.block import (
    ACTIVATIONS,
    MetaFormerBlock,
    branch_weights,
    fuses_mixing,
    fuses_mlp,
    mix_tokens_fused,
)
from mmpoolformer.models.layers import ChannelNorm, GroupNorm1
from mmpoolformer.models.metaformer import MetaFormerTrunk
from mmpoolformer.models.neck_and_heads import optimize_neck_and_heads, read_plain_maps
from mmpoolformer.ops.pooling import moments
from mmpoolformer.ops.products import (
    activated,
    can_pack,
    is_compiling,
    linear,
    pack,
)
from mmpoolformer.utils.logs import warn

DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16}
RUNS = 5  # to time compiled code by; the first of them compiles


def optimize_for_inference(
    model: nn.Module,
    dtype: torch.dtype = torch.float32,
    compiled: bool | str = False,
) -> nn.Module:
    """Return an equivalent of a model that predicts faster and can't be trained.

    In blocks the second norm's weight and bias go into the first layer of the MLP, the
    layer scale into the second; convolutions anywhere in the model take in a BatchNorm
    behind them; what is known to gain from it is laid out as channels_last. Images of
    any size can follow each other. The results are the same up to rounding.

    Args:
        model: A backbone, a classifier, or a whole model of OpenMMLab with one inside.
            It stays as it is.
        dtype: `torch.float32`, or `torch.bfloat16`: then backbones and classifiers of
            this family compute in bfloat16, and so do necks and heads that are known to
            be safe in it (see `optimize_neck_and_heads`); results are float32. On CPUs
            without instructions for it, bfloat16 is slower, so all keep float32 and a
            warning says so.
        compiled: Whether trunks are compiled too (`torch.compile`, under
            `torch.no_grad` with frozen weights): `'fixed'` for every size of images
            anew, `'dynamic'` or `True` once for all. The first images then take
            minutes. Where that turns out to be slower it is not used, and a warning
            says so.

    Raises:
        ValueError: If the type or the way to compile is another one, or nothing in the
            model can be folded.
    """
    if compiled not in (False, True, 'fixed', 'dynamic'):
        raise ValueError(f"compiled={compiled!r}: give 'fixed', 'dynamic' or False")
    if dtype not in DTYPES.values():
        known = ' or '.join(map(str, DTYPES.values()))
        raise ValueError(f'dtype={dtype}: give {known}')
    if not any(isinstance(part, MetaFormerTrunk) for part in model.modules()):
        raise ValueError(
            f'{type(model).__name__} holds no model of this family: nothing to optimize'
        )
    model = deepcopy(model).eval().requires_grad_(False)
    model = _fold_batch_norms(model)
    if dtype == torch.bfloat16 and not computes_bfloat16(model):
        warn('this CPU has no instructions for bfloat16: the model stays in float32')
        dtype = torch.float32
    if isinstance(model, MetaFormerTrunk):
        return _optimized_trunk(model, dtype, compiled)
    read_plain_maps(model)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, MetaFormerTrunk):
                given = optimize_neck_and_heads(parent, child, dtype)
                trunk = _optimized_trunk(child, dtype, compiled, given)
                setattr(parent, name, trunk)
    return model


def computes_bfloat16(model: nn.Module) -> bool:
    """Tell whether a model's device computes bfloat16 faster than float32."""
    device = next(model.parameters()).device
    if device.type == 'cuda':
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != 'cpu':
        return True
    capability = torch.backends.cpu.get_cpu_capability()
    return capability.startswith('AVX512') and _has_flag('avx512_bf16', 'amx_bf16')


def _has_flag(*names: str) -> bool:
    """Tell whether the CPU has an instruction set, by Linux's own list."""
    try:
        with open('/proc/cpuinfo', encoding='ascii', errors='ignore') as lines:
            flags = next((line for line in lines if line.startswith('flags')), '')
    except OSError:  # not Linux: torch tells of no other sign
        return False
    return not set(names).isdisjoint(flags.split())


class _Typed(nn.Module):
    """A trunk in a type of its own, with outputs in another."""

    def __init__(
        self, trunk: nn.Module, dtype: torch.dtype, given: torch.dtype
    ) -> None:
        super().__init__()
        self.trunk = trunk.to(dtype)
        self.dtype, self.given = dtype, given

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        result = self.trunk(x.to(self.dtype))
        if isinstance(result, Tensor):
            return result.to(self.given)
        return tuple(maps.to(self.given) for maps in result)


class _Compiled(nn.Module):
    """A trunk that is compiled, where that makes it faster.

    Args:
        trunk: The trunk.
        dynamic: Whether it is compiled once for all sizes.
    """

    def __init__(self, trunk: nn.Module, dynamic: bool) -> None:
        super().__init__()
        self.trunk, self.dynamic = trunk, dynamic
        self.code = torch.compile(trunk, dynamic=dynamic)
        self.gains: dict[torch.Size | None, bool] = {}

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        size = None if self.dynamic else x.shape
        if size not in self.gains:
            self.gains[size] = self._gains(x)
        return self.compiled(x) if self.gains[size] else self.trunk(x)

    def compiled(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run the trunk's code, which is made at the first time."""
        from torch._inductor import config  # takes seconds: for those who compile

        # Frozen: weights are constants, laid out for the library that is called. As an
        # option of `torch.compile` it would not reach what traces the Python code.
        with config.patch(freezing=True):
            return self.code(x)

    def _gains(self, x: Tensor) -> bool:
        """Tell whether compiled is faster, by the best of some runs in turns."""
        best = dict.fromkeys((self.compiled, self.trunk), inf)
        for _ in range(RUNS):
            for run in best:
                best[run] = min(best[run], _seconds(run, x))
        fast, plain = best.values()
        if fast > plain:
            warn(
                f'images of {tuple(x.shape)} take {fast * 1e3:.1f} ms compiled, not '
                f'compiled {plain * 1e3:.1f} ms: it is not used'
            )
        return fast <= plain


def _seconds(run: Callable[[Tensor], object], x: Tensor) -> float:
    start = perf_counter()
    run(x)
    if x.is_cuda:
        torch.cuda.synchronize()
    return perf_counter() - start


class FoldedBlock(nn.Module):
    """A block for inference, made from the one that was trained.

    Args:
        block: A block whose MLP is fused, see `fuses_mlp`.
    """

    def __init__(self, block: MetaFormerBlock) -> None:
        super().__init__()
        block = deepcopy(block)
        self.activation = ACTIVATIONS[type(block.mlp.act)]
        weight1, bias1, weight2, bias2, factors = branch_weights(block)
        if type(block.norm2) in (GroupNorm1, ChannelNorm):
            weight1, bias1 = _norm_folded(block.norm2, weight1, bias1)
        if factors is not None:
            weight2 = weight2 * factors[:, None]
        tensors = dict(weight1=weight1, bias1=bias1, weight2=weight2, bias2=bias2)
        for name, tensor in tensors.items():
            kept = None if tensor is None else tensor.detach().clone()
            self.register_buffer(name, kept)
        self.norm2, self.res_scale2 = block.norm2, block.res_scale2
        block.mlp = None  # leaves the half that mixes tokens
        block.norm2 = block.layer_scale2 = block.res_scale2 = None
        self.mixing = block
        self.pools = bool(block.fused) and fuses_mixing(block, torch.empty(0))
        self._packed: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, H, W)."""
        if is_compiling():
            return self._fusible(x)
        x = self.mixing(x)
        rows = self.norm2(x).permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)
        weight1, weight2 = self._weights(rows)
        hidden = linear(rows, weight1, self.bias1, self.activation)
        branch = linear(hidden, weight2, self.bias2)
        return self.res_scale2(x) + branch.permute(0, 3, 1, 2)

    def _fusible(self, x: Tensor) -> Tensor:
        """Run as sums and convolutions, which Inductor fuses with what is around.

        Of GroupNorm it would turn the layout, there and back.
        """
        x = mix_tokens_fused(self.mixing, x) if self.pools else self.mixing(x)
        if type(self.norm2) is not GroupNorm1:
            return self.res_scale2(x) + self._convolved(self.norm2(x))
        mean, rstd = moments(x, self.norm2.eps)
        branch = self._convolved(((x - mean) * rstd).to(x.dtype))
        return self.res_scale2(x) + branch

    def _convolved(self, x: Tensor) -> Tensor:
        weight1, weight2 = (w[..., None, None] for w in (self.weight1, self.weight2))
        hidden = F.conv2d(x, weight1, self.bias1)
        return F.conv2d(activated(hidden, self.activation), weight2, self.bias2)

    def _weights(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return both weights, packed at their first use."""
        plain = self.weight1, self.weight2
        if not can_pack(rows, self.weight1):
            return plain
        if self._packed is None:
            self._packed = tuple(pack(rows, weight) for weight in plain)
        return self._packed

    def _apply(self, *arguments: Any, **options: Any) -> 'FoldedBlock':
        self._packed = None  # for another type or device
        return super()._apply(*arguments, **options)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self._packed = None
        super()._load_from_state_dict(*arguments)

    def __getstate__(self) -> dict:
        """Leave the packed weights out of copies and files."""
        return {**self.__dict__, '_packed': None}


def _norm_folded(
    norm: GroupNorm1 | ChannelNorm, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Move a norm's own weight and bias into the layer after it."""
    if norm.bias is not None:
        added = weight @ norm.bias
        bias = added if bias is None else bias + added
        norm.register_parameter('bias', None)
    weight = weight * norm.weight
    norm.register_parameter('weight', None)
    return weight, bias


def _optimized_trunk(
    trunk: MetaFormerTrunk,
    dtype: torch.dtype,
    compiled: bool | str,
    given: torch.dtype = torch.float32,
) -> nn.Module:
    trunk.to(memory_format=torch.channels_last)
    for stage in trunk.stages:
        stage.channels_last = True
        for i, block in enumerate(stage.blocks):
            if fuses_mlp(block, torch.empty(0)):
                stage.blocks[i] = FoldedBlock(block)
    result = trunk if dtype == torch.float32 else _Typed(trunk, dtype, given)
    return _Compiled(result, compiled != 'fixed') if compiled else result


def _fold_batch_norms(model: nn.Module) -> nn.Module:
    kinds = nn.modules.batchnorm._BatchNorm  # of mmengine's in place of SyncBN, too
    if not any(isinstance(part, kinds) for part in model.modules()):
        return model
    # Here, as backbones and classifiers work without mmcv and have no BatchNorm.
    from mmcv.cnn.utils import fuse_conv_bn

    _own_convolutions(model)
    return fuse_conv_bn(model)


def _own_convolutions(model: nn.Module) -> None:
    """Copy convolutions that several parts share, each with a BatchNorm of its own."""
    seen = set()
    for part in model.modules():
        for name, child in part._modules.items():
            if isinstance(child, nn.Conv2d) and child in seen:
                part._modules[name] = deepcopy(child)
            seen.add(child)
