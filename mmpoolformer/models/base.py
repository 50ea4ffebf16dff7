"""What every backbone and classifier here shares: weights, checks, recomputation."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from timm.models import FeatureInfo
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint as recompute

from mmpoolformer.checkpoints import OUTPUT_NORMS, load_weights, native_keys
from mmpoolformer.models.windows import any_size
from mmpoolformer.ops import POOLINGS
from mmpoolformer.ops.products import is_transformed


class PretrainedModule(BaseModule):
    """A model of images that loads weights with any known names.

    Attributes:
        stem_names: Modules and parameters before the stages.
        stages_name: The list of stages; each has `blocks`.

    Args:
        in_channels: Channels of the image.
        init_cfg: `None` (random) or mmengine's, see `init_weights`.

    Raises:
        ValueError: If `in_channels` is no positive whole number.
    """

    stem_names: ClassVar[tuple[str, ...]] = ('stem',)
    stages_name: ClassVar[str] = 'stages'

    def __init__(
        self, in_channels: int = 3, init_cfg: dict | list[dict] | None = None
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if not isinstance(in_channels, int) or in_channels < 1:
            raise ValueError(f'in_channels={in_channels!r}: give a whole number from 1')
        self.in_channels = in_channels
        self._register_load_state_dict_pre_hook(_rename_keys)

    def init_weights(self) -> None:
        """Load pretrained weights if `init_cfg` asks for them.

        `dict(type='Pretrained', checkpoint=X)`: X is a path, a URL, `zoo://NAME`,
        `timm://NAME` or `hf://OWNER/NAME`, perhaps with `#ENTRY`, see `read_source`,
        in any key format that `mmpoolformer.checkpoints` knows; an optional `prefix`
        names the part of the file to take, an optional `fresh` parameters that start
        anew, such as `['head.fc']` for other classes. Other initialisers are
        mmengine's. The first layer of RGB weights is made to fit `in_channels` by
        timm's rule. Without `init_cfg` the parameters stay as constructed.

        Raises:
            ValueError: If the file lacks a parameter or has one of another shape.
        """
        if not _asks_for_pretrained(self.init_cfg):
            super().init_weights()
            return
        fresh = self.init_cfg.get('fresh', ())
        fresh = (fresh,) if isinstance(fresh, str) else fresh
        report = load_weights(
            self,
            self.init_cfg['checkpoint'],
            fresh=(*OUTPUT_NORMS, *fresh),
            prefix=self.init_cfg.get('prefix'),
        )
        self._is_init = True
        print_log(f'Loaded {report}', logger='current')

    def check_input(self, x: Tensor) -> None:
        """Refuse an input that is not (B, in_channels, H, W)."""
        _check_images(x, self.in_channels)

    def group_matcher(self, coarse: bool = False) -> dict:
        """Tell timm's layer-wise rules (`timm.models.group_parameters`) the layers.

        Args:
            coarse: Whether a layer is a stage, not a block.
        """
        stage = rf'^{self.stages_name}\.(\d+)'
        # What stands before the blocks of a stage belongs to its first one.
        blocks = [(rf'{stage}\.blocks\.(\d+)', None), (stage, (0,))]
        stem = '|'.join(self.stem_names)
        return {'stem': f'^(?:{stem})', 'blocks': stage if coarse else blocks}

    def __prepare_scriptable__(self) -> None:
        """Refuse `torch.jit.script`, which asks this of every module."""
        raise TypeError(
            f'torch.jit.script does not understand {type(self).__name__}: take '
            'torch.jit.trace or torch.export, or mmpoolformer export'
        )


@fx.wrap
def _check_images(x: Tensor, in_channels: int) -> None:
    if x.ndim != 4 or x.shape[1] != in_channels:
        raise ValueError(
            f'input of shape {tuple(x.shape)}: expected (B, {in_channels}, H, W); '
            'another number of channels is set by in_channels'
        )


class DenseBackbone(PretrainedModule):
    """What backbones that give out stage maps share; a trunk has made their parts."""

    def set_outputs(
        self,
        out_indices: Sequence[int],
        frozen_stages: int,
        first_stride: int,
        norm: Callable[[int], nn.Module],
    ) -> None:
        """Build the norms of the maps, drop the stages after the last one, and freeze.

        Args:
            out_indices: See `MetaFormer`.
            frozen_stages: See `MetaFormer`.
            first_stride: Image pixels per cell of the first map; it doubles by stage.
            norm: Builds a norm for a number of channels.

        Raises:
            ValueError: If an option is out of its range.
        """
        dims = self.variant.dims
        indices, legal = tuple(out_indices), range(len(dims))
        if not indices or indices != tuple(sorted({i for i in indices if i in legal})):
            raise ValueError(
                f'out_indices={indices}: give rising stage numbers from 0 to '
                f'{len(dims) - 1}'
            )
        if frozen_stages not in range(-1, len(dims) + 1):
            raise ValueError(
                f'frozen_stages={frozen_stages!r}: choose from -1 (nothing), 0 (the '
                f'stem) to {len(dims)} (the stem and all stages)'
            )
        self.out_indices, self.frozen_stages = indices, frozen_stages
        name = self.stages_name
        self.feature_info = FeatureInfo(
            [
                dict(num_chs=dim, reduction=first_stride * 2**i, module=f'{name}.{i}')
                for i, dim in enumerate(dims)
            ],
            indices,
        )
        self.out_channels = tuple(self.feature_info.channels())
        self.out_strides = tuple(self.feature_info.reduction())
        for i in indices:
            self.add_module(f'norm{i}', norm(dims[i]))
        del getattr(self, name)[indices[-1] + 1 :]
        self._freeze()

    def train(self, mode: bool = True) -> 'DenseBackbone':
        """Set the mode of all but the frozen parts; return the backbone."""
        super().train(mode)
        self._freeze()
        return self

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        stem = (getattr(self, name) for name in self.stem_names)
        stages = getattr(self, self.stages_name)[: self.frozen_stages]
        for part in (*stem, *stages):
            part.requires_grad_(False)
            if isinstance(part, nn.Module):
                part.eval()


class RecomputedSequential(nn.Sequential):
    """Modules in a row that recompute their activations in the backward pass.

    In training this takes less memory and more time, with the same outputs and
    gradients. Not under the transforms of `torch.func`, which torch can't recompute.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pass x through all modules."""
        if not (self.training and torch.is_grad_enabled()) or is_transformed():
            return super().forward(x)
        for module in self:
            x = recompute(module, x, use_reentrant=False)
        return x


def resampled_position(embedding: Tensor, size: Sequence[int]) -> Tensor:
    """Bring a position embedding to another size of map.

    Bicubically, without antialiasing: a learned embedding is smooth, and the plain
    kernel is the one that exporters know. In its own size it stays as it is.

    Args:
        embedding: The embedding (1, C, h, w).
        size: Height and width H, W of the map, in cells.

    Returns:
        The embedding (1, C, H, W), resampled in float32 and given in its own type.
    """
    if not any_size() and tuple(size) == tuple(embedding.shape[2:]):
        return embedding
    resampled = F.interpolate(embedding.float(), size=tuple(size), mode='bicubic')
    return resampled.to(embedding.dtype)


def checked_rate(name: str, rate: float) -> float:
    """Return a rate that is in [0, 1), or raise a `ValueError` that names it."""
    if not 0 <= rate < 1:
        raise ValueError(f'{name}={rate!r}: must be in [0, 1)')
    return rate


def checked_fusing(fused: bool | str) -> bool | str:
    """Return how blocks run, or raise a `ValueError`."""
    if not isinstance(fused, bool) and (type(fused) is int or fused not in POOLINGS):
        choices = ', '.join(map(repr, POOLINGS))
        raise ValueError(f'fused={fused!r}: choose from True, False, {choices}')
    return fused


def checked_classes(num_classes: int) -> int:
    """Return a number of classes, or raise a `ValueError`."""
    if not isinstance(num_classes, int) or num_classes < 1:
        raise ValueError(f'num_classes={num_classes!r}: give a whole number from 1')
    return num_classes


def _rename_keys(state_dict: dict, prefix: str, *_: object) -> None:
    """Bring the keys under `prefix` to native names before they are loaded."""
    native_keys(state_dict, prefix)


def _asks_for_pretrained(init_cfg: dict | list[dict] | None) -> bool:
    entries = init_cfg if isinstance(init_cfg, list) else [init_cfg]
    if not any(entry and entry.get('type') == 'Pretrained' for entry in entries):
        return False
    if isinstance(init_cfg, list):
        raise ValueError(
            'init_cfg is a list with a Pretrained entry: give that dict alone, it '
            'sets every parameter'
        )
    unknown = sorted(set(init_cfg) - {'type', 'checkpoint', 'prefix', 'fresh'})
    if unknown or 'checkpoint' not in init_cfg:
        raise ValueError(
            f'init_cfg={dict(init_cfg)!r}: Pretrained needs checkpoint and takes '
            f'prefix and fresh{", not " + ", ".join(unknown) if unknown else ""}'
        )
    return True
