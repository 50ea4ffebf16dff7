"""Folders in place of checkpoint files: which files in them hold the weights."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from mmpoolformer.checkpoints.errors import CheckpointError
from mmpoolformer.utils.text import first_few, shown

# What transformers, timm and accelerate write, the preferred one first.
FILES = ('model.safetensors', 'pytorch_model.safetensors', 'pytorch_model.bin')
INDICES = tuple(f'{name}.index.json' for name in FILES)
ENDINGS = ('.safetensors', '.bin', '.pth', '.pt', '.ckpt', '.tar', '.pdparams')
MOST_INDEX = 2**24  # bytes, 100 or so a tensor
CONFIG = 'config.json'
PROCESSOR = 'preprocessor_config.json'
OURS = 'mmpoolformer'  # the entry of a config that `save_pretrained` writes
PREPARATION = ('input_size', 'mean', 'std', 'crop_pct', 'interpolation')
NO_NAME = re.compile(r'LABEL_\d+')  # transformers' for classes without one


def checkpoint_files(folder: Path) -> tuple[Path, ...]:
    """Find the files that hold the weights of a folder.

    Args:
        folder: As transformers' `save_pretrained` writes it, whole or in shards.

    Returns:
        The file, or the shards that its index names.

    Raises:
        CheckpointError: If there are none, or parts that another program joins.
    """
    for name, index in zip(FILES, INDICES, strict=True):
        if (folder / name).is_file():
            return (folder / name,)
        if (folder / index).is_file():
            return _shards(folder / index)
    raise CheckpointError(f'{folder} is a folder{_cure(folder)}')


def joined(folder: Path, shards: Iterable[dict]) -> dict:
    """Join the weights of shards, the files of a folder, in one dict.

    Raises:
        CheckpointError: If two shards hold the same name.
    """
    whole = {}
    for shard in shards:
        twice = sorted(whole.keys() & shard.keys())
        if twice:
            raise CheckpointError(
                f'{folder}: duplicate in its shards: {first_few(twice)}'
            )
        whole |= shard
    return whole


def class_names(folder: Path) -> tuple[str, ...]:
    """Return the names of the classes that a folder gives; empty if it gives none.

    Args:
        folder: As `save_pretrained` of transformers (`id2label` of its config.json) or
            of timm (`label_names`) writes it.
    """
    config = read_config(folder)
    names = config.get('label_names') or config.get('id2label')
    if isinstance(names, dict):
        names = [names.get(str(i)) for i in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        return ()
    return () if all(map(NO_NAME.fullmatch, names)) else tuple(names)


def preparation(folder: Path) -> dict:
    """Return how a folder says that pictures are prepared; empty if it does not.

    Args:
        folder: As `save_pretrained` of transformers (preprocessor_config.json, of which
            mean and deviation are taken) or of timm (`pretrained_cfg` of its
            config.json) writes it.

    Returns:
        Options of `timm.data.create_transform`, as they stand there.
    """
    config = read_config(folder).get('pretrained_cfg')
    if isinstance(config, dict):
        return {key: config[key] for key in PREPARATION if key in config}
    processor = _read_dict(folder / PROCESSOR)
    if not processor.get('do_normalize'):
        return {}
    return {'mean': processor.get('image_mean'), 'std': processor.get('image_std')}


def read_config(folder: Path) -> dict:
    """Return what the config.json of a folder holds; empty if it is none."""
    return _read_dict(folder / CONFIG)


def _read_dict(path: Path) -> dict:
    content = _read_json(path)
    return content if isinstance(content, dict) else {}


def _read_json(path: Path) -> object:
    """Return what a file of JSON holds, or None if it is none, or too large."""
    try:
        if path.is_file() and path.stat().st_size <= MOST_INDEX:
            return json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError):
        pass
    return None


def _shards(index: Path) -> tuple[Path, ...]:
    """Return the files that an index names, which are data: none outside its folder."""
    names = sorted(set(_weight_map(index).values()))
    wrong = [name for name in names if not _is_plain(name)]
    if wrong:
        raise CheckpointError(
            f'{index} names files outside of its folder: {first_few(wrong)}; they were '
            'not read'
        )
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(
            f'{index} names missing shards: {first_few(missing)}; fetch or copy '
            'the whole folder'
        )
    return tuple(index.parent / name for name in names)


def _is_plain(name: str) -> bool:
    """Tell whether a name is that of a file in the same folder, on any system."""
    return name.endswith(ENDINGS) and not set(name) & set('/\\:\0')


def _weight_map(index: Path) -> dict[str, str]:
    if index.stat().st_size > MOST_INDEX:
        raise CheckpointError(f'{index} is too large for an index of shards')
    content = _read_json(index)
    if content is None:
        raise CheckpointError(f'{index} is damaged: it is not JSON')
    weights = content.get('weight_map') if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not weights:
        raise CheckpointError(f'{index} is damaged: it has no weight_map')
    if not all(isinstance(name, str) for name in weights.values()):
        raise CheckpointError(f'{index} is damaged: its weight_map names no files')
    return weights


def _cure(folder: Path) -> str:
    """Say what to give in place of a folder without a file of a known name."""
    places = [folder, *(place for place in sorted(folder.iterdir()) if place.is_dir())]
    for place in places:
        if (place / '.metadata').is_file():
            return (
                ' of torch.distributed.checkpoint (FSDP). Join its parts first: python '
                '-m torch.distributed.checkpoint.format_utils dcp_to_torch '
                f'{shown(str(place))} FILE'
            )
    for place in (folder, folder.parent):
        if (place / 'zero_to_fp32.py').is_file():
            own = shown(str(place))
            return (
                ' of DeepSpeed. Join its parts first: python '
                f'{own}/zero_to_fp32.py {own} FILE'
            )
    # Of each rank with ZeRO 3: zero_pp_rank_0_mp_rank_00_model_states.pt.
    if any(any(place.glob('*mp_rank_*_model_states.pt')) for place in places):
        return (
            ' of DeepSpeed. Join its parts first: python -m '
            f'deepspeed.utils.zero_to_fp32 {shown(str(folder))} FILE'
        )
    files = [p.name for p in sorted(folder.iterdir()) if p.suffix in ENDINGS]
    if files:
        return f'; give a file in it: {first_few(files)}'
    return f' without weights (no {", ".join(FILES)}, and no other such file)'
