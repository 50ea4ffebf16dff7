"""The one table of architectures: every family, every size."""

from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import TypeVar

from mmpoolformer.utils.text import nearest

TOKEN_MIXERS = (
    'pooling',
    'identity',
    'random',
    'depthwise_conv',
    'sep_conv',
    'attention',
    'spatial_fc',
)
NORMS = ('group_norm1', 'layer_norm', 'batch_norm', 'none')
ACTIVATIONS = ('gelu', 'relu', 'silu', 'star_relu')
HEADS = ('norm_pool', 'pool_norm', 'mlp')


@dataclass(frozen=True)
class Variant:
    """What tells one architecture from another; the defaults are PoolFormer's.

    Where a value may be given for each stage, one value alone stands for all stages.

    Attributes:
        depths: Blocks in each stage.
        dims: Channels of each stage.
        token_mixers: For each stage one of `TOKEN_MIXERS`.
        pool_size: Window of the pooling mixer, from 1, in cells. A window of even size
            reaches one cell further up and left than down and right.
        head_dim: Channels of one attention head.
        attention_window: Side, in cells, of the windows in which attention is taken;
            `None` takes it over the whole map. For large images, see
            `token_mixers.Attention`.
        global_every: Use global instead of windowed attention in every n-th block of
            a stage (0: in none).
        norm: One of `NORMS`, for blocks, dense outputs and a `norm_pool` head.
        norm_eps: Added to the variance by these and the downsampling norms.
        norm_bias: Whether they add a learned bias.
        downsample_norm: Whether the stem ends in, and every downsampling starts with a
            norm over channels.
        activation: One of `ACTIVATIONS`, in the MLP.
        bias: Whether the MLP's layers and the attention's output projection add one.
        mlp: Whether blocks have an MLP.
        mlp_ratio: Hidden channels of the MLP over the stage's channels.
        residual: Whether blocks add their input.
        layer_scale_init: First value of the factors on the branches; `None` or `False`
            is no such factors.
        res_scale_init: For each stage the first value of the factors on the shortcut;
            `None` or `False` is no such factors.
        position_embedding: Whether a learned embedding is added before the first stage
            with attention; resampled for images of other sizes.
        head: The classifier's, one of `HEADS`: `norm_pool` takes the norm of the map
            and then its mean, `pool_norm` the LayerNorm of its mean, and both end in a
            linear layer; `mlp` is `pool_norm` with two.
        image_size: Side of the training images, in pixels. It sets the grid of the
            position embedding and of the mixers `random` and `spatial_fc`.
        strict_size: Whether the last two refuse maps of another size; otherwise they
            mix within windows of the trained grid, see `token_mixers.GridMixing`.
        init_strided: Whether strided convolutions start from a truncated normal, as
            all others do, or from PyTorch's own initialisation.
    """

    depths: tuple[int, ...]
    dims: tuple[int, ...]
    token_mixers: tuple[str, ...] = ('pooling',)
    pool_size: int = 3
    head_dim: int = 32
    attention_window: int | None = None
    global_every: int = 3
    norm: str = 'group_norm1'
    norm_eps: float = 1e-5
    norm_bias: bool = True
    downsample_norm: bool = False
    activation: str = 'gelu'
    bias: bool = True
    mlp: bool = True
    mlp_ratio: float = 4.0
    residual: bool = True
    layer_scale_init: float | None = 1e-5
    res_scale_init: tuple[float | None, ...] = (None,)
    position_embedding: bool = False
    head: str = 'norm_pool'
    image_size: int = 224
    strict_size: bool = False
    init_strided: bool = False

    def __post_init__(self) -> None:
        """Bring all values to one form and refuse what cannot be built."""
        _check_stages(self, 'depths', 'dims')
        self._spread_over_stages()
        for name, choices in (
            ('norm', NORMS),
            ('activation', ACTIVATIONS),
            ('head', HEADS),
        ):
            _check_choice(name, getattr(self, name), choices)
        for name in ('pool_size', 'head_dim', 'attention_window', 'image_size'):
            _check_integer(name, getattr(self, name), from_=1)
        _check_integer('global_every', self.global_every, from_=0)
        for name in ('mlp_ratio', 'norm_eps'):
            if getattr(self, name) <= 0:
                raise ValueError(f'{name}={getattr(self, name)!r}: must be above 0')
        if self.position_embedding and 'attention' not in self.token_mixers:
            raise ValueError(
                'position_embedding=True: it is added before the first stage with '
                f'attention, and token_mixers={self.token_mixers} has none'
            )

    def _spread_over_stages(self) -> None:
        stages = len(self.depths)
        mixers = _for_stages('token_mixers', self.token_mixers, stages)
        for mixer in mixers:
            _check_choice('token_mixers', mixer, TOKEN_MIXERS)
        res_scales = _for_stages('res_scale_init', self.res_scale_init, stages)
        scale = _number_or_none('layer_scale_init', self.layer_scale_init)
        object.__setattr__(self, 'token_mixers', mixers)
        object.__setattr__(self, 'layer_scale_init', scale)
        object.__setattr__(
            self,
            'res_scale_init',
            tuple(_number_or_none('res_scale_init', v) for v in res_scales),
        )

    @property
    def position_stage(self) -> int | None:
        """The stage that starts with the position embedding, if there is one."""
        return self.token_mixers.index('attention') if self.position_embedding else None

    def grid(self, stage: int) -> tuple[int, int]:
        """Return the height and width of a stage's map for the training image size."""
        side = (self.image_size + 2 * 2 - 7) // 4 + 1  # stem: 7x7, stride 4, padding 2
        for _ in range(stage):
            side = (side + 2 * 1 - 3) // 2 + 1  # 3x3, stride 2, padding 1
        return side, side


@dataclass(frozen=True)
class PiTVariant:
    """What tells one PiT from another.

    Attributes:
        patch_size: Side of a patch, in pixels.
        stride: Step from patch to patch, in pixels; patches overlap.
        head_dim: Channels of one attention head.
        depths: Blocks in each stage.
        heads: Attention heads in each stage.
        mlp_ratio: Hidden channels of the MLP over the stage's channels.
        image_size: Side of the training images, in pixels. It sets the grid of the
            position embedding.
    """

    patch_size: int
    stride: int
    head_dim: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    mlp_ratio: float = 4.0
    image_size: int = 224

    def __post_init__(self) -> None:
        """Turn lists into tuples and refuse what cannot be built."""
        _check_stages(self, 'depths', 'heads')
        for name in ('patch_size', 'stride', 'head_dim', 'image_size'):
            _check_integer(name, getattr(self, name), from_=1)
        if self.mlp_ratio <= 0:
            raise ValueError(f'mlp_ratio={self.mlp_ratio!r}: must be above 0')
        if self.image_size < self.patch_size:
            raise ValueError(
                f'image_size={self.image_size}: must hold a patch, '
                f'patch_size={self.patch_size}'
            )

    @property
    def dims(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.head_dim * heads for heads in self.heads)


def _check_stages(variant: 'Variant | PiTVariant', *names: str) -> None:
    """Turn the fields that have one number for each stage into tuples."""
    for name in names:
        values = tuple(getattr(variant, name))
        if not values or any(not isinstance(v, int) or v < 1 for v in values):
            raise ValueError(
                f'{name}={values!r}: give one positive whole number for each stage'
            )
        object.__setattr__(variant, name, values)
    if len({len(getattr(variant, name)) for name in names}) > 1:
        listed = ' and '.join(f'{name}={getattr(variant, name)}' for name in names)
        raise ValueError(f'{listed} name a different number of stages')


def _check_choice(name: str, value: object, choices: Collection[str]) -> None:
    if value not in choices:
        raise ValueError(f'{name}={value!r}: choose from {", ".join(choices)}')


def _check_integer(name: str, value: int | None, from_: int) -> None:
    if value is None and name == 'attention_window':
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < from_:
        raise ValueError(f'{name}={value!r}: give a whole number from {from_}')


def _for_stages(name: str, value: object, stages: int) -> tuple:
    """Return one value for each stage."""
    alone = value is None or isinstance(value, str | float | int)
    values = (value,) if alone else tuple(value)
    if len(values) == 1:
        return values * stages
    if len(values) != stages:
        raise ValueError(f'{name}={values!r}: give one value, or one for each stage')
    return values


def _number_or_none(name: str, value: float | bool | None) -> float | None:
    if value is None or value is False:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f'{name}={value!r}: give a number, or None for no factors')
    return float(value)


SMALL = (64, 128, 320, 512)
MEDIUM = (96, 192, 384, 768)
LARGE = (128, 256, 512, 768)

# arXiv 2111.11418, table 1; first layer scales as in the released training.
POOLFORMER = {
    's12': Variant((2, 2, 6, 2), SMALL),
    's24': Variant((4, 4, 12, 4), SMALL),
    's36': Variant((6, 6, 18, 6), SMALL, layer_scale_init=1e-6),
    'm36': Variant((6, 6, 18, 6), MEDIUM, layer_scale_init=1e-6),
    'm48': Variant((8, 8, 24, 8), MEDIUM, layer_scale_init=1e-6),
}

# The ablations of arXiv 2111.11418 with weights, under the names of their files.
_HYBRID = dict(norm='layer_norm', position_embedding=True)
ABLATIONS = {
    'id_s12': replace(POOLFORMER['s12'], token_mixers='identity'),
    'pppa_s12_224': replace(
        POOLFORMER['s12'], token_mixers=('pooling',) * 3 + ('attention',), **_HYBRID
    ),
    'ppaa_s12_224': replace(
        POOLFORMER['s12'],
        token_mixers=('pooling', 'pooling', 'attention', 'attention'),
        **_HYBRID,
    ),
    'pppf_s12_224': replace(
        POOLFORMER['s12'], token_mixers=('pooling',) * 3 + ('spatial_fc',)
    ),
    'ppff_s12_224': replace(
        POOLFORMER['s12'],
        token_mixers=('pooling', 'pooling', 'spatial_fc', 'spatial_fc'),
    ),
}

# What the baselines of arXiv 2210.13452 have in common.
_BASELINE = dict(
    norm_eps=1e-6,
    norm_bias=False,
    downsample_norm=True,
    activation='star_relu',
    bias=False,
    layer_scale_init=None,
    res_scale_init=(None, None, 1.0, 1.0),
    head='pool_norm',
    init_strided=True,
)
# The first three families of arXiv 2210.13452 have PoolFormer's sizes.
IDENTITYFORMER, RANDFORMER, POOLFORMERV2 = (
    {
        size: replace(variant, token_mixers=mixers, **_BASELINE)
        for size, variant in POOLFORMER.items()
    }
    for mixers in ('identity', ('identity', 'identity', 'random', 'random'), 'pooling')
)
CONVFORMER = {
    size: Variant(
        depths, dims, 'sep_conv', norm='layer_norm', **{**_BASELINE, 'head': 'mlp'}
    )
    for size, depths, dims in (
        ('s18', (3, 3, 9, 3), SMALL),
        ('s36', (3, 12, 18, 3), SMALL),
        ('m36', (3, 12, 18, 3), (96, 192, 384, 576)),
        ('b36', (3, 12, 18, 3), LARGE),
    )
}
CAFORMER = {
    size: replace(
        variant, token_mixers=('sep_conv', 'sep_conv', 'attention', 'attention')
    )
    for size, variant in CONVFORMER.items()
}
# What follows the size in the names of weights: other training, the same architecture.
TRAININGS = ('', '_384', '_in21ft1k', '_384_in21ft1k', '_in21k')


def _trained(sizes: Mapping[str, Variant]) -> dict[str, Variant]:
    """Return the sizes under the names of all their weights."""
    return {
        size + training: replace(variant, image_size=384 if '384' in training else 224)
        for training in TRAININGS
        for size, variant in sizes.items()
    }


FAMILIES = {
    'poolformer': POOLFORMER,
    'metaformer': ABLATIONS,
    'identityformer': IDENTITYFORMER,
    'randformer': RANDFORMER,
    'poolformerv2': POOLFORMERV2,
    'convformer': _trained(CONVFORMER),
    'caformer': _trained(CAFORMER),
}
# Every architecture under the name that `create_model` takes.
VARIANTS = {
    f'{family}_{size}': variant
    for family, sizes in FAMILIES.items()
    for size, variant in sizes.items()
}


# arXiv 2103.16302, table 3.
PIT = {
    'ti': PiTVariant(16, 8, 32, (2, 6, 4), (2, 4, 8)),
    'xs': PiTVariant(16, 8, 48, (2, 6, 4), (2, 4, 8)),
    's': PiTVariant(16, 8, 48, (2, 6, 4), (3, 6, 12)),
    'b': PiTVariant(14, 7, 64, (3, 6, 4), (4, 8, 16)),
}

AnyVariant = TypeVar('AnyVariant', Variant, PiTVariant)


def resolve_variant(
    arch: str | Mapping | AnyVariant, table: Mapping[str, AnyVariant]
) -> AnyVariant:
    """Return the table's row for a name, or a row made from a dict of its fields.

    Args:
        arch: A key of `table`, a mapping with the fields of its rows, or a row itself.
            A mapping has `base`, a key of `table` of which the other entries change
            fields, or all fields that have no default.
        table: The sizes of one family, or all names.

    Raises:
        ValueError: If the name or a field is unknown, or a value can't be built.
        TypeError: If `arch` is none of these.
    """
    kind = type(next(iter(table.values())))
    if isinstance(arch, kind):
        return arch
    if isinstance(arch, str):
        return _row(arch, table)
    if not isinstance(arch, Mapping):
        raise TypeError(f'arch={arch!r}: expected a name or a dict of fields')
    known = [field.name for field in fields(kind)]
    unknown = sorted(set(arch) - {'base', *known})
    if unknown:
        raise ValueError(
            f'arch has unknown fields {unknown}: choose from {["base", *known]}'
        )
    if 'base' in arch:
        values = {name: value for name, value in arch.items() if name != 'base'}
        return replace(_row(arch['base'], table), **values)
    needed = {field.name for field in fields(kind) if field.default is MISSING}
    missing = sorted(needed - set(arch))
    if missing:
        raise ValueError(f'arch={dict(arch)!r} lacks {missing}')
    return kind(**arch)


def _row(name: str, table: Mapping[str, AnyVariant]) -> AnyVariant:
    if name not in table:
        raise ValueError(
            f'arch={name!r} is not known: choose from {nearest(name, table)} or give '
            f'a dict such as dict(base={next(iter(table))!r}, mlp_ratio=3)'
        )
    return table[name]
