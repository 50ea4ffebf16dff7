"""Checkpoints that a kill, a crash or a full disk can't take away.

mmengine's CheckpointHook deletes the old file before it writes the new one, and
writes it in place. Here a file gets its name once it is whole and on the disk, and
what it replaces goes after that.
"""

import errno
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path

from mmengine.dist import all_reduce_params, is_main_process, master_only
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor
from torch.nn import Parameter

from mmpoolformer.checkpoints.filling import unwrapped
from mmpoolformer.engine.fsdp import full_tensor, sharded_like
from mmpoolformer.engine.resuming import (
    BEST,
    INTERRUPTED,
    OUTDATED,
    POINTER,
    STEPS,
    check_files,
    is_best,
    mark_start,
    take_files,
)
from mmpoolformer.registry import HOOKS
from mmpoolformer.utils.errors import UserError, one_line
from mmpoolformer.utils.files import PART, atomic_file, write_atomically

BACKEND = 'mmpoolformer.whole'


@register_backend(BACKEND, force=True)
class WholeFiles(LocalBackend):
    """mmengine's files on local disks, whole or not there; removals can wait.

    Attributes:
        outdated: Names of files that `remove` was asked to remove.
    """

    def __init__(self) -> None:
        self.outdated: list[str] = []

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file under another name, and then give it its own."""
        with atomic_file(filepath) as file:
            file.write(obj)

    def remove(self, filepath: str | Path) -> None:
        """Note a file as outdated."""
        self.outdated.append(Path(filepath).name)

    def isdir(self, filepath: str | Path) -> bool:
        """Tell that nothing is a folder: mmengine would remove it with all in it."""
        return False


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, but nothing goes before its successor is whole.

    Options and file names are mmengine's. `tools/train.py` uses it wherever a config
    says `CheckpointHook`. Folders that are no local ones are written mmengine's way.
    A disk that is full ends the run, and keeps the checkpoint before. Where gradients
    are accumulated, those that wait for their step are saved too.

    What a resumed checkpoint says about other files counts if it lies beside them. Only
    files that have a name such as this hook gives are removed.
    """

    gradients: Mapping[str, Tensor] | None = None

    def __init__(self, *settings: object, **options: object) -> None:
        super().__init__(*settings, **options)
        # mmengine hands them on, and so complains when an epoch is to be saved.
        unknown = self.args.keys() - signature(Runner.save_checkpoint).parameters
        if unknown:
            raise TypeError(
                f'CheckpointHook got an unexpected keyword argument {min(unknown)!r}'
            )

    def before_train(self, runner: Runner) -> None:
        """Remove what killed runs have left half-written or outdated."""
        # Before mmengine's hook would remove whatever the checkpoint names.
        claims = take_files(runner.message_hub.runtime_info)
        check_files(claims, str(runner._load_from))
        super().before_train(runner)
        restore_gradients(runner, self.gradients or {})
        self.gradients = None
        self.local = isinstance(self.file_backend, LocalBackend)
        if self.local:
            self.file_backend = WholeFiles()
            self.backend_args = {'backend': BACKEND}
            remove_parts(runner.work_dir, self.out_dir)
        if runner.iter and self._lies_here(str(runner._load_from or '')):
            self._go_on(runner, claims)
        elif self.local and is_main_process():
            mark_start(runner.work_dir)

    def _lies_here(self, path: str) -> bool:
        """Tell whether a checkpoint lies where this run saves."""
        if not self.local:
            return path.rpartition('/')[0] == str(self.out_dir).rstrip('/')
        here = Path(self.out_dir).resolve()
        return bool(path) and Path(path).parent.resolve() == here

    def _go_on(self, runner: Runner, claims: dict) -> None:
        """Take over what a checkpoint of this folder says about the others in it."""
        for key in filter(is_best, claims):
            name = Path(claims[key] or '').name
            if self._gives(name):
                self._set_best(
                    runner, key, self.file_backend.join_path(self.out_dir, name)
                )
        steps = list(claims.get(STEPS, ()))
        if self.max_keep_ckpts > 0:
            self.keep_ckpt_ids.extend(steps)
            steps = steps[: -self.max_keep_ckpts]
            runner.message_hub.update_info(STEPS, list(self.keep_ckpt_ids))
        else:
            steps = []
        if self.local:
            self.last_ckpt = str(Path(self.out_dir) / Path(runner._load_from).name)
            beyond = [self.filename_tmpl.format(step) for step in steps]
            self._remove([*claims.get(OUTDATED, ()), *beyond])
            if claims.get(INTERRUPTED):
                self.file_backend.remove(claims[INTERRUPTED])

    def _set_best(self, runner: Runner, key: str, path: str) -> None:
        """Let a file be the best one so far, by mmengine's key for it."""
        metric = key.removeprefix(BEST).removeprefix('_')
        if not metric and hasattr(self, 'best_ckpt_path'):
            self.best_ckpt_path = path
        elif metric in getattr(self, 'best_ckpt_path_dict', {}):
            self.best_ckpt_path_dict[metric] = path
        else:
            return
        runner.message_hub.update_info(key, path)

    def _gives(self, name: str) -> bool:
        """Tell whether this hook could have given a file this name."""
        numbers = [int(number) for number in re.findall(r'\d{1,16}', name)]
        usual = {self.filename_tmpl.format(number) for number in numbers}
        usual |= {f'iter_{number}.pth' for number in numbers}
        is_of_best = name.startswith('best_') and name.endswith(
            tuple(f'_{one}' for one in usual)
        )
        return Path(name).name == name and (name in usual or is_of_best)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep gradients that wait for their step until the model is ready."""
        if runner._resume:
            self.gradients = checkpoint.get('gradients')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add gradients that wait for their step."""
        if self.gradients:
            checkpoint['gradients'] = self.gradients

    def save_now(self, runner: Runner, step: int) -> None:
        """Save after iteration `step` for a run that is about to stop.

        The file is called `iter_N.pth`, and goes with the next one that is saved.
        """
        name = f'iter_{step}.pth'
        if Path(self.last_ckpt or '').name != name:
            runner.message_hub.update_info(INTERRUPTED, name)
            self._save(runner, name, {'epoch': runner.epoch, 'iter': step})

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        """Save a checkpoint, and then remove those beyond `max_keep_ckpts`."""
        if self.local and self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                oldest = self.keep_ckpt_ids.popleft()
                self.file_backend.remove(self.filename_tmpl.format(oldest))
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info(STEPS, list(self.keep_ckpt_ids))
        if self.local:
            self._save(runner, self.filename_tmpl.format(step), meta)
        else:
            super()._save_checkpoint_with_step(runner, step, meta)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        """Save the best checkpoint, and then remove the one that was the best."""
        with report_unsaved(self.last_ckpt):
            super()._save_best_checkpoint(runner, metrics)
        if self.local:
            self._remove(self.file_backend.outdated)

    def _save(self, runner: Runner, name: str, meta: dict) -> None:
        """Write a checkpoint, then what names it, and remove what it replaces."""
        before = self.last_ckpt
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        outdated = [n for n in getattr(self.file_backend, 'outdated', ()) if n != name]
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        # Should this run be killed, whoever resumes from the file removes them.
        runner.message_hub.update_info(OUTDATED, outdated)
        self.gradients = waiting_gradients(runner)
        with report_unsaved(before):
            runner.save_checkpoint(
                self.out_dir,
                name,
                self.file_client_args,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=self.by_epoch,
                backend_args=self.backend_args,
                **self.args,
            )
            if is_main_process():
                write_atomically(Path(runner.work_dir) / POINTER, self.last_ckpt)
        self.gradients = None
        if self.local:
            self._remove(outdated)

    @master_only
    def _remove(self, names: Sequence[str]) -> None:
        """Remove outdated files of the folder; the last and the best ones stay."""
        best = [getattr(self, 'best_ckpt_path', None)]
        best += getattr(self, 'best_ckpt_path_dict', {}).values()
        kept = {Path(path).name for path in (self.last_ckpt, *best) if path}
        for name in filter(self._gives, set(names) - kept):
            path = Path(self.out_dir) / name
            if path.is_file() and not path.is_symlink():
                path.unlink()
        rest = set(self.file_backend.outdated) - set(names)
        self.file_backend.outdated = sorted(rest)


def waiting_gradients(runner: Runner) -> dict[str, Tensor]:
    """Return gradients that are accumulated for a step to come, by parameter.

    They are averaged over the processes, as the step would do it. All must ask.
    """
    wrapper = runner.optim_wrapper
    # Several optimizers accumulate nothing, see `check_accumulation`.
    if isinstance(wrapper, OptimWrapperDict) or wrapper.should_update():
        return {}
    gradients = {
        name: full_tensor(parameter.grad.detach().clone())
        for name, parameter in _parameters(runner)
        if parameter.grad is not None
    }
    all_reduce_params(list(gradients.values()), op='mean')
    return {name: gradient.cpu() for name, gradient in gradients.items()}


def restore_gradients(runner: Runner, gradients: Mapping[str, Tensor]) -> None:
    """Give parameters back the gradients that `waiting_gradients` has returned."""
    for name, parameter in _parameters(runner):
        if name in gradients:
            gradient = gradients[name].to(parameter.device)
            parameter.grad = sharded_like(gradient, parameter)


def _parameters(runner: Runner) -> Iterator[tuple[str, Parameter]]:
    return unwrapped(runner.model).named_parameters()


@contextmanager
def report_unsaved(before: str | None) -> Iterator[None]:
    """Turn a failure to write a checkpoint into one line that names the one before.

    Raises:
        UserError: In place of an `OSError`.
    """
    try:
        yield
    except OSError as error:
        kept = (
            f'the previous one ({before}) is intact'
            if before
            else 'there is no previous one'
        )
        raise UserError(
            f'checkpoint not saved: {error.strerror or one_line(error)}; {kept}. '
            'Free some space, then rerun (mmpoolformer train with --resume)'
        ) from error


@contextmanager
def report_full_disk() -> Iterator[None]:
    """Turn the failure to write a log, or what not, to a full disk into one line.

    Raises:
        UserError: In place of an `OSError` for want of room.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f'{one_line(error)}; the checkpoints saved before are intact. '
            'Free some space, then rerun with --resume'
        ) from error


@master_only
def remove_parts(*folders: str | Path) -> None:
    """Remove what a killed run has left half-written of checkpoints."""
    for folder in folders:
        for pattern in (f'*.pth{PART}', f'{POINTER}{PART}'):
            for part in Path(folder).glob(pattern):
                part.unlink()
