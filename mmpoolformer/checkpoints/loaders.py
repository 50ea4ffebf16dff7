"""Our reading in place of mmengine's, for a process that asks for it."""

import os

import torch

from mmpoolformer.checkpoints.loading import read_source
from mmpoolformer.utils.text import nearest

# The empty prefix is mmengine's for paths.
SCHEMES = ('', 'file://', 'http://', 'https://', 'zoo://', 'timm://', 'hf://')

# mmengine's functions that give the tables of names, by scheme.
TABLES = {
    'torchvision': 'get_torchvision_models',
    'modelzoo': 'get_torchvision_models',
    'open-mmlab': 'get_external_models',
    'openmmlab': 'get_external_models',
}


def register_safe_loaders() -> None:
    """Make mmengine read checkpoints safely in this process.

    When a file can't be read safely, mmengine's own loaders read it in the unsafe way,
    and run what is in it; ours refuses. It is used for `load_from`, `resume` and
    pretrained parts alike, for every scheme that mmengine knows, and adds `zoo://`,
    `timm://` and `hf://`. For the main functions of tools; importing the package
    changes nothing.
    """
    # Imported here: it brings the whole runner with it.
    from mmengine.runner import CheckpointLoader

    # All of mmengine's schemes, or one would be left with a loader of its own.
    schemes = (*CheckpointLoader._schemes, *SCHEMES)
    CheckpointLoader.register_scheme(schemes, load_from_source, force=True)


def load_from_source(
    filename: str, map_location: str | torch.device | None = None
) -> dict:
    """Read a checkpoint as mmengine's loaders do.

    A config in the entry `meta` is left out: mmengine would run it when it resumes.

    Args:
        filename: What `read_source` takes, or a name of mmengine's own tables
            (`torchvision://resnet50`, `open-mmlab://NAME`).
        map_location: Not used: tensors come to the CPU, and loading copies them to the
            device of the module or optimiser.

    Returns:
        What the file holds.
    """
    content = read_source(_resolved(filename))
    meta = content.get('meta')
    if isinstance(meta, dict):
        meta.pop('config', None)
    return content


def _resolved(source: str) -> str:
    """Turn a name of mmengine's tables into the path or URL that it stands for."""
    scheme, _, rest = source.partition('://')
    if scheme not in TABLES:
        return source
    name, *entry = rest.split('#', 1)
    # Imported here: it brings the whole runner with it.
    from mmengine.runner import checkpoint

    table = getattr(checkpoint, TABLES[scheme])()
    if TABLES[scheme] == 'get_external_models':
        name = checkpoint.get_deprecated_model_names().get(name, name)
    if name not in table:
        raise ValueError(
            f'{source}: no such name; did you mean {nearest(name, table)}?'
        )
    place = table[name]
    if '://' not in place:
        home = os.environ.get('MMENGINE_HOME', '~/.cache/mmengine')
        place = os.path.join(home, place)
    return '#'.join([place, *entry])
