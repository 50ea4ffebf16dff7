"""Training, testing and checking data, from a config to the results."""

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import cv2
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from torch import nn
from torch.utils.data import Dataset

from mmpoolformer.checkpoints import register_safe_loaders
from mmpoolformer.checkpoints.filling import unwrapped
from mmpoolformer.checkpoints.reading import TRUST_VARIABLE
from mmpoolformer.data.checks.part import LOADERS, Options
from mmpoolformer.data.checks.preflight import (
    check_and_report,
    check_before,
    refuse_errors,
    training_loaders,
)
from mmpoolformer.engine import config as settings
from mmpoolformer.engine.console import QuietRunner, has_bars
from mmpoolformer.engine.distributed import (
    connect_processes,
    disconnect_processes,
    let_first_process_speak,
)
from mmpoolformer.engine.hooks.checkpoint import report_full_disk
from mmpoolformer.engine.hooks.curves import DrawCurves, use_tensorboard, use_trackers
from mmpoolformer.engine.hooks.draw import DrawPictures
from mmpoolformer.engine.hooks.fold import OptimizeModel
from mmpoolformer.engine.hooks.logs import TrainingLog, ValidationLog, dump_metric
from mmpoolformer.engine.hooks.progress import ProgressHook
from mmpoolformer.engine.hooks.stop import StopOnSignal
from mmpoolformer.engine.hooks.summary import RunSummary, ending
from mmpoolformer.engine.hooks.times import PartTimes
from mmpoolformer.engine.lock import locked
from mmpoolformer.engine.outcomes import Tested, keep_outcomes
from mmpoolformer.engine.per_class import keep_per_class
from mmpoolformer.engine.picture_size import warn_of_padding
from mmpoolformer.engine.runner import ToolRunner
from mmpoolformer.engine.signals import OnSignal, StopRequest
from mmpoolformer.engine.tta import use_tta
from mmpoolformer.utils.errors import UsageError, UserError, as_user_error
from mmpoolformer.utils.files import write_json
from mmpoolformer.utils.images import PictureError, limit_formats
from mmpoolformer.utils.paths import is_exported, split_entry
from mmpoolformer.utils.prints import ignore_noise

Result = TypeVar('Result')
TRAIN_NEEDS = ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper')
CHECK_NEEDS = ('model',)
TEST_NEEDS = ('model', 'test_dataloader', 'test_cfg', 'test_evaluator')

# Tasks whose predictions can be drawn on the picture.
DRAWN_SCOPES = ('mmdet', 'mmseg')


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every job with a config is told.

    Attributes:
        config: The file.
        size: Height and width of its pictures, see `load_config`, as the next three.
        overrides: Changes of it.
        work_dir: Where logs, checkpoints and results go.
        launcher: What started the processes of a distributed job.
        trust: Whether checkpoints may hold more than data, see `read_checkpoint`.
        verbose: Whether the console shows all that the log file has.
    """

    config: str | os.PathLike
    size: tuple[int, int] | None = None
    overrides: Sequence[str] = ()
    work_dir: str | os.PathLike | None = None
    launcher: str = 'none'
    trust: bool = False
    verbose: bool = False


@dataclass(frozen=True, kw_only=True)
class Training(Job):
    """How to train.

    Attributes:
        resume: See `use_resume`.
        resume_settings: Whose optimizer settings and schedules a resumed run uses:
            those of the `checkpoint` or of the `config`.
        amp: Whether to train in mixed precision.
        strategy: `ddp` or `fsdp`; None is what the config says.
        auto_scale_lr: Whether to fit the learning rate to the total batch size.
        check: Whether to check the data first.
        log: What gets losses and metrics too, see `use_trackers`.
    """

    resume: str | None = None
    resume_settings: str = 'checkpoint'
    amp: bool = False
    strategy: str | None = None
    auto_scale_lr: bool = False
    check: bool = True
    log: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Testing(Job):
    """How to test.

    Attributes:
        checkpoint: Weights of the whole model.
        install: Puts a file, `checkpoint`, in place of the model's network; takes model
            and test data.
        out: Pickle file of the predictions.
        show_dir: Folder of drawings of truth beside prediction.
        show: Whether to show them in a window.
        wait_time: For how many seconds each.
        tta: Whether to augment the test data.
        optimize: Whether to fold constants into the weights first.
        dtype: What the backbone then computes in, `fp32` or `bf16`.
        outcomes: Whether to keep the outcome of each picture, for a report.
        check: Whether to check the test data first.
    """

    checkpoint: str
    install: Callable[[nn.Module, Dataset], None] | None = None
    out: str | None = None
    show_dir: str | None = None
    show: bool = False
    wait_time: float = 2
    tta: bool = False
    optimize: bool = False
    dtype: str = 'fp32'
    outcomes: bool = False
    check: bool = True


def train(job: Training, stop: StopRequest | None = None) -> None:
    """Train.

    Without a `stop`, which takes signals already, they are taken until this returns.

    Raises:
        UserError: If the config, its files or the options are wrong.
        SystemExit: With code 75, if a signal has stopped it.
    """
    if stop is None:
        stop = StopRequest()
        with stop.listening():
            train(job, stop)
        return
    stop.on_signal = OnSignal.UNWIND
    _run(partial(_train, stop), job, TRAIN_NEEDS)


def check_training(job: Training) -> None:
    """Check what `train` checks before it builds anything: config, weights and data.

    Raises:
        UserError: As `train` does.
    """
    _run(_prepare_config, job, TRAIN_NEEDS)


def test(job: Testing, stop: StopRequest | None = None) -> Tested | None:
    """Test; a signal ends it where a `stop` takes them.

    Returns:
        What was measured; None in all processes but the first.

    Raises:
        UserError: If the config, the checkpoint, files or the options are wrong.
        SystemExit: With code 75, if a signal has stopped it.
    """
    if stop is not None:
        stop.on_signal = OnSignal.UNWIND
    return _run(_test, job, TEST_NEEDS)


def check(job: Job, options: Options, cached: bool = True) -> None:
    """Check the data of a config; `cached` skips files that were found sound.

    Raises:
        UserError: If the config is wrong, or the data has errors.
    """
    ignore_noise()
    config = _load_config(job, CHECK_NEEDS)
    if not any(config.get(loader) for loader in LOADERS):
        raise UserError(f'{job.config}: has none of {", ".join(LOADERS)}')
    refuse_errors(check_and_report(config, LOADERS, options, cached=cached))


def _load_config(job: Job, needed: Sequence[str]) -> Config:
    return settings.load_config(
        job.config,
        needed,
        size=job.size,
        overrides=job.overrides,
        work_dir=job.work_dir,
        launcher=job.launcher,
    )


def _run(
    start: Callable[[Job, Config], Result], job: Job, needs: Sequence[str]
) -> Result:
    ignore_noise()
    try:
        config = _load_config(job, needs)
        register_safe_loaders()
        limit_formats()
        if job.trust:
            os.environ[TRUST_VARIABLE] = '1'
        connect_processes(job.launcher, config.get('env_cfg', {}).get('dist_cfg'))
        with settings.formatted_once():
            return start(job, config)
    except PictureError as error:
        let_first_process_speak()
        raise UserError(str(error)) from error
    except cv2.error as error:
        let_first_process_speak()
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            'OpenCV failed on a picture, which mmpoolformer check-data --decode should '
            f'name ({reason})'
        ) from error
    except UserError:
        let_first_process_speak()
        raise
    finally:
        disconnect_processes()
        # Torch would tell of readers that the interpreter ends at exit.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _train(request: StopRequest, job: Training, config: Config) -> None:
    validations = ValidationLog(Path(config.work_dir) / 'val_results.json')
    stop = StopOnSignal(request)
    older = _prepare_config(job, config)
    with locked(config.work_dir):
        runner = _prepared_runner(job, config, older, (validations, stop))
        report = RunSummary(job.config, validations)
        with report_full_disk(), stop.patient_readers(), _shown(job, runner, report):
            runner.train()
    if is_main_process():
        _report_unreadable(runner.train_dataloader.dataset)
        print('\n'.join(ending(runner, validations.entries)))


@contextmanager
def _shown(job: Job, runner: ToolRunner, report: RunSummary) -> Iterator[None]:
    """Report on what runs in the block, unless mmengine does so itself."""
    if job.verbose:
        yield
        return
    runner.register_hook(report)
    with closing(ProgressHook(sys.stdout)) as progress:
        if has_bars() and is_main_process():
            runner.register_hook(progress)
        yield


def _runner_kind(job: Job) -> type[ToolRunner]:
    return ToolRunner if job.verbose else QuietRunner


def _prepare_config(job: Training, config: Config) -> list[Path]:
    """Change the config as the options say, and check its data.

    Returns:
        Older checkpoints to resume from, see `use_resume`.
    """
    use_tensorboard(config)
    use_trackers(config, job.log)
    if job.amp:
        settings.use_amp(config)
    if job.strategy:
        config.strategy = job.strategy
    if job.auto_scale_lr:
        settings.use_auto_scale_lr(config)
    older = settings.use_resume(config, job.resume)
    settings.check_weights(config)
    warn_of_padding(config)
    if job.check:
        check_before(config, training_loaders(config), '--no-check trains all the same')
    return older


def _prepared_runner(
    job: Training, config: Config, older: Sequence[Path], hooks: Sequence[Hook]
) -> ToolRunner:
    """Return a runner that is ready to train."""
    runner = _runner_kind(job).from_cfg(config)
    runner.needs_all_weights, runner.older = bool(config.get('resume')), older
    runner.own_settings = job.resume_settings == 'config'
    runner.register_hook(TrainingLog(Path(config.work_dir) / 'train_log.jsonl'))
    runner.register_hook(DrawCurves(config.work_dir))
    for hook in hooks:
        runner.register_hook(hook)
    runner.prepare_training()
    return runner


def _test(job: Testing, config: Config) -> Tested | None:
    scope = settings.task_scope(config)
    _check_outputs(job, scope)
    # Only the checkpoint of the command line counts, and all of it.
    config.load_from, config.resume = job.checkpoint, False
    if job.check:
        check_before(config, LOADERS[2:], '--no-check tests all the same')
    if job.tta:
        use_tta(config)
    runner = _runner_kind(job).from_cfg(config)
    runner.needs_all_weights = True
    runner.prepare_test()
    if job.install:
        job.install(unwrapped(runner.model), runner.test_dataloader.dataset)
        runner._has_loaded = True
    kept = keep_per_class(runner.test_evaluator, job.outcomes)
    keeper = keep_outcomes(runner.test_evaluator, scope) if job.outcomes else None
    if job.out:
        runner.test_evaluator.metrics.append(dump_metric(scope, job.out))
    if job.show or job.show_dir:
        runner.register_hook(_pictures(job, config))
    if job.optimize:
        runner.register_hook(OptimizeModel(job.dtype))
    times = PartTimes()
    runner.register_hook(times)
    with _shown(job, runner, RunSummary(job.config)):
        metrics = runner.test()
    if not is_main_process():
        return None
    _report_unreadable(runner.test_dataloader.dataset)
    _report(job, config, times, metrics, kept.tables)
    outcomes = keeper.kept if keeper else ()
    meta = runner.test_evaluator.dataset_meta
    return Tested(scope, metrics, kept, outcomes, meta)


def _report_unreadable(dataset: Dataset) -> None:
    """Name the pictures that a data set of classification has skipped."""
    paths = getattr(dataset, 'unreadable', ())
    if paths:
        what = 'picture was' if len(paths) == 1 else 'pictures were'
        print(f'{len(paths)} unreadable {what} skipped:')
    for path in paths:
        print(f'  {path}')


def _check_outputs(job: Testing, scope: str) -> None:
    if (job.show or job.show_dir) and scope not in DRAWN_SCOPES:
        raise UsageError(
            '--show, --show-dir: draws detections and segmentations, not '
            f'default_scope={scope}; --out keeps predictions of every kind'
        )
    if job.out and not job.out.endswith(('.pkl', '.pickle')):
        raise UsageError(f'--out {job.out}: must end on .pkl or .pickle')
    has_screen = sys.platform in ('win32', 'darwin') or any(
        os.environ.get(name) for name in ('DISPLAY', 'WAYLAND_DISPLAY')
    )
    if job.show and not has_screen:
        raise UsageError('--show: there is no screen here; use --show-dir DIR')
    for folder in (job.show_dir, job.out and Path(job.out).parent):
        if folder:
            with as_user_error('', (OSError,)):
                Path(folder).mkdir(parents=True, exist_ok=True)


def _pictures(job: Testing, config: Config) -> DrawPictures:
    hook = (config.get('default_hooks') or {}).get('visualization') or {}
    threshold = hook.get('score_thr')
    drawing = {} if threshold is None else {'pred_score_thr': threshold}
    return DrawPictures(job.show_dir, job.show, job.wait_time, drawing)


def _report(
    job: Testing, config: Config, times: PartTimes, metrics: dict, per_class: dict
) -> None:
    source, entry = split_entry(job.checkpoint)
    stem = Path(source).stem + re.sub(r'[^\w.-]', '_', f'_{entry}' if entry else '')
    stem += '_tta' if job.tta else ''
    stem += f'_optimized_{job.dtype}' if job.optimize else ''
    stem += f'{Path(source).suffix}_{job.dtype}' if is_exported(source) else ''
    path = Path(config.work_dir) / f'results_{stem}.json'
    has_run = is_exported(source) or not job.install  # not of saved predictions
    record = {
        'config': str(job.config),
        'checkpoint': job.checkpoint,
        'cfg_options': list(job.overrides),
        'tta': job.tta,
        'optimized': job.dtype if job.optimize else None,
        'dtype': job.dtype,
        'seconds_per_image': times.per_image() if has_run else None,
        'metrics': metrics,
        'per_class': per_class,
    }
    write_json(path, record)
    if has_run:
        print(times.text())
    if job.out:
        print(f'predictions: {job.out}')
    if job.show_dir:
        print(f'pictures: {job.show_dir}')
    print(f'results: {path}')
