"""Files of other trainers: where in them the weights are, and marks in their names."""

import os
import re
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from random_weights import randomised
from torch import nn

from mmpoolformer import PoolFormer
from mmpoolformer.checkpoints import (
    CheckpointError,
    convert_file,
    load_weights,
    read_checkpoint,
    read_source,
    unwrap,
)
from mmpoolformer.checkpoints.filling import fill_model, fill_partly
from mmpoolformer.cli.convert import main as convert
from mmpoolformer.inference.classifiers import load_classifier
from mmpoolformer.utils.errors import UserError, run_tool

from .weights import same

TINY = dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    model = PoolFormer(TINY)
    return {k: torch.randn_like(v) for k, v in model.state_dict().items()}


def save(content: dict, path: Path) -> Path:
    torch.save(content, path)
    return path


def loaded(source: object, **options) -> dict[str, torch.Tensor]:
    model = PoolFormer(TINY)
    load_weights(model, source, **options)
    return model.state_dict()


ENTRIES = (
    'model_state_dict',
    'net',
    'module',
    'teacher',
    'params_ema',
    'student',
    'weights',
    'generator',
)


@pytest.mark.parametrize('entry', ENTRIES)
def test_the_only_entry_with_weights_is_taken(entry, tmp_path) -> None:
    momentum = {0: {'exp_avg': torch.ones(2)}}
    content = {
        'epoch': 1,
        entry: weights(),
        'optimizer_state_dict': {'state': momentum, 'param_groups': []},
        'loss': {'center': torch.zeros(1, 8)},  # as DINO's loss has
        'best': torch.tensor(0.5),
    }
    path = save(content, tmp_path / 'a.pth')
    assert unwrap(content)[0] == entry
    assert same(loaded(path), weights())
    report = convert_file(path, tmp_path / 'b.pth', 'sail')
    assert report.entries == (entry,)
    assert report.dropped == ('optimizer_state_dict',)
    assert same(loaded(tmp_path / 'b.pth'), weights())


@pytest.mark.parametrize('place', [['state', 'model'], ['app', 'model', 'module']])
def test_entry_of_an_entry(place, tmp_path) -> None:
    content = weights()
    for key in reversed(place):
        content = {key: content, 'step': 3}
    path = save(content, tmp_path / 'a.pth')
    assert unwrap(content)[0] == '.'.join(place)
    assert same(loaded(path), weights())
    convert_file(path, tmp_path / 'b.pth', 'sail')
    assert same(loaded(tmp_path / 'b.pth'), weights())


def test_several_entries_are_named_and_one_can_be_chosen(tmp_path) -> None:
    content = {'student': weights(1), 'teacher': weights(2), 'meta': {'epoch': 3}}
    path = save(content, tmp_path / 'a.pth')
    with pytest.raises(
        CheckpointError, match=r'several entries \(student, teacher\).*--entry student '
    ) as caught:
        loaded(path)
    assert '\n' not in str(caught.value)
    for i, entry in enumerate(['student', 'teacher'], 1):
        assert same(loaded(path, entry=entry), weights(i))
        assert same(loaded(f'{path}#{entry}'), weights(i))
        new = tmp_path / f'{entry}.pth'
        convert([str(path), str(new), '--to', 'sail', '--entry', entry])
        assert read_checkpoint(new)['meta'] == {'epoch': 3}
        assert same(loaded(new), weights(i))
    for source, options in ((path, {'entry': 'net'}), (f'{path}#net', {})):
        with pytest.raises(CheckpointError, match=r"'net', only in student, teacher$"):
            loaded(source, **options)


def detector() -> nn.Module:
    return nn.ModuleDict({'backbone': PoolFormer(TINY), 'head': nn.Linear(4, 2)})


def filled(fill: Callable, path: str) -> dict[str, torch.Tensor]:
    model = detector()
    fill(model, read_source(path), str(path))
    return model.state_dict()


READERS = {
    'backbone': lambda path: loaded(path),
    'classifier of timm': lambda path: load_classifier(
        'timm/test_resnet', path
    ).network.state_dict(),
    'whole model': lambda path: filled(fill_model, path),
    'load_from': lambda path: filled(fill_partly, path),
}


@pytest.mark.parametrize('is_flat', [True, False], ids=['prefixes', 'entries'])
@pytest.mark.parametrize('reader', READERS)
def test_choice_in_a_refusal_cures_it(reader, is_flat, tmp_path) -> None:
    make = partial(timm.create_model, 'test_resnet') if 'timm' in reader else detector
    content = {
        f'{e} $(x)': randomised(make(), i).state_dict() for i, e in enumerate('ab')
    }
    inner = {f'{e}.{k}': v for e, own in content.items() for k, v in own.items()}
    path = save({'state_dict': inner} if is_flat else content, tmp_path / 'a.pth')
    with pytest.raises((ValueError, UserError)) as caught:
        READERS[reader](str(path))
    # As a shell takes it apart: names in a stranger's file are no commands.
    option, source = re.search(
        r'by (--entry .*) \(in train, configs and Python: (.*)\)$', str(caught.value)
    ).groups()
    [_, entry], [source] = shlex.split(option), shlex.split(source)
    assert run_tool(convert, [str(path), f'{tmp_path}/b.pth', '--entry', entry]) == 0
    for place in (source.replace('FILE', str(path)), f'{tmp_path}/b.pth'):
        found = READERS[reader](place)
        prefix = 'backbone.' if reader == 'backbone' else ''
        right = {k: content[entry][f'{prefix}{k}'] for k in found}
        assert found and same(found, right)


def test_models_under_prefixes_of_one_dict(tmp_path) -> None:
    flat = {f'student.{k}': v for k, v in weights(1).items()}
    flat |= {f'teacher.{k}': v for k, v in weights(2).items()}
    path = save({'state_dict': flat}, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'several backbones.*--entry teacher '):
        loaded(path)
    assert same(loaded(path, entry='teacher'), weights(2))
    assert same(loaded(path, entry='state_dict.teacher'), weights(2))
    with pytest.raises(
        ValueError, match=r"'ema', only in state_dict, student, teacher$"
    ):
        loaded(path, entry='ema')
    assert same(loaded(path, prefix='student'), weights(1))
    convert([str(path), str(tmp_path / 'b.pth'), '--to', 'sail', '--entry', 'teacher'])
    assert same(loaded(tmp_path / 'b.pth'), weights(2))


def test_a_prefix_in_several_entries_is_not_guessed(tmp_path) -> None:
    content = {
        entry: {f'model.{k}': v for k, v in weights(i).items()}
        for i, entry in enumerate(['student', 'teacher'])
    }
    path = save(content, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'student\.model, teacher\.model'):
        loaded(f'{path}#model')
    for i, entry in enumerate(content):
        assert same(loaded(f'file://{path}#{entry}.model'), weights(i))


def test_what_a_file_says_of_itself_stays_beside_an_entry(tmp_path) -> None:
    content = {'student': weights(1), 'teacher': weights(2), 'meta': {'epoch': 3}}
    path = save(content | {'optimizer': {}}, tmp_path / 'a.pth')
    found = read_source(f'{path}#teacher')
    assert same(found.pop('state_dict'), weights(2))
    assert found == {'meta': {'epoch': 3}}
    os.rename(path, tmp_path / 'a#1.pth')
    found = read_source(tmp_path / 'a#1.pth')
    assert set(found) == {'student', 'teacher', 'meta', 'optimizer'}
    assert same(loaded(f'{tmp_path}/a#1.pth#student'), weights(1))


# What each writes of a network as the only part of it.
WRITERS = {
    'Lightning': lambda own: {
        'pytorch-lightning_version': '2.5',
        'state_dict': {f'model.{k}': v for k, v in own.items()},
        'callbacks': {"Best{'monitor': 'x'}": {'best_model_score': torch.ones(())}},
        'optimizer_states': [{'state': {0: {'exp_avg': torch.ones(2)}}}],
    },
    'DDP, compiled': lambda own: {f'module._orig_mod.{k}': v for k, v in own.items()},
    'AveragedModel': lambda own: {
        'n_averaged': torch.tensor(3),
        **{f'module.{k}': v for k, v in own.items()},
    },
    'transformers': lambda own: {f'timm_model.{k}': v for k, v in own.items()},
}


@pytest.mark.parametrize('writer', WRITERS)
def test_wrapped_networks_of_timm_are_read(writer: str, tmp_path: Path) -> None:
    network = randomised(timm.create_model('test_resnet', num_classes=3))
    path = save(WRITERS[writer](network.state_dict()), tmp_path / 'a.pth')
    found = load_classifier('timm/test_resnet', path).network
    assert found.num_classes == 3
    assert same(found.state_dict(), network.state_dict())


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning', 'ignore:.*torch.jit')
@pytest.mark.parametrize('is_script', [False, True])
def test_trusted_files_of_whole_models_are_read(is_script, tmp_path) -> None:
    model = randomised(PoolFormer(TINY)).eval()
    path = tmp_path / 'a.pth'
    if is_script:
        image = torch.zeros(1, 3, 64, 64)
        torch.jit.trace(model, image, check_trace=False).save(path)
    else:
        torch.save(model, path)
    with pytest.raises(CheckpointError, match='trust'):
        loaded(path)
    assert same(loaded(path, trust=True), model.state_dict())


@pytest.mark.parametrize('kind', ['_orig_mod.', '_fsdp_wrapped_module.'])
@pytest.mark.parametrize('entry', ['', 'state_dict', 'net'])
def test_marks_of_wrappers_anywhere_in_names(entry, kind, tmp_path) -> None:
    marked = {
        f'module.{kind}backbone.{k.replace("stages.", f"stages.{kind}")}': v
        for k, v in weights().items()
    }
    path = save({entry: marked} if entry else marked, tmp_path / 'a.pth')
    assert same(loaded(path), weights())
    assert same(loaded({entry: marked} if entry else marked), weights())
    read = read_checkpoint(path)
    assert list(read[entry] if entry else read) == [
        f'module.backbone.{k}' for k in weights()
    ]


def test_compiled_module_gives_its_weights_back() -> None:
    model = PoolFormer(TINY)
    model.stages[1] = torch.compile(model.stages[1], backend='eager')
    compiled = torch.compile(model, backend='eager').state_dict()
    assert sum('_orig_mod.' in key for key in compiled) == len(compiled)
    plain = {key.replace('_orig_mod.', ''): v for key, v in compiled.items()}
    assert same(loaded(compiled), plain)


def test_name_with_and_without_a_mark_is_refused(tmp_path) -> None:
    key = 'stem.conv.weight'
    content = weights()
    content[f'_orig_mod.{key}'] = content[key]
    with pytest.raises(ValueError, match=rf'duplicate parameter {key!r}'):
        loaded(save(content, tmp_path / 'a.pth'))
