"""Loading weights into a model, with a report of what came from where."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from mmpoolformer.checkpoints.errors import CheckpointError, entry_cure
from mmpoolformer.checkpoints.folders import OURS
from mmpoolformer.checkpoints.keymaps import (
    convert_state_dict,
    detect_format,
    find_prefix,
    under,
    with_dot,
    without_marks,
)
from mmpoolformer.checkpoints.paddle import SUFFIX as PADDLE
from mmpoolformer.checkpoints.reading import read_checkpoint
from mmpoolformer.checkpoints.zoo import resolve_source
from mmpoolformer.utils.logs import warn
from mmpoolformer.utils.paths import split_entry
from mmpoolformer.utils.text import first_few

# The entries under which files keep weights; averaged ones (EMA) are preferred. Not
# `ema_state_dict`: mmengine swaps, and keeps the plain weights there.
WRAPPERS = ('state_dict_ema', 'model_ema', 'state_dict', 'model')
# mmengine's plain weights beside averaged ones, and what is an optimizer's.
NO_ENTRY = ('ema_state_dict', 'optimizer', 'optimizer_state_dict', 'message_hub')
FIRST_LAYERS = {'stem.conv.weight', 'patch_embed.conv.weight'}
DEEPEST = 3  # levels of dicts that are looked through for weights
OUTPUT_NORMS = ('norm0', 'norm1', 'norm2', 'norm3')


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did.

    Attributes:
        source: Where the weights came from.
        format: The format of their names, see `keymaps`.
        wrapper: The entry of the file that held them; empty if the file is the dict.
        prefix: What stood before their names.
        loaded: Names (the model's) that came from the file.
        new: Names of the model that the file doesn't have; they keep their values.
        left: Names of the file, in native form, that the model doesn't have.
        channels: The model's image channels, where the file's first layer, for RGB,
            was made to fit them; `None` if it fitted.
        averaged: Whether they are averaged weights (EMA).
        reshaped: Names of both that differ in shape, with the file's and the model's;
            they keep the model's values, and are not among `new` and `left`.
    """

    source: str
    format: str
    wrapper: str
    prefix: str
    loaded: tuple[str, ...]
    new: tuple[str, ...]
    left: tuple[str, ...]
    channels: int | None = None
    averaged: bool = False
    reshaped: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Say it in one line."""
        place = [f'{self.format} names']
        if self.wrapper:
            averaged = ' (averaged weights)' if self.averaged else ''
            place.append(f'entry {self.wrapper!r}{averaged}')
        if self.prefix:
            place.append(f'prefix {self.prefix!r}')
        reshaped = (
            f', {_counted("of another shape", self.reshaped)}' if self.reshaped else ''
        )
        if self.channels:
            how = 'summed over' if self.channels == 1 else 'repeated and scaled from'
            place.append(
                f'first layer for {self.channels} image channels {how} RGB, as in timm'
            )
        return (
            f'{len(self.loaded)} tensors from {self.source} ({", ".join(place)}), '
            f'{_counted("new", self.new)}, {_counted("left", self.left)}{reshaped}'
        )


def load_weights(
    module: nn.Module,
    source: str | os.PathLike | Mapping,
    *,
    fresh: Sequence[str] = OUTPUT_NORMS,
    trust: bool = False,
    prefix: str | None = None,
    name: str | None = None,
    entry: str | None = None,
) -> LoadReport:
    """Load weights of any known format into a model with native names.

    The file may be an ImageNet checkpoint or a whole detector or segmentor. A first
    layer for RGB is made to fit other numbers of image channels by timm's rule. Its
    classifier, output norms and last stages are left where the model has none.
    Nothing is copied unless everything fits.

    Args:
        module: A backbone or classifier of this package, or timm's of the same name.
        source: What `read_source` takes (a path, a URL, `zoo://NAME`, `timm://NAME`,
            `hf://OWNER/NAME`, each perhaps with `#ENTRY`), or a state dict.
        fresh: Names, or starts of names, that may be missing or of another shape and
            then keep the model's values: by default the output norms, which ImageNet
            files don't hold; add `'head.fc'` for another number of classes.
        trust: See `read_checkpoint`.
        prefix: What stands before the names of the backbone, such as `'backbone.'`;
            detected automatically.
        name: How messages call the source; by default as it is given.
        entry: See `unwrap`.

    Returns:
        What was loaded, what is new, what was left.

    Raises:
        ValueError: If a parameter is missing, has another shape, or is too many.
    """
    if name is None:
        name = 'a dict' if isinstance(source, Mapping) else str(source)
    path, content = None, source
    if not isinstance(source, Mapping):
        place, entry = split_entry(source, entry)
        path = resolve_source(place)
        content = read_checkpoint(path, trust=trust)
    wrapper, weights = unwrap(content, name, entry)
    found = _found_prefix(weights, prefix, name)
    part = under(found, weights)
    native = convert_state_dict(part, 'native')
    channels = _fit_channels(module, native)
    chosen = _checked(module, native, tuple(fresh), name)
    module.load_state_dict(chosen, strict=False)
    own = module.state_dict()
    format = file_format(path, part)
    if format == 'timm' and 'head.norm.weight' in chosen:
        _warn_of_head(module, content, name)
    return LoadReport(
        source=name,
        format=format,
        wrapper=wrapper,
        prefix=found,
        loaded=tuple(chosen),
        new=tuple(key for key in own if key not in chosen),
        left=tuple(key for key in native if key not in chosen),
        channels=channels,
        averaged=_averaged(content, wrapper),
    )


def read_source(source: str | os.PathLike, *, trust: bool = False) -> dict:
    """Read the checkpoint that a config or a command names.

    Args:
        source: What `resolve_source` takes, perhaps with `#ENTRY`: an entry, see
            `unwrap`, of a file with several.
        trust: See `read_checkpoint`.

    Returns:
        What the file holds; with an entry, that as `state_dict`, beside the `meta`.

    Raises:
        ValueError: If the file can't be had or read, or has no such entry.
    """
    place, entry = split_entry(source)
    content = read_checkpoint(resolve_source(place), trust=trust)
    if entry is None:
        return content
    return state_of(unwrap(content, str(source), entry)[1], content)


def state_of(weights: dict[str, Tensor], content: Mapping) -> dict:
    """Return a checkpoint of these weights of a file, with what it says about them."""
    about = {'meta': content['meta']} if 'meta' in content else {}
    return {'state_dict': weights, **about}


def unwrap(
    content: Mapping, name: str = 'the dict', entry: str | None = None
) -> tuple[str, dict[str, Tensor]]:
    """Find the weights in what a file holds.

    Args:
        content: What the file holds: the weights, or a dict with them in an entry,
            perhaps of an entry (`state.model`).
        name: How messages call the file.
        entry: The entry to take, where several hold weights, or what stands before
            names that share a dict, such as `'teacher'`. By default one of `WRAPPERS`,
            or the only one with weights.

    Returns:
        The entry's name, empty if there is none, and the weights.

    Raises:
        CheckpointError: If there are no weights, or those of several models.
    """
    found = _entries_with_weights(content)
    if entry is not None and found:
        return entry, _chosen_entry(found, entry, name)
    for wrapper in WRAPPERS:
        if wrapper in found:
            return wrapper, found[wrapper]
    # Not a criterion's few tensors, or a mean and deviation beside the weights.
    most = max(map(len, found.values()), default=0)
    large = [key for key in found if 10 * len(found[key]) >= most]
    if not large:
        raise CheckpointError(_without_weights(content, name))
    if len(large) > 1:
        raise CheckpointError(
            f'{name} holds weights in several entries ({first_few(large)}): '
            f'{entry_cure(large[0])}'
        )
    return large[0], found[large[0]]


def _without_weights(content: Mapping, name: str) -> str:
    for wrapper in WRAPPERS:
        if isinstance(content.get(wrapper), Mapping):
            content, name = content[wrapper], f'{name}, entry {wrapper!r},'
            break
    return f'{name} holds no weights, only {first_few(list(content))}'


def _entries_with_weights(
    content: Mapping, place: str = '', depth: int = 0
) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of every dict by its place; those of the file itself by ''."""
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)}
    # The numbers of an optimizer's state are no names of weights.
    named = tensors and all(isinstance(key, str) for key in tensors)
    found = {place: without_marks(tensors)} if named else {}
    for key, value in content.items() if depth < DEEPEST else ():
        if isinstance(value, Mapping) and isinstance(key, str) and key not in NO_ENTRY:
            inner = f'{place}.{key}' if place else key
            found |= _entries_with_weights(value, inner, depth + 1)
    return found


def _chosen_entry(
    found: Mapping[str, dict[str, Tensor]], entry: str, name: str
) -> dict[str, Tensor]:
    if entry in found:
        return found[entry]
    parts = {}
    for place, weights in found.items():
        start = f'{entry}.'.removeprefix(f'{place}.')
        if part := under(start, weights):
            parts[f'{place}.{start}'.strip('.')] = part
    if len(parts) == 1:
        return next(iter(parts.values()))
    if parts:
        raise CheckpointError(
            f'{name} has weights of {entry!r} in several entries '
            f'({first_few(parts)}): {entry_cure(next(iter(parts)))}'
        )
    places = [place for place in found if place]
    if len(found) == 1:  # what its names start with can be chosen, too
        places += sorted({key.split('.')[0] for key in next(iter(found.values()))})
    raise CheckpointError(
        f'{name} has no weights in an entry {entry!r}, only in {first_few(places)}'
    )


def file_format(path: Path | None, part: Mapping[str, Tensor]) -> str:
    """Tell the format of weights, from the file's name where it is Paddle's.

    The reader has turned the linear weights of those, so shapes don't tell.
    """
    return 'paddle' if path and path.suffix == PADDLE else detect_format(part)


def _averaged(content: Mapping, wrapper: str) -> bool:
    # Where mmengine averages, `state_dict` holds the averaged weights.
    swapped = wrapper == 'state_dict' and 'ema_state_dict' in content
    return swapped or 'ema' in wrapper


def _found_prefix(weights: Mapping[str, Tensor], prefix: str | None, name: str) -> str:
    if prefix is None:
        return find_prefix(weights)
    prefix = with_dot(prefix)
    if not any(key.startswith(prefix) for key in weights):
        starts = sorted({key.split('.')[0] for key in weights})
        raise CheckpointError(
            f'{name} has nothing under the prefix {prefix!r}, only under '
            f'{first_few(starts)}'
        )
    return prefix


def _warn_of_head(module: nn.Module, content: Mapping, name: str) -> None:
    """Say where weights may have been trained with another head than the model's.

    timm's published PoolFormers are the original's, whose head is ours. The same names
    in any other file may come from a training in timm.
    """
    meta = content.get('meta')
    ours = isinstance(meta, Mapping) and {'mmengine_version', OURS} & set(meta)
    published = name.startswith(('timm://', 'hf://timm/', 'hf://sail/'))
    differs = getattr(getattr(module, 'head', None), 'timm_averages_first', False)
    if differs and not ours and not published:
        warn(
            f'{name}: if this PoolFormer was trained or tuned in timm, its outputs '
            "differ a little here: timm's head averages before its norm, this one "
            'after it, as in the original. Use the model timm/poolformer_... then'
        )


def _fit_channels(module: nn.Module, native: dict[str, Tensor]) -> int | None:
    """Make a first layer for RGB fit other channels, in place, by timm's rule.

    For one channel its weights are summed over RGB; for others they are repeated and
    scaled by 3 / channels, so that outputs keep their size.
    """
    own = module.state_dict()
    for key in FIRST_LAYERS & own.keys() & native.keys():
        theirs, channels = native[key], own[key].shape[1]
        fits = theirs[:, :1].shape == own[key][:, :1].shape
        if fits and channels != theirs.shape[1] == 3:
            from timm.models import adapt_input_conv  # seconds: not to read files

            native[key] = adapt_input_conv(channels, theirs)
            return channels
    return None


def _checked(
    module: nn.Module, native: Mapping[str, Tensor], fresh: Sequence[str], name: str
) -> dict[str, Tensor]:
    """Choose what to copy, or say all that doesn't fit."""
    own = module.state_dict()
    needed = {k: v for k, v in own.items() if not _starts_with(k, fresh)}
    missing = [key for key in needed if key not in native]
    reshaped = reshaped_tensors(needed, native)
    surplus = [key for key in native if key not in own and not _may_stay(key, own)]
    if missing or reshaped or surplus:
        problems = {
            'missing': missing,
            'of another shape': [*reshaped.values()],
            'unknown to the model': surplus,
        }
        listed = [_counted(what, names) for what, names in problems.items() if names]
        raise CheckpointError(
            f'{name} does not fit {type(module).__name__}: {"; ".join(listed)}. '
            f'{_cure(missing, [*reshaped])}'
        )
    return {
        key: native[key]
        for key in own
        if key in native and native[key].shape == own[key].shape
    }


def reshaped_tensors(
    own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
) -> dict[str, str]:
    """Say of each tensor of both that differs in shape, by name, how it does."""
    return {
        key: f'{key} {list(theirs[key].shape)}, not {list(own[key].shape)}'
        for key in own
        if key in theirs and theirs[key].shape != own[key].shape
    }


def _starts_with(key: str, starts: Sequence[str]) -> bool:
    return any(key == start or key.startswith(f'{start}.') for start in starts)


def _may_stay(key: str, own: Mapping[str, Tensor]) -> bool:
    """Tell whether a model may do without a parameter of the file.

    Classifiers and output norms are optional, and a dense backbone is built up to the
    last stage that it gives out. Other blocks mean another architecture.
    """
    if re.match(r'(head|head_dist|norm\d?)\.', key):
        return True
    stage = re.match(r'(stages|transformers)\.\d+\.', key)
    return bool(stage) and not any(k.startswith(stage.group()) for k in own)


def _cure(missing: Sequence[str], reshaped: Sequence[str]) -> str:
    wrong = {*missing, *reshaped}
    if reshaped and wrong <= FIRST_LAYERS:
        return (
            'The number of image channels differs: train from scratch '
            f'(init_cfg=None), or change {reshaped[0]} in the file'
        )
    if 'cls_token' in reshaped:
        return 'If only one of the two is distilled, change the option distilled'
    if reshaped == ['pos_embed'] and not missing:
        return 'It is of another image size: arch=dict(base=..., image_size=...)'
    heads = {key.rpartition('.')[0] for key in wrong}
    if missing and not reshaped and all(key.startswith('head') for key in missing):
        return (
            'The file has no classifier: load it into a backbone, or start the layers '
            f'anew by fresh={tuple(sorted(heads))} of init_cfg or load_weights'
        )
    if heads and heads <= {'head.fc', 'head.fc.fc2', 'head', 'head_dist'}:
        return (
            f'The number of classes differs: fresh={tuple(sorted(heads))} of init_cfg '
            'or load_weights starts that layer anew'
        )
    return 'Check that the file is of the same architecture and size'


def _counted(what: str, names: Sequence[str]) -> str:
    return f'{len(names)} {what}' + (f' ({first_few(names)})' if names else '')
