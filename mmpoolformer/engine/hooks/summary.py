"""What a run tells its user: what runs, how good it gets, where everything lies."""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import Dataset, IterableDataset

from mmpoolformer.checkpoints.filling import unwrapped
from mmpoolformer.engine.hooks.checkpoint import SafeCheckpointHook
from mmpoolformer.engine.hooks.curves import PICTURE
from mmpoolformer.engine.hooks.logs import ValidationLog
from mmpoolformer.engine.optimizers import batch_factors, by_name
from mmpoolformer.utils.files import plain
from mmpoolformer.utils.progress import say
from mmpoolformer.utils.text import command_lines, first_few, wrapped

LABEL = 12  # columns
# The metrics that count where `save_best` names none, and metrics in percent.
MAIN = ('mIoU', 'mDice', 'mFscore')
PERCENT = re.compile(r'(mIoU|mDice|mFscore|aAcc|mAcc|accuracy/top\d+)$')


class RunSummary(Hook):
    """Print what will run, and each evaluation with its difference to the best.

    Args:
        config: The config file.
        validations: The evaluations of a training so far; None for a test.
    """

    # After the hooks that write checkpoints and logs.
    priority = 'LOWEST'

    def __init__(self, config: str, validations: ValidationLog | None = None) -> None:
        self.config, self.validations = config, validations

    def before_run(self, runner: Runner) -> None:
        """Print what will run, on one screen."""
        facts = {'config': self.config, 'model': model_facts(unwrapped(runner.model))}
        if self.validations is None:
            facts['checkpoint'] = runner._load_from
            facts |= data_facts({'test': runner.test_dataloader.dataset})
        else:
            facts |= training_facts(runner)
        facts |= {'device': device_facts(runner), 'work dir': runner.cfg.work_dir}
        for label, text in facts.items():
            _say(*wrapped(str(text), f'{label}:'.ljust(LABEL), ' ' * LABEL))

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Print the metric that counts, and which checkpoint is the best."""
        if metrics:
            _say(*wrapped(evaluation_line(runner, self.validations.entries)))

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Print all metrics."""
        entry = {'metrics': metrics or {}}
        for name, value in numbers(entry).items():
            _say(f'{name}: {Score(name, value, entry).text()}')


def _say(*lines: str) -> None:
    if is_main_process():
        say('\n'.join(lines))


# -- before -------------------------------------------------------------------------


def model_facts(model: nn.Module) -> str:
    """Return the kind of a model, and of its backbone, and numbers of parameters."""
    engine = getattr(getattr(model, 'backbone', None), 'engine', None)
    if engine is not None:
        return f'{type(model).__name__} in a file, run by {engine.runtime}'
    parts = [model, getattr(model, 'backbone', None)]
    names = ' with '.join(type(part).__name__ for part in parts if part is not None)
    sizes = {True: 0, False: 0}
    for parameter in model.parameters():
        sizes[parameter.requires_grad] += parameter.numel()
    text = f'{names}, {sum(sizes.values()) / 1e6:.2f} million parameters'
    return f'{text}, {sizes[False] / 1e6:.2f} frozen' if sizes[False] else text


def data_facts(datasets: Mapping[str, Dataset]) -> dict[str, str]:
    """Return the numbers of images by what they are for, and the classes."""
    counts = [
        f'{len(one) if hasattr(one, "__len__") else "a stream"} for {use}'
        for use, one in datasets.items()
    ]
    facts = {'images': ', '.join(counts)}
    meta = getattr(next(iter(datasets.values())), 'metainfo', None) or {}
    classes = meta.get('classes') or ()
    classes = [classes] if isinstance(classes, str) else classes
    if classes:
        facts['classes'] = f'{len(classes)} ({first_few(classes)})'
    return facts


def device_facts(runner: Runner) -> str:
    """Return what the run is on."""
    device = next(runner.model.parameters()).device
    name = f'CPU (threads: {torch.get_num_threads()})'
    if device.type != 'cpu':
        is_cuda = device.type == 'cuda'
        name = torch.cuda.get_device_name(device) if is_cuda else str(device)
    count = runner.world_size
    return f'{count} processes, each on {name}' if count > 1 else name


def training_facts(runner: Runner) -> dict[str, str]:
    """Return what is said of a training alone."""
    loop, datasets = runner.train_loop, {'training': runner.train_dataloader.dataset}
    length, unit = f'{loop.max_iters} iterations', 'iteration'
    if isinstance(loop, EpochBasedTrainLoop):
        unit = 'epoch'
        epochs = '1 epoch' if loop.max_epochs == 1 else f'{loop.max_epochs} epochs'
        length = f'{epochs} of {len(loop.dataloader)} iterations'
    if runner.val_loop is not None:
        datasets['evaluation'] = runner.val_dataloader.dataset
        every = f'{loop.val_interval} {unit}s' if loop.val_interval > 1 else unit
        length += f', evaluation every {every}'
    factors = batch_factors(runner)
    product = ' x '.join(f'{n} {name}' for name, n in factors.items() if n > 1)
    batch = str(math.prod(factors.values()))
    return {
        **data_facts(datasets),
        'batch size': f'{batch} = {product}' if ' x ' in product else batch,
        'optimizer': optimizer_facts(runner.optim_wrapper),
        'length': length,
    }


def optimizer_facts(wrapper: OptimWrapper) -> str:
    """Return the kinds of the optimizers, and the highest rate after a warm-up."""
    texts = []
    for one in by_name(wrapper).values():
        groups = one.optimizer.param_groups
        rate = max(group.get('initial_lr', group['lr']) for group in groups)
        texts.append(f'{type(one.optimizer).__name__}, learning rate {rate:g}')
    amp = ', mixed precision' if 'Amp' in type(wrapper).__name__ else ''
    return '; '.join(texts) + amp


# -- evaluations --------------------------------------------------------------------


class Score(NamedTuple):
    """A metric of an evaluation, which is an entry of `ValidationLog`."""

    name: str
    value: float
    entry: dict

    def text(self, than: 'Score | None' = None) -> str:
        """Return the value, or its difference to another's."""
        value, sign = (self.value - than.value, '+') if than else (self.value, '')
        if PERCENT.search(self.name):
            return f'{value:{sign}.2f} {"points" if than else "%"}'
        return f'{value:{sign}.4g}'


def numbers(entry: dict) -> dict[str, float]:
    """Return those metrics of an evaluation that are finite numbers."""
    found = plain(entry['metrics']).items()
    return {name: value for name, value in found if isinstance(value, int | float)}


def scores(runner: Runner, entries: Sequence[dict]) -> list[Score]:
    """Return the metric that counts of each evaluation that has it.

    It is the first of `save_best`, else of `MAIN`, else of all.
    """
    chosen = getattr(checkpoint_hook(runner), 'key_indicators', None) or ()
    there = numbers(entries[-1]) if entries else {}
    name = next((n for n in (*chosen[:1], *MAIN, *there) if n in there), None)
    found = [(numbers(entry).get(name), entry) for entry in entries]
    return [Score(name, value, entry) for value, entry in found if value is not None]


def best_of(runner: Runner, found: Sequence[Score]) -> Score | None:
    """Return the best score, the first of equal ones."""
    rules = getattr(checkpoint_hook(runner), 'rules', None) or ['greater']
    sign = -1 if rules[0] == 'less' else 1
    return max(found, key=lambda one: sign * one.value, default=None)


def evaluation_line(runner: Runner, entries: Sequence[dict]) -> str:
    """Return what is said of the last of some evaluations."""
    by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
    unit = 'epoch' if by_epoch else 'iter'
    place = f'{unit.capitalize()}(val) [{entries[-1][unit]}]'
    *earlier, last = scores(runner, entries) or [None]
    if last is None:
        return f'{place}  no metric is a number'
    before, best = best_of(runner, earlier), best_of(runner, [*earlier, last])
    change = f' ({last.text(before)})' if before else ''
    path = kept_checkpoint(runner, best.entry)
    kept = path.name if path else f'of {unit} {best.entry[unit]}, not kept'
    return f'{place}  {last.name}: {last.text()}{change}, best: {kept}'


def checkpoint_hook(runner: Runner) -> SafeCheckpointHook | None:
    """Return the hook that saves checkpoints."""
    found = (hook for hook in runner.hooks if isinstance(hook, SafeCheckpointHook))
    return next(found, None)


def kept_checkpoint(runner: Runner, entry: dict | None = None) -> Path | None:
    """Return the last checkpoint, or the best one, of an evaluation, if it is there."""
    hook = checkpoint_hook(runner)
    if hook is None:
        return None
    path = hook.last_ckpt
    if entry:
        name = hook.filename_tmpl.format(entry['epoch' if hook.by_epoch else 'iter'])
        path = getattr(hook, 'best_ckpt_path', None) or Path(hook.out_dir, name)
    return Path(path) if path and Path(path).is_file() else None


# -- after --------------------------------------------------------------------------


def ending(runner: Runner, entries: Sequence[dict]) -> list[str]:
    """Return where a training left everything, and commands that go on from there.

    The entries are those of `ValidationLog`.
    """
    work, name = Path(runner.cfg.work_dir), Path(runner.log_dir).name
    best = best_of(runner, scores(runner, entries))
    checkpoint, kind = best and kept_checkpoint(runner, best.entry), 'best'
    value = f' ({best.name}: {best.text()})' if best else ''
    if checkpoint is None:
        checkpoint, kind, value = kept_checkpoint(runner), 'last', ''
    if checkpoint and checkpoint.parent == work.resolve():
        checkpoint = work / checkpoint.name
    places = {
        f'{kind} checkpoint': checkpoint and f'{checkpoint}{value}',
        'log': work / name / f'{name}.log',
        'curves': work / PICTURE,
        'results': work / 'val_results.json' if entries else None,
    }
    lines = [f'{what}: {place}' for what, place in places.items() if place]
    return [*lines, *(next_commands(runner, checkpoint) if checkpoint else ())]


def next_commands(runner: Runner, checkpoint: Path) -> list[str]:
    """Return commands for a checkpoint, with the config that the work dir keeps."""
    work, loop = Path(runner.cfg.work_dir), runner.val_loop or runner.train_loop
    model = [work / Path(runner.cfg.filename).name, checkpoint]
    picture = example_picture(loop.dataloader.dataset)
    commands = [['infer', *model, picture, '--out', work / 'found']]
    if runner.cfg.get('test_dataloader'):
        # Not in the work dir, where it would write its own config over this one.
        commands.insert(0, ['test', *model, '--work-dir', work / 'test'])
    lines = [command_lines(['mmpoolformer', *one]) for one in commands]
    return ['next:', *chain.from_iterable(lines)]


def example_picture(dataset: Dataset) -> str:
    """Return the path of a picture of a data set; of one without paths a word."""
    item: object = None
    if hasattr(dataset, 'get_data_info'):
        item = dataset.get_data_info(0)
    elif not isinstance(dataset, IterableDataset):
        item = dataset[0]
    path = item.get('img_path') if isinstance(item, Mapping) else None
    return str(path or 'PICTURE')
