"""Reading a config and changing it by the command line, with mistakes found early."""

import ast
import inspect
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.config import config as mmengine_config
from mmengine.runner import Runner
from yapf.yapflib import yapf_api

from mmpoolformer.engine.bases import package_bases
from mmpoolformer.engine.picture_size import use_size
from mmpoolformer.engine.resuming import resumable, since_start
from mmpoolformer.utils.errors import (
    SETTING_ERRORS,
    UsageError,
    UserError,
    as_user_error,
    one_line,
)
from mmpoolformer.utils.logs import warn, warnings_alone
from mmpoolformer.utils.nested import dicts_in
from mmpoolformer.utils.paths import split_entry
from mmpoolformer.utils.temporary import replaced
from mmpoolformer.utils.text import did_you_mean

KEY = re.compile(r'[A-Za-z_]\w*(\.\w+)*')

# A config is a program of the user's: whatever it raises is to be mended there.
CONFIG_ERRORS = (*SETTING_ERRORS, SyntaxError, NameError, AttributeError, RuntimeError)

# Settings that mmengine's Runner and these tools read besides Runner's arguments.
READ_BESIDE = {
    'activation_checkpointing',
    'compile',
    'custom_imports',
    'efficient_conv_bn_eval',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'runner_type',
    'strategy',
    'sync_bn',
    'tta_model',
    'tta_pipeline',
}
RESTARTS = 'TORCHELASTIC_RESTART_COUNT'  # set by torchrun
LITERALS = ('"', "'", '{', '[', '(')  # what they start with
# Packages of the dense tasks, with what of ours installs them.
EXTRAS = {'mmdet': 'det', 'mmseg': 'seg'}


def load_config(
    path: str | os.PathLike,
    needed: Sequence[str] = (),
    *,
    size: tuple[int, int] | None = None,
    overrides: Sequence[str] = (),
    work_dir: str | os.PathLike | None = None,
    launcher: str = 'none',
) -> Config:
    """Read a config file and change it.

    Args:
        path: The file.
        needed: Settings that the config must have.
        size: Height and width of the pictures, see `use_size`.
        overrides: Changes, see `merge_options`.
        work_dir: Where logs, checkpoints and results go; None is `work_dir` of the
            config, else `work_dirs/NAME_OF_THE_CONFIG`.
        launcher: What started the processes of a distributed job.

    Returns:
        The config, with `work_dir` and `launcher` set.

    Raises:
        UserError: If the config can't be read, lacks a setting or needs a package
            that is not installed, or if an option does not fit it.
    """
    path = Path(path)
    # Without mmengine's notes, such as that a config reads an environment variable.
    with as_user_error(str(path), CONFIG_ERRORS), package_bases(), warnings_alone():
        config = Config.fromfile(str(path))
    if size:
        with as_user_error('--size', CONFIG_ERRORS):
            use_size(config, size)
    merge_options(config, overrides)
    missing = [key for key in needed if config.get(key) is None]
    if missing:
        raise UserError(f'{path}: has no {", ".join(missing)}')
    _check_packages(config)
    _check_class_names(config, path)
    config.launcher = launcher
    stem = Path('work_dirs') / path.stem
    config.work_dir = str(work_dir or config.get('work_dir') or stem)
    return config


@contextmanager
def formatted_once() -> Iterator[None]:
    """Format a config's text once in the block, not at each log and checkpoint.

    With the names and colours of 133 classes that takes 2.3 s, and a test does it five
    times.
    """
    # mmengine looks it up at each use, the fork in yapf, the original in its module.
    place = mmengine_config if hasattr(mmengine_config, 'FormatCode') else yapf_api
    original, known = place.FormatCode, {}

    def format_code(text: str, **style: object) -> tuple[str, bool]:
        if text not in known:
            known[text] = original(text, **style)
        return known[text]

    with replaced(place, 'FormatCode', format_code):
        yield


def task_scope(config: Config) -> str:
    """Return the package whose task a config is of: `mmdet`, `mmseg` or another.

    Args:
        config: Its `default_scope` counts; where there is none, or mmengine's, the
            origin of its model: a class, itself or what it inherits from, or a name
            such as `mmdet.RetinaNet`.
    """
    scope = config.get('default_scope') or 'mmengine'
    if scope != 'mmengine':
        return scope
    kind = (config.get('model') or {}).get('type')
    if isinstance(kind, type):
        origins = [base.__module__ for base in kind.__mro__]
    else:
        origins = [str(kind)]
    found = [origin.split('.')[0] for origin in origins]
    return next((name for name in found if name in EXTRAS), scope)


def merge_options(config: Config, pairs: Sequence[str]) -> None:
    """Change settings of a config in place.

    Args:
        config: The config.
        pairs: `key=value` each, where the key is a path such as
            `model.backbone.arch` or `param_scheduler.0.end`.

    Raises:
        UsageError: If a pair has another form or names what can't exist.
    """
    readable = {*inspect.signature(Runner.__init__).parameters, *READ_BESIDE}
    for pair in pairs:
        key, equals, text = pair.partition('=')
        if not equals or not KEY.fullmatch(key):
            raise UsageError(
                f'--cfg-options {pair!r}: write key=value, such as '
                'model.backbone.arch=s24'
            )
        _check_top(key, config, readable)
        try:
            value = parse_value(text)
            if isinstance(value, dict) and not isinstance(_current(config, key), dict):
                value = {'_delete_': True, **value}  # mmengine merges dicts only
            config.merge_from_dict({key: value})
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            raise UsageError(f'--cfg-options {pair!r}: {one_line(error)}') from error


def _current(config: Config, key: str) -> object:
    """Return what a setting is now, or an empty dict if it is not there."""
    node = config
    for part in key.split('.'):
        if isinstance(node, (list, tuple)) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, (dict, Config)) and part in node:
            node = node[part]
        else:
            return {}
    return node


def parse_value(text: str) -> object:
    """Read the value of a `key=value` option.

    A Python literal in quotes, braces or brackets is one, so that dicts and lists of
    them can be given, and strings with blanks or commas stay whole. All else is as
    mmengine reads it: `1` a number, `None`, `true`, `[a,b]` and `a,b` lists, the rest
    a string.

    Raises:
        ValueError: If a quote, brace or bracket is not closed.
    """
    if text[:1] in LITERALS:
        try:
            return ast.literal_eval(text)
        except (SyntaxError, ValueError) as error:
            if text[:1] not in '[(' or '{' in text:
                raise ValueError('not a Python literal') from error
    if ',' in text or text[:1] in ('[', '('):
        return DictAction._parse_iterable(text)
    return DictAction._parse_int_float_bool(text)


def _check_top(key: str, config: Config, readable: set[str]) -> None:
    top = key.split('.')[0]
    if top in readable:
        return
    if top not in config:
        hint = did_you_mean(top, [*config, *readable], most=1)
        raise UsageError(f'--cfg-options {key}: the config has no {top!r}{hint}')
    warn(
        f'--cfg-options {key}: {top} is a variable of the config file; what the file '
        'has made of it already does not change'
    )


def _check_packages(config: Config) -> None:
    scope = task_scope(config)
    if find_spec(scope) is not None:
        return
    extra = EXTRAS.get(scope)
    cure = f": python -m pip install 'mmpoolformer[{extra}]'" if extra else ''
    raise UserError(f'the config needs {scope}, which is not installed{cure}')


def _check_class_names(config: Config, file: Path) -> None:
    """Refuse names of classes that are one text, of which each letter would count."""
    for place, node in dicts_in(config):
        if not place.endswith('metainfo'):
            continue
        if 'CLASSES' in node:
            raise UserError(
                f'{file}: {place}.CLASSES is not read: write {place}.classes'
            )
        classes = node.get('classes')
        if isinstance(classes, str) and not Path(classes).is_file():  # a list of names
            raise UserError(
                f'{file}: {place}.classes={classes!r} is text, not a list of names: '
                f'write classes=({classes!r},), with the comma'
            )


def check_weights(config: Config) -> None:
    """Refuse weight files on this machine that the config names and that are missing.

    Raises:
        UserError: Naming the setting and the file.
    """
    files = {'load_from': config.get('load_from')}
    for place, node in dicts_in(config.model, 'model'):
        if node.get('type') == 'Pretrained':
            files[f'{place}.checkpoint'] = node.get('checkpoint')
    for setting, named in files.items():
        if not isinstance(named, str | os.PathLike):
            continue
        file = split_entry(named)[0]
        if '://' not in file and not Path(file).expanduser().exists():
            raise UserError(f'{setting}={file}: no such file')


def use_resume(config: Config, resume: str | None) -> list[Path]:
    """Set what training starts from.

    Processes that torchrun has restarted go on where they were, if they had saved.

    Args:
        config: The config, with `work_dir` set; `resume` and `load_from` change.
        resume: A checkpoint, `'auto'` for the latest one in the work dir (none is
            no mistake: the run then starts as it would have without), or None.

    Returns:
        Older checkpoints that do as well, where the latest one can't be read; none
        for a checkpoint that was named.

    Raises:
        UserError: If the checkpoint is missing.
    """
    resumes_by_itself = config.get('resume') and config.get('load_from') is None
    auto = resume == 'auto' or (resume is None and resumes_by_itself)
    is_restarted = int(os.environ.get(RESTARTS, 0)) > 0
    found = since_start(config.work_dir) if is_restarted else []
    if auto and not found:
        found = resumable(config.work_dir)
        if len(found) == 1 and not found[0].is_file():
            raise UserError(
                f'--resume {found[0]}: no such file (named by '
                f'{config.work_dir}/last_checkpoint)'
            )
    if found:
        config.resume, config.load_from = True, str(found[0])
        return found[1:]
    if auto:
        config.resume = False
    if auto or resume is None:
        return []
    if '://' not in resume and not Path(resume).exists():
        raise UserError(f'--resume {resume}: no such file')
    config.resume = True
    config.load_from = resume
    return []


def use_auto_scale_lr(config: Config) -> None:
    """Switch on scaling of the learning rate by the number of images in a step.

    Raises:
        UserError: If the config does not say for how many images its rate is.
    """
    if not (config.get('auto_scale_lr') or {}).get('base_batch_size'):
        raise UserError(
            '--auto-scale-lr: the config has no auto_scale_lr.base_batch_size (the '
            'images in a step that its learning rate is for); add it by --cfg-options '
            'auto_scale_lr.base_batch_size=16'
        )
    config.auto_scale_lr.enable = True


def use_amp(config: Config) -> None:
    """Switch on mixed precision.

    Raises:
        UserError: If the config has several optimizers, or an optimizer wrapper of
            its own kind.
    """
    if (
        'constructor' in config.optim_wrapper
        and 'optimizer' not in config.optim_wrapper
    ):
        raise UserError(
            "--amp: only for one optimizer; with several give type='AmpOptimWrapper' "
            'to each in the config'
        )
    kind = config.optim_wrapper.get('type', 'OptimWrapper')
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise UserError(f'--amp: can not be added to optim_wrapper.type={kind}')
    config.optim_wrapper.type = 'AmpOptimWrapper'
    config.optim_wrapper.setdefault('loss_scale', 'dynamic')
