"""Whose settings hold in a resumed training: those of the checkpoint or the config.

A checkpoint holds the learning rate and the other numbers of the optimizer, and the
numbers of the schedules. They win unless the config's are asked for.
"""

import math
from collections.abc import Iterator, Mapping
from numbers import Real

from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmpoolformer.engine.loops import DONE
from mmpoolformer.utils.logs import warn

# What changes as a training goes on, follows from the learning rate, or only says how
# steps are computed.
MOVING_GROUP = {
    *('params', 'momentum', 'initial_momentum'),
    *('fused', 'foreach', 'capturable', 'differentiable'),
}
MOVING_SCHEDULE = {
    *('last_step', '_global_step', '_last_value', 'base_values', 'verbose'),
    *('best', 'num_bad_epochs', 'cooldown_counter', '_step_count', 'optimizer'),
}
MOST_LINES = 12
OPTION = '--resume-settings config'


def report_differences(runner: Runner, checkpoint: Mapping, filename: str) -> None:
    """Warn line by line of settings of the checkpoint that win over the config's.

    The runner's optimizer and schedules are still as the config has them.
    """
    found = [*_optimizer_differences(runner.optim_wrapper, checkpoint['optimizer'])]
    saved = checkpoint.get('param_schedulers')
    if saved is not None:
        found += _schedule_differences(runner.param_schedulers, saved)
    lines = list(dict.fromkeys(found))
    for line in lines[:MOST_LINES]:
        warn(f'--resume keeps {line}')
    if lines:
        more = len(lines) - MOST_LINES
        others = f'{more} more settings of {filename}; ' if more > 0 else ''
        warn(f'{others}{OPTION} takes what the config says instead')


def report_length(runner: Runner, filename: str) -> None:
    """Warn of a checkpoint from the end that the config sets, or from beyond it."""
    loop = runner.train_loop
    if isinstance(loop, EpochBasedTrainLoop):
        setting, done, end = 'max_epochs', runner.epoch, loop.max_epochs
    else:
        setting, done, end = 'max_iters', runner.iter, loop.max_iters
    if done >= end:
        warn(
            f'{filename} was saved after {done} of train_cfg.{setting}={end}: there is '
            f'nothing left to train; raise {setting} to go on'
        )


def take_own_settings(wrapper: OptimWrapper | OptimWrapperDict, saved: dict) -> dict:
    """Return an optimizer's saved state with the numbers that it has by the config."""
    if isinstance(wrapper, OptimWrapperDict):
        return {
            name: take_own_settings(one, saved[name]) for name, one in wrapper.items()
        }
    groups = [
        {**mine, 'params': group['params']}
        for group, mine in zip(
            saved['param_groups'], wrapper.optimizer.param_groups, strict=True
        )
    ]
    state = {**saved, 'param_groups': groups}
    base = wrapper.state_dict().get('base_param_settings')
    if base is not None and 'base_param_settings' in saved:
        params = saved['base_param_settings']['params']
        state['base_param_settings'] = {**base, 'params': params}
    return state


def replay_schedules(runner: Runner) -> None:
    """Bring schedules that start anew to where a resumed training is.

    They are stepped as often as a training by the config would have been there, by
    iterations and by epochs; those that follow a metric can't be, and start anew.
    """
    schedules = runner.param_schedulers or []
    rows = schedules.values() if isinstance(schedules, dict) else [schedules]
    blind = [
        one for row in rows for one in row if not getattr(one, 'need_val_args', False)
    ]
    steps, ends = runner.iter, set()
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        # Epochs of another length than they had: the place in the run is theirs.
        length = len(runner.train_dataloader)
        steps = runner.epoch * length + runner.message_hub.runtime_info.get(DONE, 0)
        ends = {(number + 1) * length for number in range(runner.epoch)}
    for step in range(1, steps + 1):
        for one in blind:
            if not one.by_epoch:
                one.step()
        if step in ends:
            for one in blind:
                if one.by_epoch:
                    one.step()


def _optimizer_differences(
    wrapper: OptimWrapper | OptimWrapperDict, saved: Mapping
) -> Iterator[str]:
    if isinstance(wrapper, OptimWrapperDict):
        for name, one in wrapper.items():
            for line in _optimizer_differences(one, saved[name]):
                yield f'{name}: {line}'
        return
    groups = zip(saved['param_groups'], wrapper.optimizer.param_groups, strict=True)
    for number, (theirs, mine) in enumerate(groups):
        for key in mine:
            name = 'lr' if key == 'initial_lr' else key
            # Schedules keep the rate that they start from in initial_lr.
            is_moved = key == 'lr' and 'initial_lr' in mine.keys() & theirs.keys()
            if key in theirs and key not in MOVING_GROUP and not is_moved:
                place = f'optim_wrapper.optimizer.{name}'
                if len(wrapper.optimizer.param_groups) > 1:
                    place += f' of parameter group {number}'
                yield from _difference(place, theirs[key], mine[key])


def _schedule_differences(own: list | dict, saved: list | dict) -> Iterator[str]:
    if isinstance(own, dict):
        rows = [(f'param_scheduler.{name}', own[name], saved[name]) for name in own]
    else:
        rows = [('param_scheduler', own or [], saved)]
    for where, schedules, states in rows:
        for number, (mine, theirs) in enumerate(zip(schedules, states, strict=True)):
            known = mine.state_dict()
            for key in known.keys() & theirs.keys() - MOVING_SCHEDULE:
                place = f'{where}.{number}.{key}'
                yield from _difference(place, theirs[key], known[key])


def _difference(place: str, theirs: object, mine: object) -> Iterator[str]:
    if not _same(theirs, mine):
        yield (
            f"{place}={_shown(theirs)} of the checkpoint, not the config's "
            f'{_shown(mine)}'
        )


def _same(theirs: object, mine: object) -> bool:
    if callable(mine):
        return True
    if isinstance(mine, list | tuple):
        return len(theirs) == len(mine) and all(map(_same, theirs, mine))
    if isinstance(mine, Real) and isinstance(theirs, Real):
        return math.isclose(theirs, mine, rel_tol=1e-9)
    return bool(theirs == mine)


def _shown(value: object) -> str:
    if isinstance(value, Mapping):  # milestones, with how often each counts
        return str(sorted(value))
    return f'{value:g}' if isinstance(value, float) else repr(value)
