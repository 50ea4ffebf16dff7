"""Weights: finding, fetching, safe reading, renaming and loading them."""

from mmpoolformer.checkpoints.converting import ConversionReport, convert_file
from mmpoolformer.checkpoints.download import fetch
from mmpoolformer.checkpoints.errors import (
    CheckpointError,
    DownloadError,
    UntrustedCheckpointError,
)
from mmpoolformer.checkpoints.keymaps import (
    FORMATS,
    convert_state_dict,
    detect_format,
    find_prefix,
    native_keys,
)
from mmpoolformer.checkpoints.loaders import register_safe_loaders
from mmpoolformer.checkpoints.loading import (
    OUTPUT_NORMS,
    LoadReport,
    load_weights,
    read_source,
    unwrap,
)
from mmpoolformer.checkpoints.reading import read_checkpoint
from mmpoolformer.checkpoints.zoo import ZOO, ZooEntry, resolve_source

__all__ = [
    'FORMATS',
    'OUTPUT_NORMS',
    'ZOO',
    'CheckpointError',
    'ConversionReport',
    'DownloadError',
    'LoadReport',
    'UntrustedCheckpointError',
    'ZooEntry',
    'convert_file',
    'convert_state_dict',
    'detect_format',
    'fetch',
    'find_prefix',
    'load_weights',
    'native_keys',
    'read_checkpoint',
    'read_source',
    'register_safe_loaders',
    'resolve_source',
    'unwrap',
]
