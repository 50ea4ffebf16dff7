"""Our reading in place of mmengine's, for a process that asks for it."""

import os

import torch

from mmpoolformer.checkpoints.reading import read_checkpoint
from mmpoolformer.checkpoints.zoo import resolve_source

# The empty prefix is mmengine's for paths.
SCHEMES = ('', 'file://', 'http://', 'https://', 'zoo://', 'timm://')


def register_safe_loaders() -> None:
    """Make mmengine read checkpoints safely in this process.

    When a file can't be read safely, mmengine's own loader reads it in the unsafe way,
    and runs what is in it; ours refuses. It is used for paths and URLs, `load_from`,
    `resume` and pretrained parts alike, and adds `zoo://` and `timm://`. For the main
    functions of tools; importing the package changes nothing.
    """
    # Imported here: it brings the whole runner with it.
    from mmengine.runner import CheckpointLoader

    CheckpointLoader.register_scheme(SCHEMES, load_from_source, force=True)


def load_from_source(
    filename: str, map_location: str | torch.device | None = None
) -> dict:
    """Read a checkpoint as mmengine's loaders do.

    Args:
        filename: What `resolve_source` takes.
        map_location: Not used: tensors come to the CPU, and loading copies them to the
            device of the module or optimiser.

    Returns:
        What the file holds.
    """
    return read_checkpoint(resolve_source(os.path.expanduser(filename)))
