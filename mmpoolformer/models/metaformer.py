"""MetaFormer: block, stage, trunk, and the dense backbone with its contract.

After "MetaFormer is actually what you need for vision", arXiv 2111.11418, and
github.com/sail-sg/poolformer (Apache-2.0). Parameter names are timm's; state
dicts in any other known format are renamed while they are loaded.
"""

from collections.abc import Sequence

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from timm.layers import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from mmpoolformer.checkpoints import load_weights, native_keys
from mmpoolformer.models.layers import Downsample, GroupNorm1, LayerScale, Mlp
from mmpoolformer.models.token_mixers import Pooling
from mmpoolformer.models.variants import Variant


class MetaFormerBlock(nn.Module):
    """Token mixer and MLP, each with norm, layer scale and shortcut.

    Args:
        channels: Channels of the map.
        variant: The architecture's row of the table.
        drop_path: Chance, 0 to 1, that a branch is skipped for an image.
    """

    def __init__(self, channels: int, variant: Variant, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = GroupNorm1(channels)
        self.token_mixer = Pooling(variant.pool_size)
        self.layer_scale1 = LayerScale(channels, variant.layer_scale_init)
        self.norm2 = GroupNorm1(channels)
        self.mlp = Mlp(channels, variant.mlp_ratio)
        self.layer_scale2 = LayerScale(channels, variant.layer_scale_init)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, H, W)."""
        mixed = self.layer_scale1(self.token_mixer(self.norm1(x)))
        x = x + self.drop_path(mixed)
        return x + self.drop_path(self.layer_scale2(self.mlp(self.norm2(x))))


class MetaFormerStage(nn.Module):
    """Downsampling (not in the first stage) and a row of blocks.

    Args:
        in_channels: Channels of the stage before.
        channels: Channels of this stage.
        drop_paths: Drop-path rate of each block; their number is the depth.
        variant: The architecture's row of the table.
        downsample: Whether the stage starts by halving the map.
        with_cp: Whether blocks recompute their activations in the backward pass.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        drop_paths: Sequence[float],
        variant: Variant,
        downsample: bool,
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        self.downsample = (
            Downsample(in_channels, channels, kernel_size=3, stride=2, padding=1)
            if downsample
            else nn.Identity()
        )
        self.blocks = nn.Sequential(
            *(MetaFormerBlock(channels, variant, rate) for rate in drop_paths)
        )
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C', H', W')."""
        x = self.downsample(x)
        if not (self.with_cp and self.training and torch.is_grad_enabled()):
            return self.blocks(x)
        for block in self.blocks:
            x = recompute(block, x, use_reentrant=False)
        return x


class MetaFormerTrunk(BaseModule):
    """Stem and stages: what the dense backbone and the classifier share.

    Args:
        variant: The architecture's row of the table.
        in_channels: Channels of the image.
        drop_path_rate: Drop-path rate of the last block; it grows linearly from 0
            at the first one.
        with_cp: Whether blocks recompute their activations in the backward pass
            (less memory, same outputs and gradients).
        init_cfg: `None` (random) or mmengine's, see `init_weights`.

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
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if not isinstance(in_channels, int) or in_channels < 1:
            raise ValueError(f'in_channels={in_channels!r}: give a whole number from 1')
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f'drop_path_rate={drop_path_rate!r}: must be in [0, 1)')
        self.variant = variant
        self.in_channels = in_channels
        dims, depths = variant.dims, variant.depths
        last = max(sum(depths) - 1, 1)
        rates = (drop_path_rate * i / last for i in range(sum(depths)))
        self.stem = Downsample(in_channels, dims[0], kernel_size=7, stride=4, padding=2)
        self.stages = nn.ModuleList(
            MetaFormerStage(
                dims[max(i - 1, 0)],
                dims[i],
                [next(rates) for _ in range(depth)],
                variant,
                downsample=i > 0,
                with_cp=with_cp,
            )
            for i, depth in enumerate(depths)
        )
        self._register_load_state_dict_pre_hook(_rename_keys)

    def init_weights(self) -> None:
        """Load pretrained weights if `init_cfg` asks for them.

        `dict(type='Pretrained', checkpoint=X)`: X is a path, a URL, `zoo://NAME` or
        `timm://NAME`, in any key format that `mmpoolformer.checkpoints` knows; an
        optional `prefix` names the part of the file to take. Other initialisers
        are mmengine's. Without `init_cfg` the parameters stay as constructed.

        Raises:
            ValueError: If the file lacks a parameter or has one of another shape.
        """
        if not _asks_for_pretrained(self.init_cfg):
            super().init_weights()
            return
        report = load_weights(
            self, self.init_cfg['checkpoint'], prefix=self.init_cfg.get('prefix')
        )
        self._is_init = True
        print_log(str(report), logger='current')

    def check_input(self, x: Tensor) -> None:
        """Refuse an input that is not (B, in_channels, H, W)."""
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f'input of shape {tuple(x.shape)}: expected (B, {self.in_channels}, '
                'H, W); another number of channels is set by in_channels'
            )


class MetaFormer(MetaFormerTrunk):
    """The dense backbone: an image to maps at strides 4, 8, 16 and 32.

    Each map that is given out passes a norm of its own, `norm0` to `norm3`, which
    ImageNet weights do not hold. Only the norms of `out_indices` exist, so every
    parameter gets a gradient (stages after the last index are not built).

    Attributes:
        out_channels: Channels of each map given out.
        out_strides: Image pixels per cell of each map given out.

    Args:
        variant: The architecture's row of the table.
        in_channels: Channels of the image.
        out_indices: Stages whose maps are given out, counted from 0, rising.
        frozen_stages: -1 freezes nothing, 0 the stem, k the stem and the stages
            0..k-1. Frozen parts stay in evaluation mode.
        drop_path_rate: Drop-path rate of the last block.
        with_cp: Whether blocks recompute their activations in the backward pass.
        init_cfg: See `MetaFormerTrunk.init_weights`.

    Raises:
        ValueError: If an option is out of its range.
    """

    def __init__(
        self,
        variant: Variant,
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(variant, in_channels, drop_path_rate, with_cp, init_cfg)
        n_stages = len(variant.depths)
        self.out_indices = _checked_indices(out_indices, n_stages)
        if frozen_stages not in range(-1, n_stages + 1):
            raise ValueError(
                f'frozen_stages={frozen_stages!r}: choose from -1 (nothing), 0 (the '
                f'stem) to {n_stages} (the stem and all stages)'
            )
        self.frozen_stages = frozen_stages
        self.out_channels = tuple(variant.dims[i] for i in self.out_indices)
        self.out_strides = tuple(4 * 2**i for i in self.out_indices)
        for i in self.out_indices:
            self.add_module(f'norm{i}', GroupNorm1(variant.dims[i]))
        del self.stages[self.out_indices[-1] + 1 :]
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of `out_indices`.

        Args:
            x: Images (B, in_channels, H, W); H and W need not be multiples of 32.

        Returns:
            One (B, dims[i], ~H / 4 / 2**i, ~W / 4 / 2**i) map for each index i.
        """
        self.check_input(x)
        x = self.stem(x)
        maps = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.out_indices:
                maps.append(getattr(self, f'norm{i}')(x))
        return tuple(maps)

    def train(self, mode: bool = True) -> 'MetaFormer':
        """Set the mode of all but the frozen parts; return the backbone."""
        super().train(mode)
        self._freeze()
        return self

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        for part in (self.stem, *self.stages[: self.frozen_stages]):
            part.eval().requires_grad_(False)


def _rename_keys(state_dict: dict, prefix: str, *_: object) -> None:
    """Bring the keys under `prefix` to native names before they are loaded."""
    native_keys(state_dict, prefix)


def _checked_indices(out_indices: Sequence[int], n_stages: int) -> tuple[int, ...]:
    indices = tuple(out_indices)
    legal = range(n_stages)
    if not indices or indices != tuple(sorted({i for i in indices if i in legal})):
        raise ValueError(
            f'out_indices={indices}: give rising stage numbers from 0 to {n_stages - 1}'
        )
    return indices


def _asks_for_pretrained(init_cfg: dict | list[dict] | None) -> bool:
    entries = init_cfg if isinstance(init_cfg, list) else [init_cfg]
    if not any(entry and entry.get('type') == 'Pretrained' for entry in entries):
        return False
    if isinstance(init_cfg, list):
        raise ValueError(
            'init_cfg is a list with a Pretrained entry: give that dict alone, it '
            'sets every parameter'
        )
    unknown = sorted(set(init_cfg) - {'type', 'checkpoint', 'prefix'})
    if unknown or 'checkpoint' not in init_cfg:
        raise ValueError(
            f'init_cfg={dict(init_cfg)!r}: Pretrained needs checkpoint and takes '
            f'prefix{", not " + ", ".join(unknown) if unknown else ""}'
        )
    return True
