"""Losses and gradients that are no numbers, in trainings of real runners."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim.optimizer import amp_optimizer_wrapper
from tiny_training import settings, train
from two_processes import in_two_processes

from mmpoolformer.checkpoints.reading import read_checkpoint
from mmpoolformer.engine.hooks.finite import FiniteGuard, pictures
from mmpoolformer.engine.hooks.stop import StopOnSignal
from mmpoolformer.engine.runner import ToolRunner
from mmpoolformer.engine.signals import StopRequest
from mmpoolformer.utils.errors import UserError


class Keep(Hook):
    """Keep the weights from before each iteration."""

    def before_train_iter(self, runner: ToolRunner, **_: object) -> None:
        state = runner.model.state_dict()
        self.runner = runner
        self.weights = {key: tensor.clone() for key, tensor in state.items()}


class StopNow(StopOnSignal):
    """Stop after an iteration as if a signal had come."""

    def __init__(self, iteration: int) -> None:
        super().__init__(StopRequest())
        self.iteration = iteration

    def before_train_iter(self, runner: ToolRunner, **_: object) -> None:
        is_due = runner.iter + 1 == self.iteration
        self.request.received = 'a test' if is_due else ''


def dumps(folder: Path) -> list[dict]:
    files = sorted((folder / 'nonfinite').glob('*.json'))
    return [json.loads(file.read_text()) for file in files]


@pytest.mark.parametrize(
    ('fault', 'told'),
    [('bad', 'the loss is nan'), ('steep', 'a gradient is not finite')],
)
def test_a_run_stops_before_its_weights_are_ruined(
    tmp_path: Path, fault: str, told: str
) -> None:
    keep = Keep()
    with pytest.raises(UserError, match=f'iteration \\d+: {told}') as caught:
        train(settings(tmp_path, 20, **{fault: (5,)}), keep)
    (dump,) = dumps(tmp_path)
    assert f'nonfinite/iter_{dump["iter"]}_rank0.json. Check' in str(caught.value)
    assert dump['fault'] == told
    assert {'img_path': '5.png'}.items() <= next(
        one for one in dump['pictures'] if one['img_path'] == '5.png'
    ).items()
    assert len(dump['pictures']) == 4
    assert (dump['losses']['loss'] == 'nan') == (fault == 'bad')
    assert dump['bad_gradients'] > 0
    weights = keep.runner.model.state_dict()
    for name, before in keep.weights.items():
        if 'running' not in name and 'tracked' not in name:
            assert torch.equal(weights[name], before), name


def test_skipping_goes_on_as_if_the_batch_had_not_been(tmp_path: Path) -> None:
    config = settings(tmp_path, 24, bad=(5,), steep=(7,))
    config.custom_hooks.append(dict(type='mmpoolformer.FiniteGuard', policy='skip'))
    runner = train(config)
    # 24 iterations see each of the 24 numbers 4 times, some in one batch.
    faults = [dump['fault'] for dump in dumps(tmp_path)]
    assert 2 <= len(faults) <= 8
    assert set(faults) == {'the loss is nan', 'a gradient is not finite'}
    for name, tensor in runner.model.state_dict().items():
        assert torch.isfinite(tensor).all(), name
    tracked = runner.model.state_dict()['net.1.num_batches_tracked']
    assert int(tracked) == 24 - len(faults)


def test_skipping_ends_when_nothing_else_is_left(tmp_path: Path) -> None:
    config = settings(tmp_path, 20, bad=tuple(range(24)))
    guard = dict(type='mmpoolformer.FiniteGuard', policy='skip', most_in_a_row=3)
    config.custom_hooks.append(guard)
    with pytest.raises(UserError, match='iteration 4: the loss is nan'):
        train(config)
    assert [dump['iter'] for dump in dumps(tmp_path)] == [1, 2, 3, 4]


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let mmengine's mixed precision, with its real loss scaler, run on a CPU."""
    scaler = partial(torch.amp.GradScaler, 'cpu')
    monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler', scaler)
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    monkeypatch.setattr('mmpoolformer.engine.runner.on_cpu', lambda: False)


def with_scaler(config: object, start: float) -> object:
    config.optim_wrapper.update(
        type='AmpOptimWrapper', loss_scale=dict(init_scale=start), dtype='bfloat16'
    )
    return config


@pytest.mark.usefixtures('scaled')
def test_an_overflow_of_the_scaled_gradients_is_no_fault(tmp_path: Path) -> None:
    keep = Keep()
    runner = train(with_scaler(settings(tmp_path, 8), 2.0**127), keep)
    assert runner.optim_wrapper.loss_scaler.get_scale() < 2.0**127
    assert not dumps(tmp_path)
    for tensor in runner.model.state_dict().values():
        assert torch.isfinite(tensor).all()


@pytest.mark.usefixtures('scaled')
def test_overflows_without_end_are_a_fault(tmp_path: Path) -> None:
    config = settings(tmp_path, 20, steep=tuple(range(24)))
    config.custom_hooks.append(dict(type='mmpoolformer.FiniteGuard', most_overflows=6))
    with pytest.raises(UserError, match='iteration 6: gradients overflow even at a'):
        train(with_scaler(config, 2.0**16))
    (dump,) = dumps(tmp_path)
    assert dump['loss_scale'] == 2.0**10


@pytest.mark.usefixtures('scaled')
def test_a_loss_that_is_no_number_is_a_fault_with_a_scaler_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='the loss is nan'):
        train(with_scaler(settings(tmp_path, 20, bad=(5,)), 1.0))
    assert len(dumps(tmp_path)) == 1


@pytest.mark.usefixtures('scaled')
def test_a_resumed_run_has_the_loss_scale_of_one_that_never_stopped(
    tmp_path: Path,
) -> None:
    """Stopped while the scale still comes down."""
    whole, stopped = tmp_path / 'whole', tmp_path / 'stopped'
    train(with_scaler(settings(whole, 12), 2.0**126))
    with pytest.raises(SystemExit):
        train(with_scaler(settings(stopped, 12), 2.0**126), StopNow(3))
    resumed = train(with_scaler(settings(stopped, 12), 2.0**16))
    one, other = (
        read_checkpoint(folder / 'iter_12.pth') for folder in (whole, stopped)
    )
    assert one['optimizer']['loss_scaler'] == other['optimizer']['loss_scaler']
    assert resumed.optim_wrapper.loss_scaler.get_scale() > 2.0**16
    logs = [(folder / 'train_log.jsonl').read_text() for folder in (whole, stopped)]
    assert logs[0] == logs[1]


def test_all_processes_stop_at_the_same_iteration(tmp_path: Path) -> None:
    """The bad number is in one process's half of the data alone."""
    assert in_two_processes(partial(_stops, tmp_path), tmp_path / 'meet') == [1, 1]
    found = dumps(tmp_path / 'run')
    assert [dump['rank'] for dump in found] == [0, 1]
    assert found[0]['iter'] == found[1]['iter']
    told = sorted(dump['fault'] for dump in found)
    assert told == ['a number of another process is not finite', 'the loss is nan']


def _stops(folder: Path, rank: int) -> int:
    try:
        train(settings(folder / 'run', 20, bad=(5,)))
    except UserError:
        return 1
    return 0


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(policy='hope'), "policy='hope': choose from stop, skip"),
        (dict(most_in_a_row=0), 'most_in_a_row=0: must be from 1'),
        (dict(most_overflows=-1), 'most_overflows=-1: must be from 1'),
    ],
)
def test_wrong_options_are_told(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FiniteGuard(**options)


def test_pictures_of_detection_are_told_with_their_scales() -> None:
    from mmengine.structures import BaseDataElement

    facts = dict(img_path='a.png', ori_shape=(5, 6), scale_factor=(2.0, 2.0), odd=1)
    sample = BaseDataElement(metainfo=facts)
    batch = {'inputs': [torch.zeros(3, 10, 12)], 'data_samples': [sample]}
    assert pictures(batch) == [{k: v for k, v in facts.items() if k != 'odd'}]
