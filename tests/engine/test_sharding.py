"""Parameters shared out over two processes, against a whole model in each."""

import json
from functools import partial
from pathlib import Path

import pytest
from mmengine.config import Config
from shared_training import (
    HAS_FSDP,
    STEPS,
    StopAt,
    check_going_on,
    check_resuming,
    config_of,
    last,
    log,
    with_fsdp,
)
from tiny_training import train
from torch.testing import assert_close
from two_processes import in_two_processes

from mmpoolformer.engine.errors import UserError
from mmpoolformer.engine.runner import ToolRunner
from mmpoolformer.engine.sharding import is_shared_out, shards


def _train(
    folder: Path, strategy: str, options: dict, stop: int | None, rank: int
) -> int:
    try:
        runner = train(config_of(folder, strategy, **options), StopAt(stop))
    except SystemExit:
        return 0
    parameters = list(runner.model.parameters())
    if strategy == 'fsdp':
        assert all(map(is_shared_out, parameters))
        held = sum(p.to_local().numel() for p in parameters)
        assert held < 0.6 * sum(p.numel() for p in parameters)
    if rank == 0:
        norm = runner.message_hub.get_scalar('train/grad_norm').current()
        (folder / 'norm.json').write_text(json.dumps(norm))
    return 0


def train_both(
    folder: Path, strategy: str, stop: int | None = None, **options: object
) -> None:
    meet = folder.with_name(f'{folder.name}_{stop}_meet')
    work = partial(_train, folder, strategy, options, stop)
    assert in_two_processes(work, meet) == [0, 0]


@with_fsdp
@pytest.mark.parametrize(
    'options',
    [dict(), dict(frozen=2, accumulated=3), dict(bad=(3,), steep=(10,))],
)
def test_losses_and_checkpoints_are_those_of_whole_models(
    tmp_path: Path, options: dict
) -> None:
    whole, shared = tmp_path / 'whole', tmp_path / 'shared'
    train_both(whole, 'ddp', **options)
    train_both(shared, 'fsdp', **options)
    assert len(log(whole)) == STEPS
    for one, other in zip(log(shared), log(whole), strict=True):
        assert one == pytest.approx(other, rel=1e-3, nan_ok=True)
    norms = [json.loads((f / 'norm.json').read_text()) for f in (shared, whole)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3, nan_ok=True)
    ours, theirs = last(shared), last(whole)
    assert_close(ours['state_dict'], theirs['state_dict'], rtol=1e-2, atol=1e-3)
    assert ours['optimizer']['param_groups'] == theirs['optimizer']['param_groups']
    for number, known in theirs['optimizer']['state'].items():
        assert_close(ours['optimizer']['state'][number], known, rtol=1e-2, atol=1e-3)


@with_fsdp
def test_a_resumed_run_equals_one_that_never_stopped(tmp_path: Path) -> None:
    """Stopped while gradients wait for their step."""

    def train_sharded(folder: Path, stop: int | None) -> None:
        train_both(folder, 'fsdp', stop, accumulated=3)

    check_resuming(tmp_path, train_sharded, ('state_dict', 'optimizer'))


@with_fsdp
@pytest.mark.parametrize('order', [('ddp', 'fsdp'), ('fsdp', 'ddp')])
def test_each_way_goes_on_from_the_other(tmp_path: Path, order: tuple) -> None:
    check_going_on(tmp_path, train_both, order)


@pytest.mark.parametrize('strategy', [None, 'ddp', dict(type='DDPStrategy')])
def test_models_are_whole_unless_told_otherwise(strategy: object) -> None:
    assert not shards(Config(dict(strategy=strategy)))


@pytest.mark.parametrize(
    'strategy',
    ['zero', dict(type='ColossalAIStrategy'), dict(type='FSDPStrategy', x=1)],
)
def test_strategies_that_are_not_there_are_refused(
    tmp_path: Path, strategy: object
) -> None:
    with pytest.raises(UserError, match=r"these tools have 'ddp' and 'fsdp'"):
        train(config_of(tmp_path, strategy))


def _is_refused(folder: Path, change: dict, words: str, rank: int) -> int:
    config = config_of(folder, 'fsdp')
    config.merge_from_dict(change)
    with pytest.raises(UserError, match=words):
        ToolRunner.from_cfg(config).prepare_training()
    return 0


@with_fsdp
@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'custom_hooks': [dict(type='EMAHook')]}, 'fsdp: not with EMAHook'),
        ({'optim_wrapper.type': 'AmpOptimWrapper'}, 'fsdp: not with --amp'),
    ],
)
def test_what_does_not_go_with_it_is_refused(
    tmp_path: Path, change: dict, words: str
) -> None:
    work = partial(_is_refused, tmp_path / 'run', change, words)
    assert in_two_processes(work, tmp_path / 'meet') == [0, 0]


@with_fsdp
def test_one_process_alone_is_refused(tmp_path: Path) -> None:
    config = config_of(tmp_path, 'fsdp')
    config.launcher = 'none'
    with pytest.raises(UserError, match=r'start them by tools/dist_train\.sh'):
        train(config)


@pytest.mark.skipif(HAS_FSDP, reason='torch has FSDP')
def test_a_torch_without_it_is_told(tmp_path: Path) -> None:
    config = config_of(tmp_path, 'fsdp')
    config.launcher = 'none'
    with pytest.raises(UserError, match=r'fsdp: torch \S+ is too old'):
        train(config)
