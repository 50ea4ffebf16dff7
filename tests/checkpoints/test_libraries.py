"""What libraries write reads as by the unsafe reader of torch."""

import argparse
import collections
import logging
from pathlib import Path

import pytest
import timm
import torch
from mmengine.hooks import EMAHook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from timm.utils import CheckpointSaver, ModelEmaV2
from torch import nn

from mmpoolformer.checkpoints import UntrustedCheckpointError, read_checkpoint

from .weights import assert_same


class Tiny(BaseModel):
    """One layer, and a loss."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, *images: torch.Tensor, mode: str) -> dict:
        return {'loss': self.layer(torch.stack(list(images))).sum()}


def of_mmengine(folder: Path) -> None:
    logging.disable()
    sampler = {'type': 'DefaultSampler', 'shuffle': False}
    cycle = {'type': 'OneCycleLR', 'eta_max': 0.1, 'total_steps': 4, 'by_epoch': False}
    Runner(
        Tiny(),
        work_dir=str(folder),
        train_dataloader={
            **{'dataset': [torch.ones(2)] * 4, 'batch_size': 2, 'sampler': sampler},
        },
        train_cfg={'by_epoch': True, 'max_epochs': 2},
        optim_wrapper={'optimizer': {'type': 'AdamW', 'lr': 0.1}},
        param_scheduler=[cycle, {'type': 'MultiStepLR', 'milestones': [8, 11]}],
        custom_hooks=[EMAHook()],
        default_hooks={'logger': {'type': 'LoggerHook', 'interval': 1}},
        experiment_name=folder.name,
    ).train()
    logging.disable(logging.NOTSET)
    (folder / 'epoch_2.pth').rename(folder / 'a.pth')


def of_timm(folder: Path) -> None:
    model = timm.create_model('test_resnet', num_classes=2)
    arguments = argparse.Namespace(lr=0.1, betas=(0.9, 0.999), model='x', seed=None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    saver = CheckpointSaver(
        *(model, optimizer, arguments, ModelEmaV2(model)),
        checkpoint_dir=str(folder),
        recovery_dir=str(folder),
    )
    saver.save_checkpoint(3, metric=0.5)
    (folder / 'last.pth.tar').rename(folder / 'a.pth')


def of_compiled_training(folder: Path) -> None:
    """Save as with `compile=True`: torch leaves a note at the optimizer's tensors."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    for tensors in state['state'].values():
        torch._dynamo.mark_static_address(tensors['exp_avg'])
        assert vars(tensors['exp_avg'])
    content = {'state_dict': torch.compile(model).state_dict(), 'optimizer': state}
    assert all(key.startswith('_orig_mod.') for key in content['state_dict'])
    torch.save(content, folder / 'a.pth')


def of_lightning(folder: Path) -> None:
    model = nn.Linear(2, 2)
    content = {
        'epoch': 1,
        'global_step': 10,
        'pytorch-lightning_version': '2.5.0',
        'state_dict': model.state_dict(),
        'loops': {'fit_loop': {'state_dict': {}, 'epoch_progress': {'total': 1}}},
        'callbacks': {"ModelCheckpoint{'monitor': 'x'}": {'best': torch.tensor(0.5)}},
        'optimizer_states': [torch.optim.Adam(model.parameters()).state_dict()],
        'lr_schedulers': [{'milestones': collections.Counter([1]), '_step_count': 1}],
        'hparams_name': 'kwargs',
        'hyper_parameters': {'lr': 0.1, 'sizes': (1, 2), 'device': torch.device('cpu')},
    }
    torch.save(content, folder / 'a.pth')


def of_old_torch(folder: Path) -> None:
    base = torch.arange(6.0)
    content = {'state_dict': nn.BatchNorm2d(2).state_dict(), 'views': [base, base[2:]]}
    torch.save(content, folder / 'a.pth', _use_new_zipfile_serialization=False)


WRITERS = [of_mmengine, of_timm, of_compiled_training, of_lightning, of_old_torch]


@pytest.mark.parametrize('write', WRITERS)
def test_read_as_by_torch(write, tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / 'a.pth'
    read, expected = read_checkpoint(path), torch.load(path, weights_only=False)
    if write is of_compiled_training:  # names come as those of the plain model
        state = expected['state_dict']
        names = [key.removeprefix('_orig_mod.') for key in state]
        expected['state_dict'] = type(state)(zip(names, state.values(), strict=True))
    assert_same(read, expected)


def test_notes_of_a_compiled_training_come_along(tmp_path: Path) -> None:
    of_compiled_training(tmp_path)
    state = read_checkpoint(tmp_path / 'a.pth')['optimizer']['state'][0]['exp_avg']
    assert vars(state) == {'_dynamo_static_input_type': 'unguarded'}


@pytest.mark.parametrize('version', ['2.1.2+cu121', '2.5.1', '1.13.0'])
def test_old_torch_reads_only_what_is_trusted(tmp_path, monkeypatch, version) -> None:
    of_lightning(tmp_path)
    monkeypatch.setattr(torch, '__version__', version)
    with pytest.raises(UntrustedCheckpointError, match=r'a\.pth was not .*trust=True'):
        read_checkpoint(tmp_path / 'a.pth')
    assert read_checkpoint(tmp_path / 'a.pth', trust=True)['epoch'] == 1


@pytest.mark.parametrize('version', ['2.6.0', '2.11.0+cu130', '3.0'])
def test_newer_torch_reads(tmp_path, monkeypatch, version) -> None:
    of_lightning(tmp_path)
    monkeypatch.setattr(torch, '__version__', version)
    assert read_checkpoint(tmp_path / 'a.pth')['epoch'] == 1


def test_list_of_harmless_names_is_as_before(tmp_path: Path) -> None:
    of_lightning(tmp_path)
    with torch.serialization.safe_globals([argparse.Namespace]):
        before = torch.serialization.get_safe_globals()
        read_checkpoint(tmp_path / 'a.pth')
        assert set(torch.serialization.get_safe_globals()) == set(before)
        assert argparse.Namespace in before
