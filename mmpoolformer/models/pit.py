"""PiT, the pooling-based vision transformer, as dense backbone and as classifier.

After "Rethinking Spatial Dimensions of Vision Transformers", arXiv 2103.16302, and
github.com/naver-ai/pit (Apache-2.0). Layers, initialisation and parameter names are
those of timm's `timm/models/pit.py` (Apache-2.0), which this builds on; what differs:
images of any size, maps at the strides that detectors expect, freezing, recomputing,
and loading of every known key format.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

from timm.models.pit import PoolingVisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from mmpoolformer.models.base import (
    DenseBackbone,
    PretrainedModule,
    RecomputedSequential,
    checked_classes,
    checked_rate,
    resampled_position,
)
from mmpoolformer.models.layers import ChannelNorm
from mmpoolformer.models.variants import PIT, PiTVariant, resolve_variant
from mmpoolformer.models.windows import any_size, ceil_divided
from mmpoolformer.registry import MODELS


class PiTTrunk(PretrainedModule):
    """Patches, position embedding, class tokens and stages, for images of any size.

    The position embedding was learned for the patches of one image size; for another
    number of patches it is resampled, see `resampled_position`.

    Args:
        variant: The architecture's row of the table.
        distilled: Whether there is a second class token, for the teacher's answers.
        in_channels: Channels of the image.
        drop_path_rate: Drop-path rate of the last block; it grows linearly from 0 at
            the first one. (The authors' code stops one step before the given rate.)
        with_cp: Whether blocks recompute their activations in the backward pass.
        init_cfg: See `PretrainedModule.init_weights`.

    Raises:
        ValueError: If an option is out of its range.
    """

    stem_names: ClassVar = ('patch_embed', 'pos_embed', 'cls_token')
    stages_name: ClassVar = 'transformers'

    def __init__(
        self,
        variant: PiTVariant,
        distilled: bool = False,
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(in_channels, init_cfg)
        parts = PoolingVisionTransformer(
            img_size=variant.image_size,
            patch_size=variant.patch_size,
            stride=variant.stride,
            base_dims=[variant.head_dim] * len(variant.depths),
            depth=list(variant.depths),
            heads=list(variant.heads),
            mlp_ratio=variant.mlp_ratio,
            num_classes=0,
            in_chans=in_channels,
            distilled=distilled,
            drop_path_rate=checked_rate('drop_path_rate', drop_path_rate),
        )
        self.variant = variant
        self.patch_embed = parts.patch_embed
        self.pos_embed = parts.pos_embed
        self.cls_token = parts.cls_token
        self.transformers = parts.transformers
        for stage in self.transformers if with_cp else ():
            stage.blocks = RecomputedSequential(*stage.blocks)

    def no_weight_decay(self) -> set[str]:
        """Return the parameters that timm's recipes train without weight decay."""
        return {'pos_embed', 'cls_token'}

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Turn images into patches and class tokens.

        Args:
            x: Images (B, in_channels, H, W), not smaller than a patch.

        Returns:
            The map of patches (B, C, H', W') and the class tokens (B, 1 or 2, C).
        """
        x = self.patch_embed(x)
        tokens = self.cls_token.expand(x.shape[0], -1, -1)
        return x + resampled_position(self.pos_embed, x.shape[2:]), tokens


@MODELS.register_module()
class PiT(DenseBackbone, PiTTrunk):
    """PiT as a dense backbone: an image to maps at strides 8, 16 and 32.

    In any OpenMMLab config: `backbone=dict(type='mmpoolformer.PiT')`.

    The patches overlap and the trained network pads no image, so its own maps are a
    cell short (27, 14 and 7 cells for 224 pixels), and PiT-B steps by 7 pixels. Images
    are padded by zeros, right and below, as far as the last patch reaches over the
    edge; then each map is brought to one cell for every 8, 16 or 32 pixels, rounded up,
    bilinearly where it does not have that size already. Thus each map is half as large
    as the one before, rounded up, as pyramids need it. At the trained size everything
    before that step is what timm's PiT computes.

    Each map that is given out passes a LayerNorm over channels of its own, `norm0` to
    `norm2`, which ImageNet weights do not hold. Only the norms of `out_indices` exist,
    no stage after the last index, and no classifier. The class tokens are not given
    out, yet every parameter gets a gradient: patches attend to them in every block.

    Attributes:
        out_channels: Channels of each map given out.
        out_strides: Image pixels per cell of each map given out.

    Args:
        arch: `'ti'`, `'xs'`, `'s'`, `'b'`, or a dict with the fields of
            `mmpoolformer.models.PiTVariant`; `dict(base='ti', image_size=384)` changes
            some.
        distilled: Whether there are two class tokens, as in the distilled weights.
        in_channels: Channels of the image.
        out_indices: Stages whose maps are given out, counted from 0, rising.
        frozen_stages: -1 freezes nothing, 0 the patch and position embedding and the
            class tokens, k these and the stages 0..k-1. Frozen parts stay in evaluation
            mode.
        drop_path_rate: Drop-path rate of the last block, in [0, 1).
        with_cp: Whether blocks recompute their activations in the backward pass.
        init_cfg: `dict(type='Pretrained', checkpoint=X)` with a path (`.pdparams` of
            Paddle's among them), a URL, `zoo://pit_ti` or `timm://pit_ti_224.in1k`.

    Raises:
        ValueError: If an option is out of its range.
    """

    def __init__(
        self,
        arch: str | Mapping = 'ti',
        distilled: bool = False,
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2),
        frozen_stages: int = -1,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        variant = resolve_variant(arch, PIT)
        super().__init__(
            variant, distilled, in_channels, drop_path_rate, with_cp, init_cfg
        )
        # The next power of two: 8 for steps of 7 and 8 pixels.
        first = 1 << (variant.stride - 1).bit_length()
        self.set_outputs(
            out_indices, frozen_stages, first, partial(ChannelNorm, eps=1e-6)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of `out_indices`.

        Args:
            x: Images (B, in_channels, H, W) of any size.

        Returns:
            One (B, dims[i], ceil(H / stride), ceil(W / stride)) map for each index i,
            with the stride that `out_strides` tells, laid out plainly.
        """
        self.check_input(x)
        sizes = [
            tuple(ceil_divided(n, stride) for n in x.shape[2:])
            for stride in self.out_strides
        ]
        state = self.embed(self._padded(x))
        maps = []
        for i, stage in enumerate(self.transformers):
            state = stage(state)  # the map (B, C, H', W'), the tokens (B, 1 or 2, C)
            if i in self.out_indices:
                found = _resized(state[0], sizes[len(maps)])
                maps.append(getattr(self, f'norm{i}')(found).contiguous())
        return tuple(maps)

    def _padded(self, x: Tensor) -> Tensor:
        """Pad images so that the patches, at least one, cover them."""
        patch, stride = self.variant.patch_size, self.variant.stride
        bottom, right = (max(patch - n, (patch - n) % stride) for n in x.shape[2:])
        if not (any_size() or bottom or right):
            return x
        return F.pad(x, (0, right, 0, bottom))


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    if not any_size() and tuple(x.shape[2:]) == size:
        return x
    return F.interpolate(x, size, mode='bilinear', align_corners=False)


@MODELS.register_module()
class PiTClassifier(PiTTrunk):
    """PiT from images of any size to logits.

    A distilled model has two heads, one for each class token, and gives the mean of
    their logits. While it is trained with a teacher, `set_distilled_training` makes it
    give both, as timm's models do; in evaluation the mean remains.

    Args:
        arch: See `PiT`.
        num_classes: Classes, from 1.
        distilled: Whether there is a second class token and head.
        in_channels: Channels of the image.
        drop_path_rate: Drop-path rate of the last block, in [0, 1).
        drop_rate: Dropout rate before the last linear layers, in [0, 1).
        with_cp: Whether blocks recompute their activations in the backward pass.
        init_cfg: See `PretrainedModule.init_weights`.

    Raises:
        ValueError: If an option is out of its range.
    """

    def __init__(
        self,
        arch: str | Mapping = 'ti',
        num_classes: int = 1000,
        distilled: bool = False,
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
        drop_rate: float = 0.0,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        variant = resolve_variant(arch, PIT)
        super().__init__(
            variant, distilled, in_channels, drop_path_rate, with_cp, init_cfg
        )
        channels = variant.dims[-1]
        self.num_classes = checked_classes(num_classes)
        self.distilled_training = False
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.head_drop = nn.Dropout(checked_rate('drop_rate', drop_rate))
        self.head = nn.Linear(channels, num_classes)
        self.head_dist = nn.Linear(channels, num_classes) if distilled else None

    def set_distilled_training(self, enable: bool = True) -> None:
        """Make training give the logits of both heads, where there are two."""
        self.distilled_training = enable

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Map images to logits.

        Args:
            x: Images (B, in_channels, H, W), not smaller than a patch. As in training,
                pixels right and below that do not fill another patch are not seen.

        Returns:
            Logits (B, num_classes); in distilled training those of the class token's
            head and those of the distillation token's.

        Raises:
            ValueError: If the images are smaller than a patch.
        """
        self.check_input(x)
        if min(x.shape[2:]) < self.variant.patch_size:
            raise ValueError(
                f'images of {x.shape[2]} x {x.shape[3]} pixels: PiT needs at least a '
                f'patch, {self.variant.patch_size} x {self.variant.patch_size}'
            )
        _, tokens = self.transformers(self.embed(x))
        tokens = self.head_drop(self.norm(tokens))  # (B, 1 or 2, C)
        logits = self.head(tokens[:, 0])
        if self.head_dist is None:
            return logits
        distilled = self.head_dist(tokens[:, 1])
        if self.training and self.distilled_training:
            return logits, distilled
        return (logits + distilled) / 2
