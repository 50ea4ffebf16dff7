"""Folders as checkpoints: one file, shards, and parts that others join."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config
from timm.models._hub import save_for_hf

from mmpoolformer import PoolFormer
from mmpoolformer.checkpoints import (
    CheckpointError,
    convert_file,
    convert_state_dict,
    load_weights,
    read_checkpoint,
)
from mmpoolformer.classification.class_labels import recorded_classes
from mmpoolformer.classification.preprocessing import stated_settings
from mmpoolformer.inference.classifiers import load_classifier
from mmpoolformer.inference.predictor import Predictor

from .weights import same

TINY = dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))
INDEX = 'model.safetensors.index.json'


def weights() -> dict[str, torch.Tensor]:
    """Return weights as transformers calls them, without output norms."""
    torch.manual_seed(0)
    state = PoolFormer(TINY).state_dict()
    native = {k: torch.randn_like(v) for k, v in state.items() if k[:4] != 'norm'}
    return convert_state_dict(native, 'huggingface')


def shards(folder: Path, index: str = INDEX, count: int = 3) -> dict[str, str]:
    """Write shards and their index; return which holds what."""
    save = save_file if index == INDEX else torch.save
    ending = 'safetensors' if index == INDEX else 'bin'
    everything = list(weights().items())
    places = {}
    for i in range(count):
        name = f'model-{i + 1:05}-of-{count:05}.{ending}'
        part = dict(everything[i::count])
        save(part, folder / name)
        places |= dict.fromkeys(part, name)
    write_index(folder, places, index)
    return places


def write_index(folder: Path, places: object, index: str = INDEX) -> None:
    content = {'metadata': {'total_size': 1}, 'weight_map': places}
    (folder / index).write_text(json.dumps(content))


@pytest.mark.parametrize('name', ['model.safetensors', 'pytorch_model.bin'])
def test_folder_with_one_file(name, tmp_path) -> None:
    save = save_file if name.endswith('safetensors') else torch.save
    save(weights(), tmp_path / name)
    (tmp_path / 'config.json').write_text('{}')
    torch.save({'step': 1}, tmp_path / 'training_args.bin')
    assert same(read_checkpoint(tmp_path), weights())
    assert len(load_weights(PoolFormer(TINY), tmp_path).loaded) == len(weights())


@pytest.mark.parametrize(
    ('config', 'names'),
    [
        ({'id2label': {'1': 'ant', '0': 'wasp'}}, ('wasp', 'ant')),
        ({'label_names': ['wasp', 'ant']}, ('wasp', 'ant')),
        ({'id2label': {'0': 'LABEL_0', '1': 'LABEL_1'}}, ()),
        ({'id2label': {'0': 'wasp', '10': 'ant'}}, ()),
        ({'id2label': {'0': ['wasp']}}, ()),
        ([], ()),
        ('[' * 100_000, ()),
    ],
)
def test_names_of_classes_come_with_the_folder(config, names, tmp_path) -> None:
    save_file(weights(), tmp_path / 'model.safetensors')
    text = config if isinstance(config, str) else json.dumps(config)
    (tmp_path / 'config.json').write_text(text)
    content = read_checkpoint(tmp_path)
    assert recorded_classes(content) == names
    content.pop('meta', None)
    assert same(content, weights())


def test_folder_of_timm_names_the_classes_of_a_classifier(tmp_path) -> None:
    network = timm.create_model('test_resnet', num_classes=3)
    save_for_hf(network, tmp_path, {'label_names': ['c', 'b', 'a']}, None, True)
    assert load_classifier('timm/test_resnet', tmp_path).classes == ('c', 'b', 'a')
    assert Predictor('timm/test_resnet', tmp_path).classes == ('c', 'b', 'a')


def test_pictures_are_prepared_as_the_folder_of_timm_says(tmp_path) -> None:
    network = timm.create_model('test_resnet', num_classes=3)
    says = {'mean': [0.5, 0.4, 0.3], 'std': [0.5, 0.25, 0.2], 'crop_pct': 0.5}
    says |= {'input_size': [3, 96, 96], 'interpolation': 'nearest'}
    save_for_hf(network, tmp_path, {'pretrained_cfg': says}, None, True, says)
    known = load_classifier('timm/test_resnet', tmp_path)
    generator = np.random.default_rng(0)
    picture = Image.fromarray(generator.integers(0, 256, (130, 150, 3), np.uint8))
    expected = create_transform(**resolve_data_config(pretrained_cfg=says))(picture)
    assert torch.equal(create_transform(**known.settings)(picture), expected)


@pytest.mark.parametrize(
    ('config', 'settings'),
    [
        ({'do_normalize': True, 'image_mean': [0.1] * 3}, {'mean': (0.1, 0.1, 0.1)}),
        ({'do_normalize': False, 'image_mean': [0.1] * 3}, {}),
        ({'do_normalize': True, 'image_mean': [0.1, True, 2], 'image_std': 'x'}, {}),
        ({'do_normalize': True, 'image_std': [0.1, 0, 0.1]}, {}),
    ],
)
def test_preparation_of_a_folder_of_transformers(config, settings, tmp_path) -> None:
    save_file(weights(), tmp_path / 'model.safetensors')
    (tmp_path / 'preprocessor_config.json').write_text(json.dumps(config))
    assert stated_settings(read_checkpoint(tmp_path).get('meta', {})) == settings


@pytest.mark.parametrize('index', [INDEX, 'pytorch_model.bin.index.json'])
def test_folder_of_shards(index, tmp_path) -> None:
    shards(tmp_path, index)
    (tmp_path / 'other.safetensors').write_bytes(b'not named by the index')
    assert same(read_checkpoint(tmp_path), weights())
    convert_file(tmp_path, tmp_path / 'whole.pth', 'sail')
    sail = convert_state_dict(weights(), 'sail')
    assert same(read_checkpoint(tmp_path / 'whole.pth'), sail)


@pytest.mark.parametrize(
    'name',
    [
        '../secret.safetensors',
        '/etc/secret.safetensors',
        'inner/secret.safetensors',
        '..\\secret.safetensors',
        'C:secret.safetensors',
        '..',
        '',
        '/dev/zero',
        'a\0.safetensors',
    ],
)
def test_index_names_nothing_outside_of_its_folder(name, tmp_path) -> None:
    folder = tmp_path / 'folder'
    (folder / 'inner').mkdir(parents=True)
    for place in (tmp_path, folder / 'inner'):
        save_file(weights(), place / 'secret.safetensors')
    write_index(folder, dict.fromkeys(weights(), name))
    with pytest.raises(CheckpointError, match='outside of its folder') as caught:
        read_checkpoint(folder)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        ('{', 'not JSON'),
        ('[' * 100_000, 'not JSON'),
        ('[]', 'no weight_map'),
        ('{"weight_map": {}}', 'no weight_map'),
        ('{"weight_map": {"a": 3}}', 'names no files'),
        ('{"weight_map": {"a": ["b"]}}', 'names no files'),
    ],
)
def test_damaged_index(content, reason, tmp_path) -> None:
    (tmp_path / INDEX).write_text(content)
    with pytest.raises(CheckpointError, match=rf'{re.escape(INDEX)} .*{reason}'):
        read_checkpoint(tmp_path)


def test_missing_and_repeated_shards(tmp_path) -> None:
    places = shards(tmp_path)
    first, second, _ = sorted(set(places.values()))
    (tmp_path / second).rename(tmp_path / 'aside')
    with pytest.raises(CheckpointError, match=rf'missing shards: {second}'):
        read_checkpoint(tmp_path)
    (tmp_path / second).write_bytes((tmp_path / first).read_bytes())
    with pytest.raises(CheckpointError, match='duplicate in its shards: poolformer'):
        read_checkpoint(tmp_path)


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b'')
    return folder


STATES = 'mp_rank_00_model_states.pt'


@pytest.mark.parametrize(
    ('names', 'given', 'command'),
    [
        (
            ['.metadata', '__0_0.distcp'],
            '',
            '-m torch.distributed.checkpoint.format_utils dcp_to_torch {} FILE',
        ),
        (
            ['pytorch_model_fsdp_0/.metadata', 'optimizer.bin'],
            '',
            'format_utils dcp_to_torch {}/pytorch_model_fsdp_0 FILE',
        ),
        (
            ['latest', 'zero_to_fp32.py', f'global_step9/{STATES}'],
            '',
            'python {0}/zero_to_fp32.py {0} FILE',
        ),
        (
            ['zero_to_fp32.py', f'global_step9/{STATES}'],
            'global_step9',
            'python {0}/zero_to_fp32.py {0} FILE',
        ),
        (
            [f'global_step9/zero_pp_rank_0_{STATES}', 'latest'],
            '',
            '-m deepspeed.utils.zero_to_fp32 {} FILE',
        ),
        ([f'global_step9/{STATES}'], '', '-m deepspeed.utils.zero_to_fp32 {} FILE'),
        (['a.pth', 'b.txt'], '', 'is a folder; give a file in it: a.pth'),
        (['b.txt'], '', 'is a folder without weights'),
    ],
)
def test_other_folders_are_told_by_one_line(names, given, command, tmp_path) -> None:
    touch(tmp_path, *names)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(tmp_path / given)
    assert command.format(tmp_path) in str(caught.value)
    assert '\n' not in str(caught.value)


def test_command_that_is_named_joins_a_folder(tmp_path) -> None:
    from torch.distributed.checkpoint import save
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    save({'app': {'model': weights()}}, checkpoint_id=tmp_path / 'parts', no_dist=True)
    with pytest.raises(CheckpointError, match='dcp_to_torch'):
        read_checkpoint(tmp_path / 'parts')
    dcp_to_torch_save(tmp_path / 'parts', tmp_path / 'a.pth')
    report = load_weights(PoolFormer(TINY), tmp_path / 'a.pth')
    assert len(report.loaded) == len(weights())
