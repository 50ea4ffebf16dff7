"""Whose learning rate and schedule a resumed training uses, and what is told of it."""

import json
import shutil
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.runner import runner as mmengine_runner
from tiny_training import settings, train

from mmpoolformer.checkpoints import register_safe_loaders
from mmpoolformer.utils.errors import UserError

SAVED, STEPS = 6, 10


@pytest.fixture(scope='module', autouse=True)
def quick() -> None:
    """Leave out what takes seconds at every start: asking compilers and git."""
    patch = pytest.MonkeyPatch()
    patch.setattr(mmengine_runner, 'collect_env', dict)
    patch.setattr(mmengine_runner, 'get_git_hash', str)
    patch.setattr(Config, 'pretty_text', property(str))
    register_safe_loaders()
    yield
    patch.undo()


@pytest.fixture(scope='module')
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work dir after six steps."""
    folder = tmp_path_factory.mktemp('saved') / 'run'
    train(settings(folder, SAVED))
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / 'run'))


STEP_DOWN = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=4),
    dict(type='MultiStepLR', by_epoch=False, milestones=[8], gamma=0.1),
]
LONGER = dict(type='PolyLR', end=400, by_epoch=False)


def changed(folder: Path, schedule: object = None, lr: float = 1e-2, **more) -> Config:
    config = settings(folder, STEPS)
    config.optim_wrapper.optimizer.update(lr=lr, **more)
    if schedule:
        config.param_scheduler = schedule
    return config


def rates(folder: Path) -> list[float]:
    lines = (folder / 'train_log.jsonl').read_text().splitlines()
    return [json.loads(line)['lr'] for line in lines]


def test_the_log_has_the_rate_that_a_step_was_taken_with(folder: Path) -> None:
    train(settings(folder, STEPS))
    # PolyLR of power 1, whose 36 rates begin at that of the config.
    expected = [1e-2 * (1 - step / 35) for step in range(STEPS)]
    assert rates(folder) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    'change',
    [dict(lr=1e-3), dict(schedule=STEP_DOWN), dict(schedule=LONGER, lr=0.5), {}],
    ids=str,
)
def test_the_settings_of_the_config_hold_if_asked(folder, tmp_path, change) -> None:
    train(changed(folder, **change), own_settings=True)
    train(changed(tmp_path / 'anew', **change))
    own = rates(folder)
    assert len(own) == STEPS
    assert own[SAVED:] == pytest.approx(rates(tmp_path / 'anew')[SAVED:])


def test_settings_of_the_checkpoint_win_with_a_warning_each(folder, tmp_path, capsys):
    change = dict(lr=1e-3, schedule=LONGER, weight_decay=0.2)
    train(changed(folder, **change))
    told = ''.join(log.read_text() for log in folder.rglob('*.log'))
    for line in (
        "optim_wrapper.optimizer.lr=0.01 of the checkpoint, not the config's 0.001",
        'optim_wrapper.optimizer.weight_decay=0.01 of',
        "param_scheduler.0.end=36 of the checkpoint, not the config's 400",
        '--resume-settings config takes what the config says',
    ):
        assert line in told
    assert told.count('--resume keeps') == len(set(told.split('--resume keeps'))) - 1
    train(settings(tmp_path / 'anew', STEPS))
    assert rates(folder) == pytest.approx(rates(tmp_path / 'anew'))


def test_nothing_is_told_of_a_config_that_was_not_changed(folder: Path) -> None:
    train(settings(folder, STEPS))
    told = ''.join(log.read_text() for log in folder.rglob('*.log'))
    assert '--resume' not in told and 'nothing left' not in told


def test_another_number_of_schedules_is_refused_with_the_option(folder: Path) -> None:
    with pytest.raises(UserError, match=r'2\b.*--resume-settings config'):
        train(changed(folder, STEP_DOWN))


@pytest.mark.parametrize('other', ['groups', 'kind'])
def test_another_optimizer_is_refused_with_the_cure(folder: Path, other: str) -> None:
    config = changed(folder)
    if other == 'groups':
        config.optim_wrapper.optimizer.weight_decay = 0.1
        config.optim_wrapper.paramwise_cfg = dict(norm_decay_mult=0.0)
    else:
        config.optim_wrapper.optimizer = dict(type='SGD', lr=0.1, momentum=0.9)
    with pytest.raises(UserError, match=r'param_groups.*load_from=.*iter_6\.pth'):
        train(config)


@pytest.mark.parametrize('length', [SAVED - 2, SAVED])
def test_a_length_that_is_over_is_told(folder: Path, length: int) -> None:
    train(settings(folder, length))
    told = ''.join(log.read_text() for log in folder.rglob('*.log'))
    assert f'after 6 of train_cfg.max_iters={length}: there is nothing left' in told


def in_epochs(folder: Path, batch_size: int) -> Config:
    config = settings(folder)
    config.train_cfg = dict(by_epoch=True, max_epochs=4)
    config.train_dataloader.update(
        batch_size=batch_size, sampler=dict(type='DefaultSampler', shuffle=True)
    )
    config.optim_wrapper.accumulative_counts = 2
    config.param_scheduler = dict(
        type='PolyLR', end=4, by_epoch=True, convert_to_iter_based=True
    )
    config.default_hooks.checkpoint.update(by_epoch=True, interval=1)
    return config


def test_epochs_of_another_length_go_on_where_they_are(tmp_path: Path) -> None:
    half = in_epochs(tmp_path / 'run', 4)  # 6 iterations an epoch
    half.train_cfg.max_epochs = 2
    train(half)
    runner = train(in_epochs(tmp_path / 'run', 8), own_settings=True)  # 3
    train(in_epochs(tmp_path / 'anew', 8))
    assert rates(tmp_path / 'run')[12:] == pytest.approx(rates(tmp_path / 'anew')[6:])
    assert runner.iter == runner.max_iters == 18
    # The last step of the optimizer was due at the end.
    assert runner.optim_wrapper.should_update()
