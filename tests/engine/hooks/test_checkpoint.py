"""Checkpoints under kills, full disks and damage, in trainings of real runners."""

import json
import signal
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner
from tiny_training import STEPS, settings, train
from tool_process import fork

from mmpoolformer.checkpoints.reading import read_checkpoint
from mmpoolformer.engine.hooks.checkpoint import SafeCheckpointHook
from mmpoolformer.engine.resuming import resumable
from mmpoolformer.engine.runner import ToolRunner
from mmpoolformer.utils.files import atomic_file

pytestmark = pytest.mark.slow

KILLS, LONG_KILLS = 5, 60
DIED = {'time': -9, 'file': -9, 'byte': -25}  # SIGKILL, SIGXFSZ


@pytest.fixture(scope='module')
def driven(
    tmp_path_factory: pytest.TempPathFactory, long_mode: bool
) -> SimpleNamespace:
    """Trainings that were never stopped, killed, out of disk, or damaged."""
    folder = tmp_path_factory.mktemp('driven')
    kills = LONG_KILLS if long_mode else KILLS
    process = fork(['tests/kill_trainings.py', folder, kills], folder)
    process.join()
    output = (folder / 'output.txt').read_text()
    assert process.exitcode == 0, output[-3000:]
    return SimpleNamespace(folder=folder, **json.loads(output))


def test_nothing_promised_is_lost_by_a_kill(
    driven: SimpleNamespace, long_mode: bool
) -> None:
    assert len(driven.kills) == (LONG_KILLS if long_mode else KILLS)
    for kill in driven.kills:
        assert kill['status'] == DIED[kill['kind']], kill
        # What was read, and in full, is no older than what was said to be saved.
        assert kill['resumed'] >= kill['promised'], kill
        assert kill['resumed'] >= kill['before']['resumed'], kill
    assert any(kill['resumed'] for kill in driven.kills)


def test_a_run_after_all_kills_ends_like_one_that_was_not(
    driven: SimpleNamespace,
) -> None:
    assert driven.whole['code'] == 0, driven.whole['out'][-3000:]
    assert driven.ends
    for place, end in driven.ends.items():
        assert end['code'] == 0, end['out'][-3000:]
        check_same(driven.folder / 'whole', Path(place))


def check_same(whole: Path, other: Path, keep: int = 1) -> None:
    """Compare all that two trainings have left: losses, metrics, weights, files."""
    for name in ('train_log.jsonl', 'val_results.json'):
        assert without_times(other / name) == without_times(whole / name)
    one, two = (
        read_checkpoint(place / f'iter_{STEPS}.pth') for place in (whole, other)
    )
    for part in ('state_dict', 'ema_state_dict'):
        for key, tensor in one[part].items():
            assert torch.equal(tensor, two[part][key]), key
    assert str(one['param_schedulers']) == str(two['param_schedulers'])
    names, others = (
        {path.name for path in place.iterdir() if 'pth' in path.name}
        for place in (whole, other)
    )
    assert names <= others
    assert len(others) == keep + 1  # and the best one


def without_times(path: Path) -> list[dict]:
    text = path.read_text()
    if path.suffix == '.jsonl':
        return [json.loads(line) for line in text.splitlines()]
    return [
        {**entry, 'metrics': entry['metrics']['error']} for entry in json.loads(text)
    ]


def test_a_full_disk_keeps_the_checkpoint_before(driven: SimpleNamespace) -> None:
    found = SimpleNamespace(**driven.full_disk)
    assert found.full['code'] == 1
    last = found.full['out'].splitlines()[-1]
    assert last.startswith('error: checkpoint not saved: ')
    assert 'No space left on device' in last
    assert f'{driven.folder}/full/iter_6.pth) is intact' in last
    assert 'Traceback' not in found.full['out']
    assert [name for name in found.names if name.startswith('iter')] == ['iter_6.pth']
    assert found.again['code'] == 0, found.again['out'][-3000:]
    check_same(driven.folder / 'whole', driven.folder / 'full')


def test_resume_falls_back_from_what_can_not_be_read(driven: SimpleNamespace) -> None:
    found = SimpleNamespace(**driven.damage)
    assert set(found.found) == {'flip', 'unlink'}
    for kind, run in found.found.items():
        newest, older = run['names']
        assert run['code'] == 0, run['out'][-3000:]
        (told,) = [line for line in run['out'].splitlines() if 'is older' in line]
        assert 'WARNING' in told
        assert newest in told
        assert f'{older}, which is older' in told
        check_same(driven.folder / 'whole', driven.folder / kind, keep=2)
    assert found.none['code'] == 1
    assert found.none['out'].splitlines()[-1].startswith('error: ')
    assert 'damaged or truncated' in found.none['out'].splitlines()[-1]


@pytest.mark.parametrize('kind', ['CheckpointHook', 'mmengine.CheckpointHook', None])
def test_every_checkpoint_hook_of_a_config_is_the_safe_one(
    tmp_path: Path, kind: object
) -> None:
    config = settings(tmp_path)
    if kind is None:
        del config.default_hooks['checkpoint']  # mmengine adds its own
    else:
        config.default_hooks.checkpoint.type = kind
    runner = ToolRunner.from_cfg(config)
    (hook,) = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
    assert isinstance(hook, SafeCheckpointHook)
    assert kind is None or hook.max_keep_ckpts == 1


def test_a_misspelt_option_is_refused_before_the_first_epoch() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'max_keep'"):
        SafeCheckpointHook(interval=1, max_keep=1)


class Interrupts:
    """Sends Ctrl-C while it is written."""

    def __reduce__(self) -> tuple:
        signal.raise_signal(signal.SIGINT)
        return OrderedDict, ()


class AddInterrupts(Hook):
    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint['late'] = Interrupts()


def test_ctrl_c_waits_until_a_checkpoint_is_written(tmp_path: Path) -> None:
    """The writer of torch.save, interrupted at its end, aborts the process."""
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(settings(tmp_path), AddInterrupts())
    assert signal.getsignal(signal.SIGINT) == before
    assert [path.name for path in tmp_path.glob('*.pth*')] == ['iter_2.pth']
    assert read_checkpoint(tmp_path / 'iter_2.pth')['late'] == {}


def test_a_file_has_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / 'new' / 'x.bin'
    with atomic_file(path) as file:
        file.write(b'one')
        assert not path.exists()
    assert path.read_bytes() == b'one'
    with pytest.raises(ZeroDivisionError), atomic_file(path) as file:
        file.write(b'two')
        raise ZeroDivisionError
    assert path.read_bytes() == b'one'
    assert [p.name for p in path.parent.iterdir()] == ['x.bin']


def test_a_work_dir_that_moved_can_be_resumed(tmp_path: Path) -> None:
    for name in ('epoch_2.pth', 'iter_7.pth', 'best_acc_epoch_2.pth', 'x.pth'):
        (tmp_path / name).write_bytes(b'')
    (tmp_path / 'last_checkpoint').write_text('/gone/elsewhere/epoch_2.pth')
    names = [path.name for path in resumable(tmp_path)]
    assert names == ['epoch_2.pth', 'iter_7.pth']
    (tmp_path / 'last_checkpoint').write_text('')  # a crash of mmengine's own hook
    assert {path.name for path in resumable(tmp_path)} == {'epoch_2.pth', 'iter_7.pth'}


class FailInSecondEpoch(Hook):
    def before_train_epoch(self, runner: Runner) -> None:
        if runner.epoch == 1:
            raise ZeroDivisionError


def test_gradients_that_wait_at_the_end_of_an_epoch_are_kept(tmp_path: Path) -> None:
    """Six batches in an epoch, and a step of the optimizer for every four."""
    folders = tmp_path / 'whole', tmp_path / 'stopped'
    for folder in folders:
        config = settings(folder)
        config.train_dataloader.sampler = dict(type='DefaultSampler')
        config.train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=2)
        config.optim_wrapper.accumulative_counts = 4
        config.default_hooks.checkpoint.update(by_epoch=True, interval=1)
        if folder.name == 'stopped':
            with pytest.raises(ZeroDivisionError):
                train(config, FailInSecondEpoch())
        train(config)
    one, other = (
        torch.load(folder / 'epoch_2.pth', weights_only=False) for folder in folders
    )
    assert one['optimizer']['state'][0]['step'] == 3
    for part in ('state_dict', 'ema_state_dict'):
        for key, tensor in one[part].items():
            assert torch.equal(tensor, other[part][key]), key
