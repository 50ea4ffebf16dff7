"""Whether what a checkpoint holds fits the training that resumes from it.

Types and shapes are compared before anything is loaded or copied: a tensor of a few
bytes can stand for terabytes, and a wrong type would end the run at some later step.
"""

import math
from collections.abc import Mapping
from numbers import Real

import numpy as np
from mmengine.hooks import EMAHook
from mmengine.logging import HistoryBuffer
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

from mmpoolformer.checkpoints.filling import unwrapped
from mmpoolformer.engine.loops import DONE
from mmpoolformer.engine.optimizers import by_name
from mmpoolformer.engine.resuming import check_files, is_count, is_name, kind, refused
from mmpoolformer.utils.text import first_few

SEEDS = 2**32
# What optimizers keep for each weight, by the names of torch's.
WHOLE = {
    *('exp_avg', 'exp_avg_sq', 'max_exp_avg_sq', 'exp_inf', 'momentum_buffer'),
    *('square_avg', 'grad_avg', 'acc_delta', 'sum', 'ax', 'prev', 'step_size'),
}
# What to do where the config has another optimizer or schedule than the checkpoint.
CURES = {
    'optimizer': '; if optim_wrapper (its type, its parameter groups by paramwise_cfg) '
    'was changed, change it back, or start from the weights alone by --cfg-options '
    'load_from={filename} without --resume',
    'param_schedulers': '; if param_scheduler was changed, --resume-settings config '
    'takes the schedules and the learning rate of the config',
}
ADAM = {'step', 'exp_avg', 'exp_avg_sq'}  # without them it can't step


def check_resumed(
    runner: Runner, checkpoint: dict, filename: str, with_schedules: bool = True
) -> None:
    """Check all parts that a training takes over, before it does.

    Raises:
        UserError: Naming the file and the part, for those that a config decides with
            what to do.
    """
    try:
        _check_meta(checkpoint['meta'])
        _check_hub(checkpoint['message_hub'], filename)
        _check_optimizers(runner.optim_wrapper, checkpoint['optimizer'])
        if with_schedules and 'param_schedulers' in checkpoint:
            _check_schedules(runner.param_schedulers, checkpoint['param_schedulers'])
        _check_averages(runner, checkpoint)
        parameters = dict(unwrapped(runner.model).named_parameters())
        gradients = checkpoint.get('gradients')
        if gradients is not None:
            _check_tensors(gradients, parameters, 'gradients')
    except _Wrong as wrong:
        part, problem = wrong.args
        cure = CURES.get(part.split('.')[0], '').format(filename=filename)
        raise refused(filename, part, problem + cure) from None


class _Wrong(Exception):
    """A part of a checkpoint, and what is wrong with it."""


def _need(is_right: bool, part: str, problem: str) -> None:
    if not is_right:
        raise _Wrong(part, problem)


def _need_kind(value: object, wanted: type | tuple, part: str) -> None:
    kinds = wanted if isinstance(wanted, tuple) else (wanted,)
    names = ' or '.join(one.__name__ for one in kinds)
    _need(isinstance(value, wanted), part, f'a {kind(value)}, not a {names}')


def is_number(value: object) -> bool:
    """Tell whether something is a finite real number."""
    is_real = isinstance(value, Real) and not isinstance(value, bool)
    return is_real and math.isfinite(value)


def _check_meta(meta: object) -> None:
    _need_kind(meta, dict, 'meta')
    for key in ('epoch', 'iter'):
        _need(is_count(meta.get(key)), f'meta.{key}', 'not a whole number')
    seed = meta.get('seed')
    is_seed = seed is None or (is_count(seed) and seed < SEEDS)
    _need(is_seed, 'meta.seed', 'not a number from 0 to 2**32 - 1')


def _check_hub(hub: object, filename: str) -> None:
    _need_kind(hub, dict, 'message_hub')
    for part in ('log_scalars', 'runtime_info', 'resumed_keys'):
        where = f'message_hub.{part}'
        _need_kind(hub.get(part), dict, where)
        _need(all(map(is_name, hub[part])), where, 'its keys are not names')
    for key, history in hub['log_scalars'].items():
        _check_history(history, f'message_hub.log_scalars.{key}')
    for key, value in hub['resumed_keys'].items():
        _need_kind(value, bool, f'message_hub.resumed_keys.{key}')
    facts = hub['runtime_info']
    check_files(facts, filename)
    _need(
        is_count(facts.get(DONE, 0)), f'message_hub.{DONE}', 'not a number of batches'
    )
    for key, value in facts.items():
        if key == 'best_score' or key.startswith('best_score_'):
            single = isinstance(value, Tensor) and value.numel() == 1
            score = value.item() if single else value
            is_score = isinstance(score, Real) and not isinstance(score, bool)
            _need(is_score, f'message_hub.{key}', 'not a number')


def _check_history(history: object, part: str) -> None:
    _need_kind(history, HistoryBuffer, part)
    values = history._log_history, history._count_history
    for one in values:
        is_row = (
            isinstance(one, np.ndarray) and one.ndim == 1 and one.dtype.kind in 'iuf'
        )
        _need(is_row, part, 'not a row of numbers')
    _need(len(values[0]) == len(values[1]), part, 'not as many counts as values')
    length = history.max_length
    _need(is_count(length) and length > 0, part, 'its max_length is not a number')


def _check_optimizers(wrapper: OptimWrapper | OptimWrapperDict, saved: object) -> None:
    _need_kind(saved, dict, 'optimizer')
    own = by_name(wrapper)
    if '' in own:
        _check_optimizer(wrapper, saved, 'optimizer')
        return
    _need(saved.keys() == own.keys(), 'optimizer', f'not those called {", ".join(own)}')
    for name, one in own.items():
        _need_kind(saved[name], dict, f'optimizer.{name}')
        _check_optimizer(one, saved[name], f'optimizer.{name}')


def _check_optimizer(wrapper: OptimWrapper, saved: dict, part: str) -> None:
    groups, where = saved.get('param_groups'), f'{part}.param_groups'
    own = wrapper.optimizer.param_groups
    _need_kind(groups, list, where)
    _need(len(groups) == len(own), where, f'{len(groups)}, not {len(own)}')
    members = {}
    for number, (group, mine) in enumerate(zip(groups, own, strict=True)):
        place = f'{where}.{number}'
        _check_group(group, mine, place)
        for name, parameter in zip(group['params'], mine['params'], strict=True):
            _need(name not in members, place, 'a parameter stands there twice')
            members[name] = parameter
    base = saved.get('base_param_settings')
    if base is not None:
        _need_kind(base, dict, f'{part}.base_param_settings')
    scaler = getattr(wrapper, 'loss_scaler', None)
    if 'loss_scaler' in saved and scaler is not None:
        _check_like(saved['loss_scaler'], scaler.state_dict(), f'{part}.loss_scaler')
    state, where = saved.get('state'), f'{part}.state'
    _need_kind(state, dict, where)
    for name, known in state.items():
        _need(name in members, f'{where}.{name}', 'there is no such parameter')
        _check_known(known, members[name], wrapper.optimizer, f'{where}.{name}')


def _check_group(group: object, own: dict, part: str) -> None:
    _need_kind(group, dict, part)
    params = group.get('params')
    _need_kind(params, list, f'{part}.params')
    _need(all(map(is_count, params)), f'{part}.params', 'not a list of numbers')
    count = len(own['params'])
    _need(len(params) == count, f'{part}.params', f'{len(params)}, not {count}')
    for key, value in own.items():
        # Flags come with newer versions of torch, which has values for them.
        is_spare = value is None or isinstance(value, bool) or key == 'initial_lr'
        if key != 'params' and not (is_spare and key not in group):
            _need(key in group, f'{part}.{key}', 'is missing')
            _check_like(group[key], value, f'{part}.{key}')
    for beta in group.get('betas', ()):
        _need(0 <= beta < 1, f'{part}.betas', f'{beta} is not between 0 and 1')


def _check_known(
    known: object, parameter: Tensor, optimizer: Optimizer, part: str
) -> None:
    """Check what an optimizer knows of one parameter."""
    _need_kind(known, dict, part)
    if isinstance(optimizer, Adam | AdamW) and known:
        missing = ADAM - known.keys()
        _need(not missing, part, f'has no {", ".join(sorted(missing))}')
    shape = tuple(parameter.shape)
    for key, value in known.items():
        where = f'{part}.{key}'
        if key == 'step':
            single = isinstance(value, Tensor) and value.numel() == 1
            step = value.item() if single else value
            _need(is_number(step) and step >= 0, where, 'not a number of steps')
        elif key in WHOLE and (
            value is not None or isinstance(optimizer, Adam | AdamW)
        ):
            _need_kind(value, Tensor, where)
            found = tuple(value.shape)
            _need(found == shape, where, f'of shape {found}, not {shape}')
            _need(not value.is_complex(), where, 'of complex numbers')
        elif isinstance(value, Tensor):
            is_small = value.numel() <= max(1, parameter.numel())
            _need(is_small, where, f'of shape {tuple(value.shape)}, not {shape}')


def _check_like(saved: object, own: object, part: str) -> None:
    """Check that a setting is of the kind of the run's own one."""
    if callable(own):
        _need(callable(saved), part, f'a {kind(saved)}, not a function')
    elif isinstance(own, bool | str):
        _need_kind(saved, type(own), part)
    elif isinstance(own, Real):
        _need(is_number(saved), part, f'a {kind(saved)}, not a finite number')
    elif own is None:
        is_plain = saved is None or isinstance(saved, bool | str) or is_number(saved)
        _need(is_plain, part, f'a {kind(saved)}, not a setting')
    elif isinstance(own, Mapping):
        _check_mapping(saved, own, part)
    elif isinstance(own, list | tuple):
        _need_kind(saved, (list, tuple), part)
        _need(len(saved) == len(own), part, f'{len(saved)} entries, not {len(own)}')
        for number, (one, mine) in enumerate(zip(saved, own, strict=True)):
            _check_like(one, mine, f'{part}.{number}')
    elif isinstance(own, Tensor):
        fits = isinstance(saved, Tensor) and saved.shape == own.shape
        _need(fits or is_number(saved), part, 'of another shape')


def _check_mapping(saved: object, own: Mapping, part: str) -> None:
    """Check a dict by its own keys; one of numbers, as milestones, by kind."""
    _need_kind(saved, dict, part)
    if all(isinstance(key, int) for key in own):
        is_plain = all(map(is_count, saved)) and all(map(is_count, saved.values()))
        _need(is_plain, part, 'not a table of whole numbers')
        return
    for key, value in saved.items():
        _need(key in own, f'{part}.{key}', 'unknown')
        _check_like(value, own[key], f'{part}.{key}')


def _check_schedules(own: object, saved: object) -> None:
    part = 'param_schedulers'
    if isinstance(own, dict):
        _need_kind(saved, dict, part)
        _need(saved.keys() == own.keys(), part, f'not those called {", ".join(own)}')
        rows = [(f'{part}.{name}', own[name], saved[name]) for name in own]
    else:
        rows = [(part, own or [], saved)]
    for where, schedules, states in rows:
        _need_kind(states, list, where)
        _need(
            len(states) == len(schedules),
            where,
            f'{len(states)} schedules, not {len(schedules)}',
        )
        for number, (schedule, state) in enumerate(zip(schedules, states, strict=True)):
            _check_mapping(state, schedule.state_dict(), f'{where}.{number}')


def _check_averages(runner: Runner, checkpoint: dict) -> None:
    averaged = checkpoint.get('ema_state_dict')
    hooks = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
    if averaged is None or not hooks:
        return
    own = hooks[0].ema_model.state_dict()
    _check_tensors(averaged, own, 'ema_state_dict')
    missing = own.keys() - averaged.keys()
    _need(not missing, 'ema_state_dict', f'has no {first_few(sorted(missing))}')
    weights = checkpoint.get('state_dict')
    _need_kind(weights, dict, 'state_dict')
    # They change places with the weights.
    inner = {k.removeprefix('module.'): v for k, v in own.items() if '.' in k}
    missing = inner.keys() - weights.keys()
    _need(not missing, 'state_dict', f'has no {first_few(sorted(missing))}')
    _check_tensors({name: weights[name] for name in inner}, inner, 'state_dict')


def _check_tensors(saved: object, own: Mapping[str, Tensor], part: str) -> None:
    """Check that tensors are those of a model, by name and shape."""
    _need_kind(saved, dict, part)
    for name, tensor in saved.items():
        where = f'{part}.{name}'
        _need(name in own, where, 'the model has no such tensor')
        _need_kind(tensor, Tensor, where)
        found, shape = tuple(tensor.shape), tuple(own[name].shape)
        _need(found == shape, where, f'of shape {found}, not {shape}')
        _need(not tensor.is_complex(), where, 'of complex numbers')
