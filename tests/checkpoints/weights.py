"""Small and full state dicts under the names of every format."""

import argparse
import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
from golden_rule import GOLDEN, golden_keys
from mmengine.logging import HistoryBuffer

# The original's models beside PoolFormer itself.
METAFORMER = [
    name
    for name in json.loads((Path(GOLDEN) / 'keys.json').read_text())
    if not name.startswith('poolformer_')
]

# One name of each kind as the other codebases write it, by the native one.
SAIL = {
    'stem.conv.weight': 'patch_embed.proj.weight',
    'stages.0.blocks.1.norm1.bias': 'network.0.1.norm1.bias',
    'stages.0.blocks.1.layer_scale1.scale': 'network.0.1.layer_scale_1',
    'stages.1.downsample.conv.weight': 'network.1.proj.weight',
    'stages.1.blocks.0.layer_scale2.scale': 'network.2.0.layer_scale_2',
    'stages.1.blocks.0.mlp.fc1.weight': 'network.2.0.mlp.fc1.weight',
    'stages.2.downsample.conv.bias': 'network.3.proj.bias',
    'stages.2.blocks.5.norm2.weight': 'network.4.5.norm2.weight',
    'stages.3.downsample.conv.bias': 'network.5.proj.bias',
    'stages.3.blocks.1.mlp.fc2.bias': 'network.6.1.mlp.fc2.bias',
    'head.norm.weight': 'norm.weight',
    'head.fc.bias': 'head.bias',
}
MMPRETRAIN = {
    **{k: f'backbone.{v}' for k, v in SAIL.items() if not k.startswith('head')},
    'head.norm.weight': 'backbone.norm6.weight',
    'head.fc.bias': 'head.fc.bias',
}
_HF = 'poolformer.encoder'
HUGGINGFACE = {
    'stem.conv.weight': f'{_HF}.patch_embeddings.0.projection.weight',
    'stages.0.blocks.1.norm1.bias': f'{_HF}.block.0.1.before_norm.bias',
    'stages.0.blocks.1.layer_scale1.scale': f'{_HF}.block.0.1.layer_scale_1',
    'stages.1.downsample.conv.weight': f'{_HF}.patch_embeddings.1.projection.weight',
    'stages.1.blocks.0.layer_scale2.scale': f'{_HF}.block.1.0.layer_scale_2',
    'stages.1.blocks.0.mlp.fc1.weight': f'{_HF}.block.1.0.output.conv1.weight',
    'stages.2.downsample.conv.bias': f'{_HF}.patch_embeddings.2.projection.bias',
    'stages.2.blocks.5.norm2.weight': f'{_HF}.block.2.5.after_norm.weight',
    'stages.3.downsample.conv.bias': f'{_HF}.patch_embeddings.3.projection.bias',
    'stages.3.blocks.1.mlp.fc2.bias': f'{_HF}.block.3.1.output.conv2.bias',
    'head.norm.weight': 'norm.weight',
    'head.fc.bias': 'classifier.bias',
}
NAMES = {'sail': SAIL, 'mmpretrain': MMPRETRAIN, 'huggingface': HUGGINGFACE}


@cache
def numbered(name: str) -> dict[str, torch.Tensor]:
    """Return a state dict in which every tensor holds a number of its own."""
    # Expanded: a number takes no memory however large its shape.
    return {
        key: torch.tensor(float(i)).expand(shape)
        for i, (key, shape) in enumerate(golden_keys(name).items())
    }


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Tell whether two state dicts have the same names, shapes and values."""
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def assert_same(a: object, b: object) -> None:
    """Compare what two readers make of a file."""
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
        assert a.stride() == b.stride()
    elif isinstance(a, np.ndarray | np.generic):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, argparse.Namespace | HistoryBuffer):
        assert_same(vars(a), vars(b))
    else:
        assert a == b
