"""The one table of architectures: every family, every size."""

from collections.abc import Mapping
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Variant:
    """What tells one architecture from another.

    Attributes:
        depths: Blocks in each stage.
        dims: Channels of each stage.
        pool_size: Window of the pooling token mixer, odd, in cells.
        mlp_ratio: Hidden channels of the MLP over the stage's channels.
        layer_scale_init: First value of the layer scales.
    """

    depths: tuple[int, ...]
    dims: tuple[int, ...]
    pool_size: int = 3
    mlp_ratio: float = 4.0
    layer_scale_init: float = 1e-5

    def __post_init__(self) -> None:
        """Turn lists into tuples and refuse what cannot be built."""
        for name in ('depths', 'dims'):
            values = tuple(getattr(self, name))
            if not values or any(not isinstance(v, int) or v < 1 for v in values):
                raise ValueError(
                    f'{name}={values!r}: give one positive whole number for each stage'
                )
            object.__setattr__(self, name, values)
        if len(self.depths) != len(self.dims):
            raise ValueError(
                f'depths={self.depths} and dims={self.dims} name a different '
                'number of stages'
            )
        if self.pool_size < 1 or self.pool_size % 2 == 0:
            raise ValueError(
                f'pool_size={self.pool_size!r}: choose an odd number from 1 up, '
                'so that the map keeps its size'
            )
        if self.mlp_ratio <= 0:
            raise ValueError(f'mlp_ratio={self.mlp_ratio!r}: must be above 0')


SMALL = (64, 128, 320, 512)
MEDIUM = (96, 192, 384, 768)

# arXiv 2111.11418, table 1; first layer scales as in the released training.
POOLFORMER = {
    's12': Variant((2, 2, 6, 2), SMALL),
    's24': Variant((4, 4, 12, 4), SMALL),
    's36': Variant((6, 6, 18, 6), SMALL, layer_scale_init=1e-6),
    'm36': Variant((6, 6, 18, 6), MEDIUM, layer_scale_init=1e-6),
    'm48': Variant((8, 8, 24, 8), MEDIUM, layer_scale_init=1e-6),
}

# Every architecture under the name that `create_model` takes.
VARIANTS = {f'poolformer_{size}': variant for size, variant in POOLFORMER.items()}


def resolve_variant(
    arch: str | Mapping | Variant, table: Mapping[str, Variant]
) -> Variant:
    """Return the table's row for a name, or a row made from a dict of its fields.

    Args:
        arch: A key of `table`, a mapping with the fields of `Variant` (`depths` and
            `dims` are needed, the others have defaults), or a row itself.
        table: The sizes of one family.

    Raises:
        ValueError: If the name or a field is unknown, or a value can't be built.
        TypeError: If `arch` is none of these.
    """
    if isinstance(arch, Variant):
        return arch
    if isinstance(arch, str):
        if arch not in table:
            raise ValueError(
                f'arch={arch!r} is not known: choose from {sorted(table)} or give a '
                'dict such as dict(depths=(2, 2, 6, 2), dims=(64, 128, 320, 512))'
            )
        return table[arch]
    if not isinstance(arch, Mapping):
        raise TypeError(f'arch={arch!r}: expected a name or a dict of fields')
    known = [field.name for field in fields(Variant)]
    unknown = sorted(set(arch) - set(known))
    if unknown:
        raise ValueError(f'arch has unknown fields {unknown}: choose from {known}')
    missing = sorted({'depths', 'dims'} - set(arch))
    if missing:
        raise ValueError(f'arch={dict(arch)!r} lacks {missing}')
    return Variant(**arch)
