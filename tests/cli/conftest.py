import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_data import write_data, write_detection_config, write_segmentation_config
from tool_process import run_many

TRAIN = 'tools/train.py'
LONGER = (
    *('train_cfg.max_epochs=10', 'train_cfg.val_interval=10'),
    'default_hooks.checkpoint.interval=5',
)
BF16 = ('--optimize', '--dtype', 'bf16')


@pytest.fixture(scope='session')
def tiny(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Data and configs: `folder`, `data`, `detection`, `masks`, `segmentation`."""
    folder = tmp_path_factory.mktemp('tiny')
    paths = SimpleNamespace(
        folder=folder,
        data=folder / 'data',
        detection=folder / 'detection.py',
        masks=folder / 'masks.py',
        segmentation=folder / 'segmentation.py',
    )
    write_data(paths.data)
    write_detection_config(paths.detection, paths.data)
    write_detection_config(paths.masks, paths.data, masks=True)
    write_segmentation_config(paths.segmentation, paths.data)
    return paths


@pytest.fixture(scope='session')
def trained(tiny: SimpleNamespace) -> SimpleNamespace:
    """Work dirs of a trained RetinaNet and Semantic FPN, and what training printed."""
    work_dirs = {name: tiny.folder / 'work' / name for name in ('det', 'seg')}
    detection = [tiny.detection, '--work-dir', work_dirs['det']]
    options = '--cfg-options', *LONGER
    segmentation = [tiny.segmentation, '--work-dir', work_dirs['seg']]
    runs = run_many(
        [[TRAIN, *detection, *options], [TRAIN, *segmentation]], tiny.folder
    )
    for run in runs:
        assert run['code'] == 0, run['err'] + run['out'][-2000:]
    return SimpleNamespace(
        det=work_dirs['det'],
        det_checkpoint=work_dirs['det'] / 'epoch_10.pth',
        det_output=runs[0]['out'],
        seg=work_dirs['seg'],
        seg_checkpoint=work_dirs['seg'] / 'iter_4.pth',
        seg_output=runs[1]['out'],
    )


@pytest.fixture(scope='session')
def tested(tiny: SimpleNamespace, trained: SimpleNamespace) -> SimpleNamespace:
    """What tools/test.py has made of both, also augmented (`_tta`) and renamed."""
    out = tiny.folder / 'tested'
    old_names = tiny.folder / 'released.pth'
    write_with_old_names(trained.det_checkpoint, old_names)
    jobs = {
        'det': (tiny.detection, trained.det_checkpoint),
        'seg': (tiny.segmentation, trained.seg_checkpoint),
        'det_tta': (tiny.detection, trained.det_checkpoint, '--tta'),
        'det_old': (tiny.detection, old_names),
        'seg_tta': (tiny.segmentation, trained.seg_checkpoint, '--tta'),
        'det_bf16': (tiny.detection, trained.det_checkpoint, *BF16),
        'seg_bf16': (tiny.segmentation, trained.seg_checkpoint, *BF16),
    }
    commands = []
    for name, job in jobs.items():
        options = ['--out', out / f'{name}.pkl']
        options += ['--show-dir', out / name] if name in ('det', 'seg') else []
        commands.append(
            ['tools/test.py', *job, '--work-dir', _work_dir(out, name), *options]
        )
    runs = run_many(commands, tiny.folder)
    for run in runs:
        assert run['code'] == 0, run['err'] + run['out'][-2000:]
    return SimpleNamespace(out=out, runs=dict(zip(jobs, runs, strict=True)))


def write_with_old_names(checkpoint: Path, renamed: Path) -> None:
    """Write a detector as the PoolFormer authors' code does, backbone names and all."""
    content = torch.load(checkpoint, weights_only=False)
    content['state_dict'] = {
        old_name(name): tensor for name, tensor in content['state_dict'].items()
    }
    assert 'backbone.network.6.0.layer_scale_1' in content['state_dict']
    torch.save(content, renamed)


def old_name(name: str) -> str:
    """Return what the authors' code calls a parameter of the detector."""
    if not name.startswith('backbone.'):
        return name
    name = name.replace('stem.conv', 'patch_embed.proj')
    name = re.sub(r'layer_scale(\d)\.scale', r'layer_scale_\1', name)
    name = re.sub(r'stages\.(\d)\.blocks', lambda m: f'network.{2 * int(m[1])}', name)
    name = re.sub(
        r'stages\.(\d)\.downsample\.conv',
        lambda m: f'network.{2 * int(m[1]) - 1}.proj',
        name,
    )
    return re.sub(
        r'^backbone\.norm(\d)', lambda m: f'backbone.norm{2 * int(m[1])}', name
    )


def _work_dir(out: Path, name: str) -> Path:
    return out / f'work_{name}'
