"""mmengine's runner with our reading in place of its own."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader, Runner
from torch import nn

from mmpoolformer.checkpoints import (
    UntrustedCheckpointError,
    read_checkpoint,
    register_safe_loaders,
)

from .weights import assert_same


@pytest.fixture
def own_schemes(monkeypatch) -> None:
    """Undo registrations after the test."""
    schemes = dict(CheckpointLoader._schemes)
    monkeypatch.setattr(CheckpointLoader, '_schemes', schemes)


@pytest.fixture
def safe_loaders(own_schemes) -> None:
    register_safe_loaders()


class Regression(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.norm = nn.BatchNorm1d(1)

    def forward(self, x: torch.Tensor, mode: str = 'loss') -> dict:
        return {'loss': self.norm(self.layer(x)).square().mean()}


def train(work_dir: Path, epochs: int, resume: bool = False) -> Runner:
    """Train with everything whose state a checkpoint may hold."""
    torch.manual_seed(0)
    data = [(x,) for x in torch.randn(8, 2)]
    schedulers = [
        dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=2),
        dict(type='MultiStepLR', milestones=[1]),
        dict(type='OneCycleLR', eta_max=1.0, total_steps=20),
        dict(type='CosineAnnealingLR', T_max=3),
        dict(type='PolyLR', eta_min=0.0),
    ]
    runner = Runner(
        model=Regression(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=data,
            batch_size=4,
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.01)),
        param_scheduler=schedulers,
        custom_hooks=[dict(type='EMAHook')],
        randomness=dict(seed=0),
        default_scope='mmengine',
        log_level='ERROR',
        resume=resume,
        experiment_name=f'{work_dir.name}_{epochs}_{resume}',
    )
    runner.train()
    return runner


def test_checkpoint_of_a_runner_reads_as_by_torch(tmp_path) -> None:
    train(tmp_path, epochs=1)
    path = tmp_path / 'epoch_1.pth'
    read = read_checkpoint(path)
    assert_same(read, torch.load(path, weights_only=False))
    assert {'optimizer', 'message_hub', 'param_schedulers', 'ema_state_dict'} <= set(
        read
    )


def test_resumed_run_equals_one_by_mmengines_reading(tmp_path, own_schemes) -> None:
    train(tmp_path / 'a', epochs=1)
    shutil.copytree(tmp_path / 'a', tmp_path / 'b')
    expected = train(tmp_path / 'a', epochs=2, resume=True)
    register_safe_loaders()
    found = train(tmp_path / 'b', epochs=2, resume=True)
    assert (found.epoch, found.iter) == (2, 4)
    assert_same(found.model.state_dict(), expected.model.state_dict())
    assert_same(found.optim_wrapper.state_dict(), expected.optim_wrapper.state_dict())


class MakesFolder:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)


@pytest.fixture
def marker(tmp_path) -> Path:
    return tmp_path / 'marker'


@pytest.fixture
def crafted(tmp_path, marker) -> Path:
    state = {'weight': torch.ones(1)}
    path = tmp_path / 'evil.pth'
    torch.save({'state_dict': state, 'meta': MakesFolder(marker)}, path)
    return path


def test_mmengine_alone_runs_a_crafted_file(crafted, marker) -> None:
    CheckpointLoader.load_checkpoint(str(crafted), map_location='cpu')
    assert marker.exists()


@pytest.mark.parametrize('kind', ['path', 'file', 'url'])
def test_registered_loaders_refuse_it(
    kind, crafted, marker, safe_loaders, server, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv('MMPOOLFORMER_CACHE', str(tmp_path / 'cache'))
    server.content = crafted.read_bytes()
    sources = {'path': str(crafted), 'file': crafted.as_uri(), 'url': server.url}
    with pytest.raises(UntrustedCheckpointError, match='asks for'):
        CheckpointLoader.load_checkpoint(sources[kind], map_location='cpu')
    assert not marker.exists()


def test_pretrained_parts_of_models_are_read_safely(
    crafted, marker, safe_loaders
) -> None:
    model = Regression()
    model.init_cfg = dict(type='Pretrained', checkpoint=str(crafted))
    with pytest.raises(UntrustedCheckpointError, match='asks for'):
        model.init_weights()
    assert not marker.exists()


def test_every_scheme_of_mmengine_is_replaced(safe_loaders) -> None:
    loaders = {loader.__module__ for loader in CheckpointLoader._schemes.values()}
    assert loaders == {'mmpoolformer.checkpoints.loaders'}
    assert {'', 'pavi://', 'torchvision://', 'open-mmlab://', 'zoo://'} <= set(
        CheckpointLoader._schemes
    )


@pytest.mark.parametrize('name', ['open-mmlab://evil', 'openmmlab://evil'])
def test_names_of_mmengines_tables_are_read_safely(
    name, crafted, marker, safe_loaders, tmp_path, monkeypatch
) -> None:
    (tmp_path / 'open_mmlab.json').write_text('{"evil": "evil.pth"}')
    monkeypatch.setenv('MMENGINE_HOME', str(tmp_path))
    with pytest.raises(UntrustedCheckpointError, match='asks for'):
        CheckpointLoader.load_checkpoint(name, map_location='cpu')
    assert not marker.exists()


def test_an_entry_may_follow_each_kind_of_name(
    safe_loaders, tmp_path, monkeypatch
) -> None:
    content = {name: {'weight': torch.full((2,), i)} for i, name in enumerate('ab')}
    torch.save(content, tmp_path / 'two.pth')
    (tmp_path / 'open_mmlab.json').write_text('{"two": "two.pth"}')
    monkeypatch.setenv('MMENGINE_HOME', str(tmp_path))
    monkeypatch.setenv('HOME', str(tmp_path))
    for name in ('open-mmlab://two', f'file://{tmp_path}/two.pth', '~/two.pth'):
        found = CheckpointLoader.load_checkpoint(f'{name}#b', map_location='cpu')
        assert_same(found, {'state_dict': content['b']})


def test_torchvisions_names_are_downloaded_and_read_safely(
    crafted, marker, safe_loaders, server, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv('MMPOOLFORMER_CACHE', str(tmp_path / 'cache'))
    server.content = crafted.read_bytes()
    table = 'mmengine.runner.checkpoint.get_torchvision_models'
    monkeypatch.setattr(table, lambda: {'resnet50': server.url})
    with pytest.raises(UntrustedCheckpointError, match='asks for'):
        CheckpointLoader.load_checkpoint('torchvision://resnet50')
    assert not marker.exists()
    with pytest.raises(ValueError, match='no such name; did you mean resnet50'):
        CheckpointLoader.load_checkpoint('torchvision://resnet5')


@pytest.mark.parametrize('source', ['s3://b/x.pth', 'a:petrel://b/x', 'pavi://x'])
def test_other_schemes_are_refused(source, safe_loaders) -> None:
    with pytest.raises(ValueError, match='no scheme'):
        CheckpointLoader.load_checkpoint(source)


def test_a_config_in_a_checkpoint_is_not_run(tmp_path, marker, own_schemes) -> None:
    train(tmp_path / 'a', epochs=1)
    path = tmp_path / 'a' / 'epoch_1.pth'
    content = torch.load(path, weights_only=False)
    content['meta']['config'] = f'x = __import__("os").mkdir({str(marker)!r})\n'
    torch.save(content, path)
    shutil.copytree(tmp_path / 'a', tmp_path / 'b')
    (tmp_path / 'b' / 'last_checkpoint').write_text(str(tmp_path / 'b/epoch_1.pth'))
    train(tmp_path / 'b', epochs=2, resume=True)
    assert marker.is_dir()  # so mmengine would have
    marker.rmdir()
    register_safe_loaders()
    assert train(tmp_path / 'a', epochs=2, resume=True).epoch == 2
    assert not marker.exists()


def test_importing_the_package_registers_nothing(own_schemes) -> None:
    loader = CheckpointLoader._get_checkpoint_loader('/some/path.pth')
    assert loader.__module__.startswith('mmengine.')
    register_safe_loaders()
    loader = CheckpointLoader._get_checkpoint_loader('/some/path.pth')
    assert loader.__module__.startswith('mmpoolformer.')
