"""Training and testing, from a parsed command line to the results."""

import os
import signal
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from torch.utils.data import Dataset

from mmpoolformer.checkpoints import register_safe_loaders
from mmpoolformer.checkpoints.reading import TRUST_VARIABLE
from mmpoolformer.data.checks.preflight import (
    LOADERS,
    Options,
    check_and_tell,
    check_before_training,
    refuse_errors,
)
from mmpoolformer.engine import config as settings
from mmpoolformer.engine.distributed import (
    connect_processes,
    disconnect_processes,
    let_first_process_speak,
)
from mmpoolformer.engine.fsdp import strategy_of
from mmpoolformer.engine.hooks.checkpoint import report_full_disk
from mmpoolformer.engine.hooks.curves import DrawCurves, use_tensorboard
from mmpoolformer.engine.hooks.draw import DrawPictures
from mmpoolformer.engine.hooks.fold import OptimizeModel
from mmpoolformer.engine.hooks.logs import TrainingLog, ValidationLog, dump_metric
from mmpoolformer.engine.hooks.stop import StopOnSignal
from mmpoolformer.engine.lock import locked
from mmpoolformer.engine.runner import ToolRunner
from mmpoolformer.engine.signals import Answer, StopRequest
from mmpoolformer.engine.tta import use_tta
from mmpoolformer.utils.errors import UsageError, UserError, blame
from mmpoolformer.utils.files import write_json
from mmpoolformer.utils.images import PictureError, limit_formats

TRAIN_NEEDS = ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper')
CHECK_NEEDS = ('model',)
TEST_NEEDS = ('model', 'test_dataloader', 'test_cfg', 'test_evaluator')

# Tasks whose predictions can be drawn on the picture.
DRAWN_SCOPES = ('mmdet', 'mmseg')

# Warnings of mmdet and mmseg about what every config has or nobody asked for.
NOISE = (
    'faster_coco_eval is not installed',
    'Default ``avg_non_ignore`` is False',
    'The draw is False',
    '`reduce_zero_label` will be deprecated',
    '``build_loss`` would be deprecated',
    "'pin_memory' argument is set as true but no accelerator",
)


def train(args: Namespace, stop: StopRequest | None = None) -> None:
    """Train as `mmpoolformer.cli.train.parse` has read it.

    Args:
        args: The command line.
        stop: Takes signals already; without one they are taken until this returns.

    Raises:
        UserError: If the config, its files or the options are wrong.
        SystemExit: With code 75, if a signal has stopped it.
    """
    if stop is None:
        stop = StopRequest()
        with stop.listening():
            train(args, stop)
        return
    stop.answer = Answer.UNWIND
    _run(partial(_train, stop), args, TRAIN_NEEDS)


def test(args: Namespace, stop: StopRequest | None = None) -> None:
    """Test as `mmpoolformer.cli.test.parse` has read it.

    Args:
        args: The command line.
        stop: Takes signals already; without one nothing does.

    Raises:
        UserError: If the config, the checkpoint, files or the options are wrong.
        SystemExit: With code 75, if a signal has stopped it.
    """
    if stop is not None:
        stop.answer = Answer.UNWIND
    _run(_test, args, TEST_NEEDS)


def check(args: Namespace) -> None:
    """Check data as `mmpoolformer.cli.check_data.parse` has read it.

    Raises:
        UserError: If the config is wrong, or the data has errors.
    """
    for message in NOISE:
        warnings.filterwarnings('ignore', message)
    config = _load_config(args, CHECK_NEEDS)
    if not any(config.get(loader) for loader in LOADERS):
        raise UserError(f'{args.config}: has none of {", ".join(LOADERS)}')
    options = Options(args.decode, args.workers)
    refuse_errors(check_and_tell(config, LOADERS, options, cached=not args.anew))


def _load_config(args: Namespace, needed: Sequence[str]) -> Config:
    return settings.load_config(
        args.config,
        needed,
        overrides=args.cfg_options,
        work_dir=args.work_dir,
        launcher=args.launcher,
    )


def _run(
    job: Callable[[Namespace, Config], None], args: Namespace, needs: Sequence[str]
) -> None:
    for message in NOISE:
        warnings.filterwarnings('ignore', message)
    try:
        config = _load_config(args, needs)
        register_safe_loaders()
        limit_formats()
        if args.trust_checkpoint:
            os.environ[TRUST_VARIABLE] = '1'
        connect_processes(args.launcher, config.get('env_cfg', {}).get('dist_cfg'))
        job(args, config)
    except PictureError as error:
        let_first_process_speak()
        raise UserError(str(error)) from error
    except cv2.error as error:
        let_first_process_speak()
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            'OpenCV failed on a picture, which tools/check_data.py --decode should '
            f'name ({reason})'
        ) from error
    except UserError:
        let_first_process_speak()
        raise
    finally:
        disconnect_processes()
        # Torch would tell of readers that the interpreter ends at exit.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _train(request: StopRequest, args: Namespace, config: Config) -> None:
    results = Path(config.work_dir) / 'val_results.json'
    validations = ValidationLog(results)
    stop = StopOnSignal(request)
    older = _prepare_config(args, config)
    with locked(config.work_dir):
        runner = _prepared_runner(args, config, older, (validations, stop))
        with report_full_disk(), stop.patient_readers():
            runner.train()
    if is_main_process():
        _tell_unreadable(runner.train_dataloader.dataset)
        print(f'checkpoints and logs: {config.work_dir}')
        if validations.entries:
            print(f'results: {results}')


def _prepare_config(args: Namespace, config: Config) -> list[Path]:
    """Change the config as the options say, and check its data.

    Returns:
        Older checkpoints to resume from, see `use_resume`.
    """
    if args.amp:
        settings.use_amp(config)
    if args.strategy and args.strategy != strategy_of(config)[0]:
        config.strategy = args.strategy
    if args.auto_scale_lr:
        settings.use_auto_scale_lr(config)
    older = settings.use_resume(config, args.resume)
    settings.check_weights(config)
    if args.check:
        check_before_training(config)
    return older


def _prepared_runner(
    args: Namespace, config: Config, older: Sequence[Path], hooks: Sequence[Hook]
) -> ToolRunner:
    """Return a runner that is ready to train."""
    use_tensorboard(config)
    runner = ToolRunner.from_cfg(config)
    runner.needs_all_weights, runner.older = bool(config.get('resume')), older
    runner.own_settings = args.resume_settings == 'config'
    runner.register_hook(TrainingLog(Path(config.work_dir) / 'train_log.jsonl'))
    runner.register_hook(DrawCurves(config.work_dir))
    for hook in hooks:
        runner.register_hook(hook)
    runner.prepare_training()
    return runner


def _test(args: Namespace, config: Config) -> None:
    scope = settings.task_scope(config)
    _check_outputs(args, scope)
    # Only the checkpoint of the command line counts, and all of it.
    config.load_from, config.resume = args.checkpoint, False
    if args.tta:
        use_tta(config)
    runner = ToolRunner.from_cfg(config)
    runner.needs_all_weights = True
    runner.prepare_test()
    if args.out:
        runner.test_evaluator.metrics.append(dump_metric(scope, args.out))
    if args.show or args.show_dir:
        runner.register_hook(_pictures(args, config))
    if args.optimize:
        runner.register_hook(OptimizeModel(args.dtype))
    metrics = runner.test()
    if is_main_process():
        _tell_unreadable(runner.test_dataloader.dataset)
        _report(args, config, metrics)


def _tell_unreadable(dataset: Dataset) -> None:
    """Name the pictures that a data set of classification has skipped."""
    paths = getattr(dataset, 'unreadable', ())
    if paths:
        what = 'picture was' if len(paths) == 1 else 'pictures were'
        print(f'{len(paths)} unreadable {what} skipped:')
    for path in paths:
        print(f'  {path}')


def _check_outputs(args: Namespace, scope: str) -> None:
    if (args.show or args.show_dir) and scope not in DRAWN_SCOPES:
        raise UsageError(
            '--show, --show-dir: draws detections and segmentations, not '
            f'default_scope={scope}; --out keeps predictions of every kind'
        )
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        raise UsageError(f'--out {args.out}: must end on .pkl or .pickle')
    has_screen = sys.platform in ('win32', 'darwin') or any(
        os.environ.get(name) for name in ('DISPLAY', 'WAYLAND_DISPLAY')
    )
    if args.show and not has_screen:
        raise UsageError('--show: there is no screen here; use --show-dir DIR')
    for folder in (args.show_dir, args.out and Path(args.out).parent):
        if folder:
            with blame('', (OSError,)):
                Path(folder).mkdir(parents=True, exist_ok=True)


def _pictures(args: Namespace, config: Config) -> DrawPictures:
    hook = (config.get('default_hooks') or {}).get('visualization') or {}
    threshold = hook.get('score_thr')
    drawing = {} if threshold is None else {'pred_score_thr': threshold}
    return DrawPictures(args.show_dir, args.show, args.wait_time, drawing)


def _report(args: Namespace, config: Config, metrics: dict) -> None:
    stem = Path(args.checkpoint).stem + ('_tta' if args.tta else '')
    stem += f'_optimized_{args.dtype}' if args.optimize else ''
    path = Path(config.work_dir) / f'results_{stem}.json'
    record = {
        'config': args.config,
        'checkpoint': args.checkpoint,
        'cfg_options': args.cfg_options,
        'tta': args.tta,
        'optimized': args.dtype if args.optimize else None,
        'metrics': metrics,
    }
    write_json(path, record)
    if args.out:
        print(f'predictions: {args.out}')
    if args.show_dir:
        print(f'pictures: {args.show_dir}')
    print(f'results: {path}')
