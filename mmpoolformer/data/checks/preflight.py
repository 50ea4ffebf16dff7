"""The preflight check: all data of a config, before a run spends time on it.

The config's data sets are built as mmengine would, but not read; what they would read
is checked file by file. Of pictures only the headers are read, and the whole file where
its end is missing (a picture cut short); `decode` reads all. Of the pictures of labels
some are read, or all with `decode`.

Every tool lets `data.checks.built` check what mmengine's Runner has built, which takes
no time.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
from mmengine.config import Config
from mmengine.dist import broadcast_object_list
from mmengine.registry import DATASETS
from torch.utils.data import Dataset

from mmpoolformer.data.checks.classification import check_classification
from mmpoolformer.data.checks.detection import check_detection
from mmpoolformer.data.checks.part import (
    LOADERS,
    Options,
    Part,
    class_counts,
    step_name,
)
from mmpoolformer.data.checks.report import (
    DataReport,
    as_note,
    read_notes,
    sound_before,
    write_notes,
)
from mmpoolformer.data.checks.segmentation import check_segmentation
from mmpoolformer.data.classification import TimmDataset
from mmpoolformer.registry import scope_of
from mmpoolformer.utils.distributed import launched_rank
from mmpoolformer.utils.errors import SETTING_ERRORS, UserError, as_user_error, one_line
from mmpoolformer.utils.nested import leaf_datasets
from mmpoolformer.version import __version__

CACHE = 'data_check.json'
PICKLES = ('.pkl', '.pickle')


def check_data(
    config: Config,
    loaders: Sequence[str] = LOADERS,
    options: Options | None = None,
    cached: bool = True,
) -> list[DataReport]:
    """Check all data sets of a config.

    Args:
        config: The config, with `work_dir` set: there `data_check.json` keeps what was
            sound, with the names, sizes and times of the files, so that another start
            on the same files is fast. Nothing is written when there are errors.
        loaders: The settings whose data sets to check; those that the config does not
            have are left out.
        options: How thoroughly.
        cached: Whether to believe that file.

    Returns:
        A report for each data set.

    Raises:
        UserError: If that file can't be written.
    """
    options = options or Options()
    old = read_notes(Path(config.work_dir) / CACHE) if cached else {}
    notes = {loader: old[loader] for loader in LOADERS if loader in old}
    known = {key: note for part in notes.values() for key, note in part.items()}
    reports: dict[str, DataReport] = {}
    for loader in filter(config.get, loaders):
        notes[loader] = {}
        for leaf in leaf_datasets(config[loader].get('dataset')):
            key = _key(config, loader, leaf, options)
            if key not in reports:  # val_dataloader may be test_dataloader
                reports[key] = sound_before(known.get(key)) or _checked(
                    config, loader, leaf, options
                )
                notes[loader][key] = as_note(reports[key])
    found = list(reports.values())
    _compare_classes(found)
    if not any(report.findings.errors for report in found):
        with as_user_error('', (OSError,)):
            write_notes(Path(config.work_dir) / CACHE, notes)
    return found


def refuse_errors(reports: Sequence[DataReport], cure: str = '') -> None:
    """Raise if the data can't be trained on.

    Args:
        reports: What was found.
        cure: What else the user can do.

    Raises:
        UserError: Naming the first error, and how many more there are.
    """
    errors = [(r.title, one) for r in reports for one in r.findings.errors]
    if not errors:
        return
    title, first = errors[0]
    more = len(errors) - 1
    rest = f'; other errors: {more}, see above' if more else ''
    raise UserError(f'{title}: {first}{rest}' + (f' ({cure})' if cure else ''))


def summary(reports: Sequence[DataReport], seconds: float) -> list[str]:
    """Return all reports in lines of at most 79 columns, and a last one of the sum."""
    lines = [line for report in reports for line in report.lines()]
    errors = sum(len(report.findings.errors) for report in reports)
    warnings = sum(len(report.findings.warnings) for report in reports)
    files = len({file for report in reports for file in report.files})
    lines.append(
        f'data: {files} files in {seconds:.1f} s, errors: {errors}, '
        f'warnings: {warnings}'
    )
    return lines


def check_and_report(
    config: Config,
    loaders: Sequence[str],
    options: Options | None = None,
    cached: bool = True,
    briefly: bool = False,
) -> list[DataReport]:
    """Check data, and print what was found.

    Args:
        config: See `check_data`.
        loaders: See `check_data`.
        options: See `check_data`.
        cached: See `check_data`.
        briefly: Whether to print one line if nothing is wrong.
    """
    start = time.perf_counter()
    reports = check_data(config, loaders, options, cached)
    lines = summary(reports, time.perf_counter() - start)
    clean = not any(r.findings.errors or r.findings.warnings for r in reports)
    print('\n'.join(lines[-1:] if clean and briefly else lines), flush=True)
    return reports


def training_loaders(config: Config) -> Sequence[str]:
    """Return the settings whose data a training reads."""
    validates = config.get('val_cfg') is not None  # dict() is mmengine's loop
    return LOADERS[:2] if validates else LOADERS[:1]


def check_before(config: Config, loaders: Sequence[str], cure: str) -> None:
    """Check the data of a run in the first process, and print what was found.

    The other processes wait for it at their first collective operation, for at most
    `env_cfg.dist_cfg.timeout`, by default half an hour.

    Args:
        config: See `check_data`.
        loaders: See `check_data`.
        cure: What else the user can do about errors.

    Raises:
        UserError: If there are errors.
    """
    refusal = []
    if launched_rank() == 0:
        reports = check_and_report(config, loaders, briefly=True)
        try:
            refuse_errors(reports, cure)
        except UserError as error:
            refusal.append(str(error))
    told = [refusal]
    broadcast_object_list(told)  # nothing but where processes are connected already
    if told[0]:
        raise UserError(told[0][0])


def _checked(
    config: Config, loader: str, leaf: Mapping, options: Options
) -> DataReport:
    """Check one data set."""
    what = leaf.get('ann_file') or leaf.get('root') or leaf.get('data_root') or ''
    report = DataReport(f'{loader}: {step_name(leaf)} {what}'.strip())
    if str(what).endswith(PICKLES):
        report.findings.warning('is a pickle, which can run any program')
    with scope_of(config):
        try:
            dataset = _built(leaf)
        except (UserError, *SETTING_ERRORS) as error:
            report.findings.error(one_line(error))
            return report
        part = Part(config, loader, leaf, dataset, options)
        try:
            _check_of(dataset)(part, report)
        except (AssertionError, OSError, UserError, ValueError) as error:
            report.findings.error(one_line(error))
    return report


def _built(leaf: Mapping) -> Dataset:
    """Build a data set without reading it, if it is of a kind that can wait."""
    kind = leaf.get('type')
    with DATASETS.switch_scope_and_registry(leaf.get('_scope_')) as registry:
        kind = registry.get(kind) if isinstance(kind, str) else kind
    if kind is None:
        raise UserError(f'there is no data set of type {leaf.get("type")}')
    changes = {}
    if kind is TimmDataset:
        changes = {'quiet': True}
    elif hasattr(kind, 'full_init') and hasattr(kind, '_join_prefix'):
        changes = {'lazy_init': True, 'pipeline': []}
    return DATASETS.build({**leaf, **changes})


def _check_of(dataset: Dataset) -> Callable[[Part, DataReport], None]:
    """Return the check that a data set takes."""
    if isinstance(dataset, TimmDataset):
        return check_classification
    names = {kind.__name__: kind for kind in type(dataset).__mro__}
    if 'CocoDataset' in names:
        own = type(dataset).parse_data_info is names['CocoDataset'].parse_data_info
        return check_detection if own else _check_unknown
    return check_segmentation if 'BaseSegDataset' in names else _check_unknown


def _check_unknown(part: Part, report: DataReport) -> None:
    report.facts.append('of a kind that is not checked')


def _compare_classes(reports: Sequence[DataReport]) -> None:
    """Report data sets whose labels stand for other classes than the first's."""
    known = [report for report in reports if report.classes]
    for report in known[1:]:
        first = known[0]
        if report.classes != first.classes:
            differ = sorted({*report.classes} ^ {*first.classes})[:3]
            names = f'such as {", ".join(differ)}' if differ else 'in another order'
            report.findings.error(
                f'other classes than in {first.title}: {names}; set the same classes '
                'for both'
            )


def _key(config: Config, loader: str, leaf: Mapping, options: Options) -> str:
    """Name all that decides what is found, but for the files."""
    parts = [
        __version__,
        loader != LOADERS[0],
        leaf,
        sorted(class_counts(config.model)),
        config.get(loader.replace('dataloader', 'evaluator')),
        options.decode,
        cv2.__version__,  # decides which formats can be read
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()
