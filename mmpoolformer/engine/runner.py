"""mmengine's Runner with what the tools need more: safeguards, and training on CPUs."""

from collections.abc import Callable, Sequence
from functools import partial
from logging import INFO, WARNING
from math import prod
from pathlib import Path
from pickle import UnpicklingError

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.evaluator import Evaluator
from mmengine.hooks import CheckpointHook, Hook
from mmengine.model import (
    BaseTTAModel,
    convert_sync_batchnorm,
    is_model_wrapper,
    revert_sync_batchnorm,
)
from mmengine.optim import OptimWrapper
from mmengine.registry import MODEL_WRAPPERS
from mmengine.runner import BaseLoop, CheckpointLoader, Runner
from torch import nn
from torch.utils.data import DataLoader

from mmpoolformer.checkpoints.filling import (
    fill_model,
    fill_partly,
    model_weights,
    unwrapped,
)
from mmpoolformer.classification.class_labels import (
    check_class_order,
    recorded_classes,
)
from mmpoolformer.data.checks.built import (
    check_classes,
    check_dataset,
    check_pairs,
    check_steps,
    explain_empty,
)
from mmpoolformer.engine.config import task_scope
from mmpoolformer.engine.distributed import on_cpu
from mmpoolformer.engine.evaluation import check_categories, count_run_pictures
from mmpoolformer.engine.fitting import check_averages, check_fit, check_losses
from mmpoolformer.engine.fsdp import (
    ShardedState,
    check_sharding,
    shard_loaded_steps,
    shard_model,
    shards,
    strategy_of,
)
from mmpoolformer.engine.hooks.checkpoint import SafeCheckpointHook
from mmpoolformer.engine.hooks.finite import FiniteGuard
from mmpoolformer.engine.hooks.norms import AverageStatistics
from mmpoolformer.engine.loops import (
    EpochLoop,
    end_readers,
    placed_loader,
    resumable_loop,
    seed_items,
)
from mmpoolformer.engine.mixed_precision import (
    CpuAmpOptimWrapper,
    prepare_for_bfloat16,
    wants_amp,
)
from mmpoolformer.engine.optimizers import (
    batch_factors,
    check_accumulation,
    keep_layouts,
    with_fused_adam,
)
from mmpoolformer.engine.pixel_losses import lay_out_losses
from mmpoolformer.engine.resumed_settings import (
    replay_schedules,
    report_differences,
    report_length,
    take_own_settings,
)
from mmpoolformer.engine.resumed_state import check_resumed
from mmpoolformer.engine.resuming import read_first
from mmpoolformer.engine.seeding import SeedSteps
from mmpoolformer.models.label_maps import predict_labels_only
from mmpoolformer.utils.errors import SETTING_ERRORS, UserError, as_user_error
from mmpoolformer.utils.memory import keep_freed_memory
from mmpoolformer.utils.temporary import interrupts_held

CHECKPOINT_ERRORS = (
    *SETTING_ERRORS,
    AttributeError,
    EOFError,
    RuntimeError,
    UnpicklingError,
)
# What configs call mmengine's hook.
CHECKPOINT_HOOKS = ('CheckpointHook', 'mmengine.CheckpointHook', CheckpointHook)
# Packages whose metrics of segmentors look at label maps alone.
WITHOUT_LOGITS = ('mmseg', 'mmpoolformer')
RESUME_PARTS = ('meta', 'message_hub', 'optimizer')


class ToolRunner(Runner):
    """mmengine's Runner as tools/train.py and tools/test.py use it.

    It builds all parts before the first step, refuses data sets without files and
    checkpoints that do not fill the model, and runs distributed jobs and mixed
    precision on machines without a GPU.

    Attributes:
        needs_all_weights: Whether a checkpoint must hold every tensor of the model.
        older: Checkpoints to go on from where the one to resume can't be read.
        own_settings: Whether the config's learning rate, other settings of the
            optimizer and schedules hold in a resumed run, not the checkpoint's.
        sharded: What gathers for checkpoints what was sharded, if anything was.
        norms: What gives several processes the same running statistics.
    """

    needs_all_weights = False
    older: Sequence[Path] = ()
    sharded: ShardedState | None = None
    norms: AverageStatistics | None = None
    own_settings = False

    @classmethod
    def from_cfg(cls, cfg: Config) -> 'ToolRunner':
        """Build the runner and its model.

        Raises:
            UserError: If an option is unknown, or out of its range, or if the config
                asks for another kind of runner.
        """
        kind = cfg.get('runner_type', 'Runner')
        if kind != 'Runner':
            raise UserError(f"runner_type={kind}: these tools run mmengine's Runner")
        strategy_of(cfg)  # a wrong one is told before any work
        with as_user_error(str(cfg.filename or 'config')):
            return super().from_cfg(cfg)

    def register_hook(
        self, hook: Hook | dict, priority: str | int | None = None
    ) -> None:
        """Register a hook; mmengine's CheckpointHook becomes the safe one.

        Default and custom hooks of a config all come here.
        """
        if isinstance(hook, dict) and hook.get('type') in CHECKPOINT_HOOKS:
            hook = {**hook, 'type': SafeCheckpointHook}
        super().register_hook(hook, priority)

    def prepare_training(self) -> None:
        """Build data loaders, loops, evaluator and optimizer ahead of `train()`.

        Raises:
            UserError: If a setting of theirs is wrong or files are missing.
        """
        with as_user_error(str(self.cfg.filename or 'config')):
            self._train_loop = self.build_train_loop(self._train_loop)
            check_classes(unwrapped(self.model), self.train_dataloader.dataset)
            check_steps(self.train_dataloader)
            check_pairs(unwrapped(self.model), self.train_dataloader)
            check_losses(self.cfg.model)
            check_fit(unwrapped(self.model), self.cfg.model)
            check_averages(self.hooks, task_scope(self.cfg))
            if self._val_loop is not None:
                self._val_loop = self.build_val_loop(self._val_loop)
                self._skip_logits(self._val_loop.evaluator)
                check_categories(self._val_loop.evaluator)
                check_classes(unwrapped(self.model), self.val_dataloader.dataset)
            if shards(self.cfg):
                self._shard_model()
            self.optim_wrapper = self.build_optim_wrapper(self.optim_wrapper)
        if shards(self.cfg):
            shard_loaded_steps(self.optim_wrapper)
        self._report_batch()
        seed_items(self.train_dataloader)
        self.register_hook(SeedSteps())
        if self.distributed:
            self.norms = AverageStatistics()
            self.register_hook(self.norms)
        if not any(isinstance(hook, FiniteGuard) for hook in self.hooks):
            self.register_hook(FiniteGuard())

    def prepare_test(self) -> None:
        """Build the data loader, loop and evaluator ahead of `test()`.

        Raises:
            UserError: If a setting of theirs is wrong or files are missing.
        """
        with as_user_error(str(self.cfg.filename or 'config')):
            self._test_loop = self.build_test_loop(self._test_loop)
            self._skip_logits(self._test_loop.evaluator)
            check_categories(self._test_loop.evaluator)
            check_classes(unwrapped(self.model), self.test_dataloader.dataset)

    def _skip_logits(self, evaluator: Evaluator) -> None:
        """Let segmentors leave out the logits, unless something may want them."""
        kinds = (type(metric).__module__ for metric in evaluator.metrics)
        known = all(kind.split('.')[0] in WITHOUT_LOGITS for kind in kinds)
        merged = any(isinstance(part, BaseTTAModel) for part in self.model.modules())
        if known and not merged:
            predict_labels_only(unwrapped(self.model))

    def train(self) -> nn.Module:
        """Train as mmengine does, and end the processes that read pictures."""
        try:
            model = super().train()
            _share_unreadable(self.train_dataloader)
            return model
        finally:
            end_readers(self._train_loop)
            end_readers(self._val_loop)

    def test(self) -> dict[str, float]:
        """Test as mmengine does, and end the processes that read pictures."""
        try:
            metrics = super().test()
            _share_unreadable(self.test_dataloader)
            return metrics
        finally:
            end_readers(self._test_loop)

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build mmengine's training loop as one that can resume anywhere."""
        if isinstance(loop, dict):
            loop = resumable_loop(loop)
            self._train_dataloader = placed_loader(self._train_dataloader)
        return super().build_train_loop(loop)

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | dict,
        seed: int | None = None,
        diff_rank_seed: bool = False,
    ) -> DataLoader:
        """Build a data loader whose files are there (see `check_dataset`)."""
        dataset = dataloader['dataset'] if isinstance(dataloader, dict) else {}
        with explain_empty(dataset):
            loader = Runner.build_dataloader(dataloader, seed, diff_rank_seed)
        check_dataset(loader.dataset)
        return loader

    def build_evaluator(self, evaluator: dict | list | Evaluator) -> Evaluator:
        """Build an evaluator of the pictures that are run; see `count_run_pictures`."""
        evaluator = super().build_evaluator(evaluator)
        count_run_pictures(evaluator)
        return evaluator

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Wrap the model for a distributed job; on CPUs without device numbers.

        SyncBN runs on GPUs alone; plain BatchNorm takes its place on CPUs, where mixed
        precision needs a prepared model, too. A model of which something is to be
        sharded stays as it is until that is done.
        """
        if on_cpu():
            keep_freed_memory()
            lay_out_losses(model)
            if wants_amp(self.optim_wrapper):
                prepare_for_bfloat16(model)
        is_whole = not shards(self.cfg)
        is_ours = self.distributed and (on_cpu() or not is_whole)
        if not is_ours or is_model_wrapper(model):
            return super().wrap_model(model_wrapper_cfg, model)
        model = model.to(get_device())
        if on_cpu():
            model = self._without_sync_norms(model)
        elif self.cfg.get('sync_bn'):
            model = convert_sync_batchnorm(model, self.cfg.sync_bn)
        if not is_whole:
            return model
        wrapper = model_wrapper_cfg or {
            'broadcast_buffers': False,
            'find_unused_parameters': self.cfg.get('find_unused_parameters', False),
        }
        return MODEL_WRAPPERS.build(
            {'type': 'MMDistributedDataParallel', **wrapper, 'device_ids': None},
            default_args={'module': model},
        )

    def _without_sync_norms(self, model: nn.Module) -> nn.Module:
        """Replace SyncBN, which refuses tensors on CPUs, by BatchNorm, and say so."""
        synced = any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
        if synced or self.cfg.get('sync_bn'):
            self.logger.warning(
                'SyncBN needs GPUs: on CPUs it is BatchNorm, with statistics of each '
                "process's own images"
            )
        return revert_sync_batchnorm(model)

    def build_optim_wrapper(
        self, optim_wrapper: torch.optim.Optimizer | OptimWrapper | dict
    ) -> OptimWrapper:
        """Build the optimizer; on a CPU mixed precision is bfloat16, Adam fused."""
        if wants_amp(optim_wrapper) and on_cpu():
            optim_wrapper = dict(optim_wrapper, type=CpuAmpOptimWrapper)
            for gpu_only in ('loss_scale', 'dtype', 'use_fsdp'):
                optim_wrapper.pop(gpu_only, None)
            self.logger.info('Mixed precision on the CPU: bfloat16')
        if isinstance(optim_wrapper, dict) and on_cpu():
            optim_wrapper = with_fused_adam(optim_wrapper)
        built = super().build_optim_wrapper(optim_wrapper)
        check_accumulation(built)
        keep_layouts(built)
        return built

    def scale_lr(
        self, optim_wrapper: OptimWrapper, auto_scale_lr: dict | None = None
    ) -> None:
        """Scale the learning rate as mmengine does; accumulated batches count."""
        accumulated = getattr(optim_wrapper, '_accumulative_counts', 1)
        if auto_scale_lr and accumulated > 1:
            base = auto_scale_lr['base_batch_size'] / accumulated
            auto_scale_lr = {**auto_scale_lr, 'base_batch_size': base}
        super().scale_lr(optim_wrapper, auto_scale_lr)

    def _report_batch(self) -> None:
        """Warn of a learning rate that is for another number of images in a step."""
        scaling = self.cfg.get('auto_scale_lr') or {}
        base = scaling.get('base_batch_size')
        images = prod(batch_factors(self).values())
        if base and base != images and not scaling.get('enable'):
            self.logger.warning(
                f'A step sees {images} images, the learning rate is for {base}: '
                'mmpoolformer train --auto-scale-lr, in configs '
                f'auto_scale_lr.enable=True, scales it by {images / base:g}'
            )

    def _shard_model(self) -> None:
        """Shard the parameters, once they have their first values."""
        check_sharding(self)
        self._init_model_weights()
        shard_model(self.model)
        self.sharded = ShardedState()
        self.register_hook(self.sharded)

    def save_checkpoint(self, *place: object, **options: object) -> None:
        """Save a checkpoint, as mmengine does, of whole tensors; all processes must."""
        if self.norms:
            self.norms.average(self)
        if self.sharded:
            self.sharded.gather(self)
        with interrupts_held():
            super().save_checkpoint(*place, **options)

    def _init_model_weights(self) -> None:
        if self.sharded:
            return
        with as_user_error(str(self.cfg.filename or 'config'), CHECKPOINT_ERRORS):
            super()._init_model_weights()

    def load_or_resume(self) -> None:
        """Load the checkpoint that the config names, if any.

        Raises:
            UserError: If it is missing, damaged, not to be trusted, or does not fit.
        """
        with as_user_error(str(self._load_from or self.work_dir), CHECKPOINT_ERRORS):
            super().load_or_resume()

    def load_checkpoint(
        self,
        filename: str,
        map_location: str | Callable = 'cpu',
        strict: bool = False,
        revise_keys: list = [(r'^module\.', '')],  # noqa: B006 (mmengine's signature)
    ) -> dict:
        """Load weights, and say how many came, are new and were left.

        Args:
            filename: Path or URL of the checkpoint.
            map_location: Where its tensors go.
            strict: Of no effect: see `needs_all_weights`.
            revise_keys: Of no effect: `module.` is taken off.

        Returns:
            The whole checkpoint.

        Raises:
            UserError: If tensors that the model has are missing or differ in shape, or
                the classes are the data's in another order; where not all are needed,
                if none fits, or none of the backbone.
        """
        read = partial(CheckpointLoader.load_checkpoint, map_location=map_location)
        if not self.needs_all_weights:
            return self._load_what_fits(read(filename), filename)
        filename, checkpoint = read_first([filename, *self.older], read)
        if self._resume:
            self._load_from = filename
            self._check_resumed(checkpoint, filename)
        is_test = isinstance(self._test_loop, BaseLoop)
        dataset = (self.test_loop if is_test else self.train_loop).dataloader.dataset
        check_class_order(recorded_classes(checkpoint), dataset, filename)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        report = fill_model(self.model, checkpoint, filename)
        self.logger.info(f'Loaded {report}')
        self._has_loaded = True
        return checkpoint

    def _check_resumed(self, checkpoint: dict, filename: str) -> None:
        """Refuse what can't be resumed; choose whose settings hold."""
        missing = [part for part in RESUME_PARTS if part not in checkpoint]
        if missing:
            raise UserError(
                f'{filename}: can not be resumed, it has no {", ".join(missing)}; to '
                f'start from its weights use --cfg-options load_from={filename}'
            )
        check_resumed(self, checkpoint, filename, not self.own_settings)
        if self.own_settings:
            own = take_own_settings(self.optim_wrapper, checkpoint['optimizer'])
            checkpoint['optimizer'] = own
        else:
            report_differences(self, checkpoint, filename)

    def resume(
        self,
        filename: str,
        resume_optimizer: bool = True,
        resume_param_scheduler: bool = True,
        map_location: str | Callable = 'default',
    ) -> None:
        """Go on from a checkpoint, as mmengine does, with `own_settings` where set."""
        from_file = resume_param_scheduler and not self.own_settings
        super().resume(filename, resume_optimizer, from_file, map_location)
        if isinstance(self.train_loop, EpochLoop):
            self.train_loop.count_left()
        if self.own_settings:
            replay_schedules(self)
        report_length(self, filename)

    def _load_what_fits(self, checkpoint: dict, filename: str) -> dict:
        report = fill_partly(self.model, checkpoint, filename)
        is_whole = not (report.new or report.left or report.reshaped)
        self.logger.log(INFO if is_whole else WARNING, f'Loaded {report}')
        # Hooks, such as that of averaged weights, get what the model now holds.
        entry, _ = model_weights(checkpoint, filename)
        checkpoint = {key: checkpoint[key] for key in checkpoint if key != entry}
        checkpoint['state_dict'] = unwrapped(self.model).state_dict()
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        self._has_loaded = True
        return checkpoint


def _share_unreadable(loader: DataLoader) -> None:
    """Let the first process, which reports, know what all could not read."""
    if hasattr(loader.dataset, 'share_unreadable'):
        loader.dataset.share_unreadable()
