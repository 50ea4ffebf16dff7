"""Optimizers shared out by DeepSpeed, against a whole one in each process."""

import json
import os
from functools import partial
from pathlib import Path

import pytest
import torch
from shared_training import (
    HAS_DEEPSPEED,
    STEPS,
    StopAt,
    check_going_on,
    check_resuming,
    config_of,
    last,
    log,
    with_deepspeed,
)
from tiny_training import train
from torch.testing import assert_close
from two_processes import in_two_processes

from mmpoolformer.engine.errors import UserError
from mmpoolformer.engine.zero import zero_settings

EMA = dict(type='EMAHook', momentum=0.1)
# A group for each parameter.
GROUPS = {
    'optim_wrapper.paramwise_cfg': dict(norm_decay_mult=0.0),
    'optim_wrapper.optimizer.weight_decay': 0.05,
}


def zero(stage: int) -> dict:
    """Return a strategy with buckets that hold but some of the gradients."""
    settings = dict(stage=stage, reduce_bucket_size=2000, allgather_bucket_size=2000)
    return dict(type='DeepSpeedStrategy', zero_optimization=settings)


def config(folder: Path, strategy: object, change: dict, **options: object) -> object:
    config = config_of(folder, strategy, **options)
    config.custom_hooks.append(EMA)
    config.merge_from_dict(change)
    return config


def _train(
    folder: Path,
    strategy: object,
    stop: int | None,
    change: dict,
    options: dict,
    rank: int,
) -> int:
    os.environ['LOCAL_RANK'] = str(rank)  # as launchers do
    try:
        runner = train(config(folder, strategy, change, **options), StopAt(stop))
    except SystemExit:
        return 0
    if strategy != 'ddp':
        wrapper = runner.optim_wrapper
        held = sum(
            value.numel()
            for known in wrapper.optimizer.state.values()
            for value in known.values()
            if torch.is_tensor(value)
        )
        whole = sum(p.numel() for p in runner.model.parameters() if p.requires_grad)
        assert held < 2 * 0.6 * whole
    if rank == 0:
        norm = runner.message_hub.get_scalar('train/grad_norm').current()
        (folder / 'norm.json').write_text(json.dumps(norm))
    return 0


def train_both(
    folder: Path,
    strategy: object,
    stop: int | None = None,
    change: dict | None = None,
    **options: object,
) -> None:
    meet = folder.with_name(f'{folder.name}_{stop}_meet')
    work = partial(_train, folder, strategy, stop, change or {}, options)
    assert in_two_processes(work, meet) == [0, 0]


@with_deepspeed
@pytest.mark.parametrize(
    ('stage', 'change', 'options'),
    [
        (1, {}, dict()),
        (2, {}, dict(frozen=2)),
        (2, GROUPS, dict(frozen=1)),
        (2, {}, dict(bad=(3,), steep=(10,))),
        (
            1,
            {
                'optim_wrapper.optimizer': dict(
                    _delete_=True, type='SGD', lr=0.01, momentum=0.9
                )
            },
            dict(),
        ),
    ],
)
def test_losses_and_checkpoints_are_those_of_whole_optimizers(
    tmp_path: Path, stage: int, change: dict, options: dict
) -> None:
    whole, shared = tmp_path / 'whole', tmp_path / 'shared'
    train_both(whole, 'ddp', change=change, **options)
    train_both(shared, zero(stage), change=change, **options)
    assert len(log(whole)) == STEPS
    for one, other in zip(log(shared), log(whole), strict=True):
        assert one == pytest.approx(other, rel=1e-3, nan_ok=True)
    if 'bad' not in options:
        norms = [json.loads((f / 'norm.json').read_text()) for f in (shared, whole)]
        assert norms[0] == pytest.approx(norms[1], rel=1e-3)
    ours, theirs = last(shared), last(whole)
    for part in ('state_dict', 'ema_state_dict'):
        assert_close(ours[part], theirs[part], rtol=1e-2, atol=1e-3)
    ours, theirs = ours['optimizer'], theirs['optimizer']
    assert ours['param_groups'] == theirs['param_groups']
    assert ours['state'].keys() == theirs['state'].keys()
    for number, known in theirs['state'].items():
        assert_close(ours['state'][number], known, rtol=1e-2, atol=1e-3)


@with_deepspeed
def test_a_resumed_run_equals_one_that_never_stopped(tmp_path: Path) -> None:
    def train_sharded(folder: Path, stop: int | None) -> None:
        train_both(folder, zero(2), stop)

    parts = ('state_dict', 'ema_state_dict', 'optimizer')
    check_resuming(tmp_path, train_sharded, parts)


@with_deepspeed
@pytest.mark.parametrize('order', [('ddp', 'deepspeed'), ('deepspeed', 'ddp')])
def test_each_way_goes_on_from_the_other(tmp_path: Path, order: tuple) -> None:
    check_going_on(tmp_path, train_both, order)


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(fp16=dict(enabled=True)), r"'fp16'.*of DeepSpeed there is zero_opt"),
        (dict(zero_optimization=dict(offload_param={})), "'offload_param'.*stage"),
        (dict(zero_optimization=dict(stage=3)), r'stage=3: there are 1 and 2'),
    ],
)
def test_options_that_are_not_there_are_refused(
    tmp_path: Path, options: dict, words: str
) -> None:
    config = config_of(tmp_path / 'run', dict(type='DeepSpeedStrategy', **options))
    with pytest.raises(UserError, match=words):
        train(config)
    assert not (tmp_path / 'run').exists()


def test_stage_2_is_what_is_taken() -> None:
    assert zero_settings({})['stage'] == 2
    assert zero_settings(dict(zero_optimization=dict(stage=1)))['stage'] == 1


@pytest.mark.skipif(HAS_DEEPSPEED, reason='it is installed')
def test_where_it_is_missing_the_cure_is_told(tmp_path: Path) -> None:
    config = config_of(tmp_path, 'deepspeed')
    config.launcher = 'none'
    with pytest.raises(UserError, match='is not installed; pip install deepspeed'):
        train(config)


@with_deepspeed
def test_one_process_alone_is_refused(tmp_path: Path) -> None:
    config = config_of(tmp_path, 'deepspeed')
    config.launcher = 'none'
    with pytest.raises(UserError, match=r'processes by tools/dist_train\.sh'):
        train(config)


REFUSED = [
    ({'optim_wrapper.type': 'AmpOptimWrapper'}, 'deepspeed: not with --amp'),
    ({'optim_wrapper.accumulative_counts': 2}, 'not with accumulative_counts'),
    ({'optim_wrapper.clip_grad.norm_type': 1}, 'clip_grad is by max_norm alone'),
    ({'optim_wrapper.optimizer.type': 'Adamax'}, 'not with Adamax, .* Adam, AdamW'),
]


def _are_refused(folder: Path, rank: int) -> int:
    for number, (change, words) in enumerate(REFUSED):
        config = config_of(folder / str(number), 'deepspeed')
        config.merge_from_dict(change)
        with pytest.raises(UserError, match=words):
            train(config)
    return 0


@with_deepspeed
def test_what_does_not_go_with_it_is_refused(tmp_path: Path) -> None:
    work = partial(_are_refused, tmp_path)
    assert in_two_processes(work, tmp_path / 'meet') == [0, 0]
