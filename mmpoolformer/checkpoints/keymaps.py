"""The names that the same parameters have in different codebases.

Every format is one table of rules `(their name, native name)`. In a rule `{n}` stands
for a number and a final `*` for the rest of the name; both sides hold the same marks in
the same order, so each table reads in both directions. Native names are timm's, plus
`norm0` to `norm3`, the output norms of a dense backbone, which timm doesn't have.

| format | who writes it |
|---|---|
| `native` | this package |
| `timm` | timm's `metaformer.py`; the same names, no output norms |
| `sail` | the authors' code: PoolFormer and its ablations, and the baselines |
| `mmpretrain` | mmpretrain's classifiers, a `backbone.` and a `head.` |
| `huggingface` | transformers' `PoolFormerForImageClassification`, `PoolFormerModel` |
| `pit` | the authors' code of PiT, naver-ai/pit |
| `paddle` | PaddlePaddle: names of `sail` or `pit`, linear weights transposed |

PiT's native names are those of timm's `pit.py`, and `norm0` to `norm2`.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from torch import Tensor

from mmpoolformer.checkpoints.errors import entry_cure
from mmpoolformer.utils.text import first_few

FORMATS = ('native', 'timm', 'sail', 'mmpretrain', 'huggingface', 'pit', 'paddle')

# What the entries of `network` hold in the authors' PoolFormer: a row of blocks, the
# downsampling before a stage, or the position embedding that the hybrids with attention
# add before their first attention stage. Output norms carry the entry's number.
NETWORK = 'blocks0 down1 blocks1 down2 blocks2 down3 blocks3'
NETWORK_PPPA = 'blocks0 down1 blocks1 down2 blocks2 down3 embed3 blocks3'
NETWORK_PPAA = 'blocks0 down1 blocks1 down2 embed2 blocks2 down3 blocks3'

NETWORK_RULES = {
    'blocks': (
        ('network.{i}.{n}.layer_scale_1', 'stages.{s}.blocks.{n}.layer_scale1.scale'),
        ('network.{i}.{n}.layer_scale_2', 'stages.{s}.blocks.{n}.layer_scale2.scale'),
        ('network.{i}.{n}.*', 'stages.{s}.blocks.{n}.*'),
        ('norm{i}.*', 'norm{s}.*'),
    ),
    'down': (('network.{i}.proj.*', 'stages.{s}.downsample.conv.*'),),
    'embed': (('network.{i}.pos_embed', 'stages.{s}.pos_embed'),),
}

SAIL_ENDS = (
    ('patch_embed.proj.*', 'stem.conv.*'),
    ('norm.*', 'head.norm.*'),
    ('head.*', 'head.fc.*'),
)

SAIL_BASELINES = (
    ('downsample_layers.0.conv.*', 'stem.conv.*'),
    ('downsample_layers.0.post_norm.*', 'stem.norm.*'),
    ('downsample_layers.{n}.pre_norm.*', 'stages.{n}.downsample.norm.*'),
    ('downsample_layers.{n}.conv.*', 'stages.{n}.downsample.conv.*'),
    ('stages.{n}.{n}.*', 'stages.{n}.blocks.{n}.*'),
    ('norm{n}.*', 'norm{n}.*'),
    *SAIL_ENDS[1:],
)

HUGGINGFACE_BLOCK = (
    ('before_norm.*', 'norm1.*'),
    ('after_norm.*', 'norm2.*'),
    ('output.conv1.*', 'mlp.fc1.*'),
    ('output.conv2.*', 'mlp.fc2.*'),
    ('layer_scale_1', 'layer_scale1.scale'),
    ('layer_scale_2', 'layer_scale2.scale'),
)

HUGGINGFACE = (
    ('poolformer.encoder.patch_embeddings.0.projection.*', 'stem.conv.*'),
    (
        'poolformer.encoder.patch_embeddings.{n}.projection.*',
        'stages.{n}.downsample.conv.*',
    ),
    *(
        (f'poolformer.encoder.block.{{n}}.{{n}}.{a}', f'stages.{{n}}.blocks.{{n}}.{b}')
        for a, b in HUGGINGFACE_BLOCK
    ),
    ('norm.*', 'head.norm.*'),
    ('classifier.*', 'head.fc.*'),
)

# The base model, `PoolFormerModel`, has the names without the classifier's prefix.
HUGGINGFACE_BASE = tuple(
    (theirs.removeprefix('poolformer.'), native)
    for theirs, native in HUGGINGFACE
    if theirs.startswith('poolformer.')
)
# What stands before names that fit a table by themselves, too.
INNER = {'mmpretrain': 'backbone.', 'huggingface': 'poolformer.'}

NATIVE = tuple((f'{x}.*', f'{x}.*') for x in ('stem', 'stages', 'norm{n}', 'head'))

PIT_ENDS = (
    ('patch_embed.conv.*', 'patch_embed.conv.*'),
    ('pos_embed', 'pos_embed'),
    ('cls_token', 'cls_token'),
    ('norm.*', 'norm.*'),
    ('head.*', 'head.*'),
    ('head_dist.*', 'head_dist.*'),
)
PIT_NATIVE = (
    ('transformers.{n}.*', 'transformers.{n}.*'),
    ('norm{n}.*', 'norm{n}.*'),
    *PIT_ENDS,
)
# The pooling before a stage is a part of it here, and in a list of its own there.
PIT = (
    ('transformers.{n}.blocks.*', 'transformers.{n}.blocks.*'),
    ('pools.0.*', 'transformers.1.pool.*'),
    ('pools.1.*', 'transformers.2.pool.*'),
    *PIT_ENDS,
)
PIT_MARKS = ('patch_embed.conv.weight', 'transformers.0.blocks.')

# Layers that widen, by which weights without a bias tell how they lie: never square.
WIDENING = re.compile(r'.*\.(qkv|mlp\.fc1|pwconv1)\.weight')

# Weights of layers that see each cell alone. The authors' PoolFormer and hybrids hold
# 1x1 convolutions, their baselines 2-D weights, native models and timm's 2-D weights in
# the stages with attention and 1x1 convolutions in the others.
LINEAR = re.compile(
    r'stages\.(\d+)\.blocks\.\d+\.(mlp\.fc[12]|token_mixer\.pwconv[12])\.weight'
)
ATTENTION = re.compile(r'stages\.(\d+)\.blocks\.\d+\.token_mixer\.qkv\.weight')


# What stands in the names of modules that were compiled, sharded, or recompute.
MARK = re.compile(
    r'(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.'
)


@dataclass(frozen=True)
class KeyMap:
    """One table of names.

    Attributes:
        format: The format it belongs to, one of `FORMATS`.
        marks: How to know it. The first is a whole name, the others are starts of
            names; all must be there.
        rules: Pairs (their name, native name); the first that fits is taken.
        linear: Whether these weights are 2-D throughout, or 1x1 convolutions.
        transposed: Whether linear weights are (in, out) and not (out, in).
    """

    format: str
    marks: tuple[str, ...]
    rules: tuple[tuple[str, str], ...]
    linear: bool = False
    transposed: bool = False

    @property
    def is_native(self) -> bool:
        """Whether the names are those of this package."""
        return not self.transposed and all(a == b for a, b in self.rules)

    def fits(self, part: Collection[str]) -> bool:
        """Tell whether names, or parameters by name, are of this table."""
        return self.names(part) and self.transposed == (_lies_transposed(part) is True)

    def names(self, part: Collection[str]) -> bool:
        """Tell whether names are of this table, however linear weights lie."""
        return self.marks[0] in part and all(
            any(key.startswith(mark) for key in part) for mark in self.marks[1:]
        )

    def to_native(self, key: str) -> str | None:
        """Return the native name, or None if there is none that leads back."""
        native = _apply(self.rules, key)
        leads_back = native and _apply(_turned(self.rules), native) == key
        return native if leads_back else None

    def from_native(self, key: str) -> str | None:
        """Return the name here of a native one, or None if none leads back."""
        theirs = _apply(_turned(self.rules), key)
        return theirs if theirs and _apply(self.rules, theirs) == key else None


def _lies_transposed(part: Collection[str]) -> bool | None:
    """Tell whether linear weights are (in, out); None if their shapes don't tell."""
    for key, value in part.items() if isinstance(part, Mapping) else ():
        if not _is_linear(key, value) or value.shape[0] == value.shape[1]:
            continue
        bias = part.get(f'{key.removesuffix("weight")}bias')
        if bias is not None and bias.ndim == 1 and len(bias) in value.shape:
            return len(bias) == value.shape[1]
        if WIDENING.fullmatch(f'.{key}'):
            return bool(value.shape[0] < value.shape[1])
    return None


def _is_linear(key: object, value: object) -> bool:
    """Tell whether an entry is the weight of a linear layer."""
    is_matrix = isinstance(value, Tensor) and value.ndim == 2
    return is_matrix and isinstance(key, str) and key.rpartition('.')[2] == 'weight'


def with_linear_turned(entries: Mapping) -> dict:
    """Transpose the weights of linear layers; views, which take no memory."""
    return {k: v.t() if _is_linear(k, v) else v for k, v in entries.items()}


def _apply(rules: Sequence[tuple[str, str]], key: str) -> str | None:
    for pattern, replacement in rules:
        match = _compiled(pattern).fullmatch(key)
        if match:
            marks = iter(match.groups())
            return re.sub(r'\{n\}|\*$', lambda _, m=marks: next(m), replacement)
    return None


@cache
def _compiled(pattern: str) -> re.Pattern:
    text = re.escape(pattern).replace(r'\{n\}', r'(\d+)')
    return re.compile(re.sub(r'\\\*$', '(.+)', text))


def _turned(rules: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(native, theirs) for theirs, native in rules]


def _network_rules(layout: str) -> tuple[tuple[str, str], ...]:
    """Write out the rules of one order of the entries of `network`."""
    rules = []
    for i, entry in enumerate(layout.split()):
        for theirs, native in NETWORK_RULES[entry[:-1]]:
            numbered = theirs.replace('{i}', str(i)), native.replace('{s}', entry[-1])
            rules.append(numbered)
    return tuple(rules)


def _sail(layout: str, *marks: str) -> KeyMap:
    marks = ('patch_embed.proj.weight', 'network.0.0.', *marks)
    return KeyMap('sail', marks, _network_rules(layout) + SAIL_ENDS)


def _mmpretrain() -> KeyMap:
    # mmpretrain's backbone ends in `norm6`, which is the classifier's norm.
    sail = [
        (f'backbone.{theirs}', native)
        for theirs, native in (*_network_rules(NETWORK), SAIL_ENDS[0])
        if theirs != 'norm6.*'
    ]
    rules = (*sail, ('backbone.norm6.*', 'head.norm.*'), ('head.fc.*', 'head.fc.*'))
    marks = ('backbone.patch_embed.proj.weight', 'backbone.network.0.0.', 'head.fc.')
    return KeyMap('mmpretrain', marks, rules)


# In the order in which they are tried: what asks for more comes first.
MAPS = (
    _mmpretrain(),
    _sail(NETWORK_PPPA, 'network.6.pos_embed'),
    _sail(NETWORK_PPAA, 'network.4.pos_embed'),
    _sail(NETWORK),
    KeyMap(
        'sail',
        ('downsample_layers.0.conv.weight', 'stages.0.0.'),
        SAIL_BASELINES,
        linear=True,
    ),
    KeyMap(
        'huggingface',
        ('poolformer.encoder.patch_embeddings.0.projection.weight',),
        HUGGINGFACE,
    ),
    KeyMap(
        'huggingface',
        ('encoder.patch_embeddings.0.projection.weight',),
        HUGGINGFACE_BASE,
    ),
    KeyMap('native', ('stem.conv.weight', 'stages.0.blocks.', 'norm'), NATIVE),
    KeyMap('timm', ('stem.conv.weight', 'stages.0.blocks.'), NATIVE),
    KeyMap('pit', (*PIT_MARKS, 'pools.'), PIT),
    *(KeyMap('native', (*PIT_MARKS, f'norm{i}.'), PIT_NATIVE) for i in range(3)),
    KeyMap('timm', PIT_MARKS, PIT_NATIVE),
)
# PaddlePaddle's copies keep the names of the original.
MAPS += tuple(
    replace(m, format='paddle', transposed=True)
    for m in MAPS
    if m.format in ('sail', 'pit')
)


def without_marks(entries: dict) -> dict:
    """Take out of names what torch's wrappers put in: `_orig_mod.` and the like.

    Args:
        entries: Parameters by name, and whatever else.

    Returns:
        The same dict where no name has a mark.

    Raises:
        ValueError: If two names would be the same.
    """
    marked = [k for k in entries if isinstance(k, str) and MARK.search(k)]
    if not marked:
        return entries
    plain = type(entries)()
    for key, value in entries.items():
        key = MARK.sub('', key) if isinstance(key, str) else key
        if key in plain:
            raise ValueError(f'duplicate parameter {key!r}, with and without a mark')
        plain[key] = value
    return plain


def detect_format(part: Iterable[str]) -> str:
    """Tell which codebase parameter names come from.

    The same name can mean different parameters (`norm2` is the second stage's output
    norm in the authors' files and the third's here), so all names are looked at.

    Args:
        part: Parameter names, without what wrappers put before them (`module.`), or
            parameters by name: `paddle` differs from `sail` and `pit` only in shapes.

    Returns:
        One of `FORMATS`.

    Raises:
        ValueError: If the names are of no known format.
    """
    return _map_of(part if isinstance(part, Mapping) else list(part)).format


def _map_of(part: Collection[str]) -> KeyMap:
    found = _find_map(part)
    if found is None:
        raise _unknown(part)
    return found


def _unknown(keys: Iterable[str]) -> ValueError:
    return ValueError(
        f'parameter names of no known format ({first_few(keys)}): known are '
        f'{", ".join(FORMATS)}'
    )


def _find_map(part: Collection[str]) -> KeyMap | None:
    return next((m for m in MAPS if m.fits(part)), None)


def _map_by_names(part: Collection[str], format: str) -> KeyMap | None:
    return next((m for m in MAPS if m.format == format and m.names(part)), None)


def find_prefix(keys: Iterable[str]) -> str:
    """Find what stands before the names of the backbone, such as `module.backbone.`.

    Args:
        keys: Parameter names of a backbone, a classifier, or a whole detector.

    Returns:
        The prefix; empty if there is none.

    Raises:
        ValueError: If no backbone of a known format is there, or several are.
    """
    keys = list(keys)
    found = {}
    for key_map in MAPS:
        for prefix in _prefixes(keys, key_map.marks[0]):
            part = [k.removeprefix(prefix) for k in keys if k.startswith(prefix)]
            if key_map.fits(part):
                found.setdefault(prefix, key_map.format)
    for prefix, name in list(found.items()):
        if name in INNER:
            found.pop(f'{prefix}{INNER[name]}', None)  # of the names found already
    if len(found) > 1:
        # With the parts around it, where it is one of a detector.
        whole = sorted(found)[-1].rstrip('.').removesuffix('.backbone')
        raise ValueError(
            f'several backbones, under {first_few(sorted(found))}: {entry_cure(whole)}'
        )
    if not found:
        raise _unknown(keys)
    return next(iter(found))


def with_dot(prefix: str) -> str:
    """Return a prefix of names as it stands before them: `backbone` is `backbone.`."""
    return f'{prefix.rstrip(".")}.' if prefix else ''


def _prefixes(keys: Iterable[str], name: str) -> set[str]:
    ends = (key.removesuffix(name) for key in keys if key.endswith(name))
    return {prefix for prefix in ends if not prefix or prefix.endswith('.')}


def under(prefix: str, entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries whose names start with a prefix, without it."""
    cut = len(prefix)
    return {k[cut:]: v for k, v in entries.items() if k.startswith(prefix)}


def convert_state_dict(
    state_dict: Mapping[str, Tensor],
    target: str,
    source: str | None = None,
    prefix: str = '',
) -> dict[str, Tensor]:
    """Rename parameters from one format to another, losing nothing.

    Weights of linear layers change between 2-D and 1x1 convolutions where the formats
    differ in that; no value changes, and the way back gives the same dict.

    Args:
        state_dict: Parameters by name.
        target: The format to make, one of `FORMATS`.
        source: The format they are in; detected automatically.
        prefix: What stands before the names to convert, such as `backbone.`; it is
            kept, and names that don't start with it stay as they are.

    Returns:
        The parameters under their new names, in the same order.

    Raises:
        ValueError: If a format is unknown or has no name for a parameter.
    """
    for name in (target, source or target):
        if name not in FORMATS:
            raise ValueError(f'no format {name!r}: choose from {", ".join(FORMATS)}')
    part = under(prefix, state_dict)
    native = _to_native(part, _source_map(part, source))
    converted = _from_native(native, target)
    renamed = dict(zip(part, converted.items(), strict=True))
    return _merged(state_dict, prefix, renamed)


def native_keys(state_dict: dict[str, Tensor], prefix: str = '') -> None:
    """Bring the names under a prefix to native ones, in place.

    For hooks that run before a state dict is loaded: what is native already, of no
    known format, or without a native name is left alone for the loading to judge.

    Args:
        state_dict: Parameters by name, perhaps of a whole detector.
        prefix: The module's place in it, such as `backbone.`; empty at the top.

    Raises:
        ValueError: If two parameters would get the same name.
    """
    part = under(prefix, state_dict)
    key_map = _find_map(part)
    if key_map is None or key_map.is_native:
        return
    known = {key: value for key, value in part.items() if key_map.to_native(key)}
    native = _to_native(known, key_map)
    renamed = dict(zip(known, native.items(), strict=True))
    merged = _merged(state_dict, prefix, renamed)
    state_dict.clear()
    state_dict.update(merged)


def _merged(
    state_dict: Mapping[str, Tensor],
    prefix: str,
    renamed: Mapping[str, tuple[str, Tensor]],
) -> dict[str, Tensor]:
    """Put renamed parameters back in their places among the others."""
    merged = {}
    for key, value in state_dict.items():
        known = key.startswith(prefix) and key[len(prefix) :] in renamed
        if known:
            new, value = renamed[key[len(prefix) :]]
            key = prefix + new
        if key in merged:
            raise ValueError(f'two parameters would be called {key!r}')
        merged[key] = value
    return merged


def _source_map(part: Mapping[str, Tensor], source: str | None) -> KeyMap:
    if source == 'paddle' and _lies_transposed(part) is None:
        key_map = _map_by_names(part, source) or _map_of(part)
    else:
        key_map = _map_of(part)
    # The two formats with the same names may stand for each other.
    same = key_map.is_native and source in ('native', 'timm')
    if source not in (None, key_map.format) and not same:
        raise ValueError(
            f'the names are of the format {key_map.format!r}, not {source!r} '
            f'({first_few(list(part))})'
        )
    return key_map


def _to_native(part: Mapping[str, Tensor], key_map: KeyMap) -> dict[str, Tensor]:
    names = {key: key_map.to_native(key) for key in part}
    unknown = [key for key, native in names.items() if native is None]
    if unknown:
        raise ValueError(
            f'{len(unknown)} names that {key_map.format} files do not have: '
            f'{first_few(unknown)}'
        )
    if key_map.transposed:
        part = with_linear_turned(part)
    native = {names[key]: value for key, value in part.items()}
    return native if key_map.is_native else _as_native(native)


def _from_native(native: Mapping[str, Tensor], target: str) -> dict[str, Tensor]:
    """Rename by the table of the format that has every name and knows the result."""
    unnamed = []
    for key_map in (m for m in MAPS if m.format == target):
        names = {key: key_map.from_native(key) for key in native}
        unnamed.append([key for key, theirs in names.items() if theirs is None])
        if unnamed[-1]:
            continue
        if key_map.is_native:
            return dict(native)
        shaped = {k: _pointwise(k, v, key_map.linear) for k, v in native.items()}
        theirs = {names[key]: value for key, value in shaped.items()}
        if key_map is _map_by_names(theirs, target):
            return with_linear_turned(theirs) if key_map.transposed else theirs
    fewest = min(unnamed, key=len)
    if not fewest:
        raise ValueError(f'{target} files hold a whole classifier, and this is not one')
    raise ValueError(
        f'{target} has no name for {len(fewest)} parameters: {first_few(fewest)}'
    )


def _as_native(native: Mapping[str, Tensor]) -> dict[str, Tensor]:
    matches = (ATTENTION.fullmatch(key) for key in native)
    attention = tuple(f'stages.{match.group(1)}.' for match in matches if match)
    return {
        key: _pointwise(key, value, linear=key.startswith(attention))
        for key, value in native.items()
    }


def _pointwise(key: str, value: Tensor, linear: bool) -> Tensor:
    """Give the weight of a layer that sees each cell alone the wanted shape."""
    if not LINEAR.fullmatch(key):
        return value
    if linear and tuple(value.shape[2:]) == (1, 1):
        return value.flatten(1)  # (O, I, 1, 1) -> (O, I)
    if not linear and value.ndim == 2:
        return value[:, :, None, None]  # (O, I) -> (O, I, 1, 1)
    return value
