"""COCO annotation files and the pictures that they name."""

import os
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from urllib.parse import unquote

from torch.utils.data import Dataset

from mmpoolformer.data.checks.built import explain_empty, is_elsewhere
from mmpoolformer.data.checks.coco import CocoUse, check_coco, check_order
from mmpoolformer.data.checks.images import MISSING, OPENCV_LIMIT
from mmpoolformer.data.checks.part import (
    Part,
    check_heads,
    check_size,
    inspect_pictures,
    step_name,
)
from mmpoolformer.data.checks.report import DataReport, Findings
from mmpoolformer.data.class_names import read_json
from mmpoolformer.utils.errors import one_line

FOLDERS_SEARCHED = 1000  # for pictures that are not where they should be
# Methods by which a data set class decides what it reads of a COCO file.
READING = frozenset(
    ('load_data_list', 'get_data_info', 'full_init', 'filter_data', '_join_prefix')
)


def check_detection(part: Part, report: DataReport) -> None:
    """Check a COCO annotation file and the pictures that it names."""
    dataset = part.dataset
    file, folder = dataset.ann_file, dataset.data_prefix.get('img', '')
    if is_elsewhere(file):
        report.facts.append('on another machine, not checked')
        return
    content = check_coco(read_json(file), _coco_use(part), report.findings)
    report.facts += content.facts
    report.classes = content.classes
    report.files = [file]
    check_heads(part.config, content.classes, report.findings)
    _check_evaluator(part, file, report.findings)
    if is_elsewhere(folder):
        report.facts.append('pictures on another machine, not checked')
        return
    if _has_own_reading(dataset):
        if not report.findings.errors:
            _check_own_reading(part, content.categories, report)
        return
    pictures = list(content.pictures.values())
    paths = [os.path.join(folder, picture.file_name) for picture in pictures]
    if any(_needs_slashes(path) for path in paths):
        report.findings.error(
            'file names with backslashes, which part folders on Windows alone: write / '
            'in "file_name"',
            next(filter(_needs_slashes, paths)),
        )
        return
    looks = inspect_pictures(paths, part, OPENCV_LIMIT, report)
    for path, picture, one in zip(paths, pictures, looks, strict=True):
        size = picture.width, picture.height
        check_size(path, size, one, report.findings)
    missing = [p for p, one in zip(paths, looks, strict=True) if one.problem == MISSING]
    if missing and (found := _found_elsewhere(missing[0], dataset.data_root or folder)):
        report.findings.warning(
            'pictures that seem to lie elsewhere or to be called otherwise: set '
            'data_prefix.img, or correct "file_name"',
            f'{missing[0]}: is it {found}?',
        )


def _found_elsewhere(path: str, root: str) -> str | None:
    """Find a file that another program may mean by a path, below a folder.

    Other programs write their own folders, other capitals, and `%20` for a blank.
    """
    wanted = _plain_name(path)
    for place, _, names in islice(os.walk(root), FOLDERS_SEARCHED):
        for name in names:
            if _plain_name(name) == wanted:
                return os.path.join(place, name)
    return None


def _plain_name(path: str) -> str:
    return unquote(path.replace('\\', '/').rpartition('/')[2]).casefold()


def _needs_slashes(path: str) -> bool:
    """Tell whether a picture is there once backslashes are read as slashes."""
    if '\\' not in path or os.path.isfile(path):
        return False
    return os.path.isfile(path.replace('\\', '/'))


def _has_own_reading(dataset: Dataset) -> bool:
    """Tell whether a data set class reads COCO's files otherwise than mmdet's own."""
    for kind in type(dataset).__mro__:
        if kind.__name__ == 'CocoDataset':
            return False
        if kind.__name__ != 'CocoFolderDataset' and READING & vars(kind).keys():
            return True
    return False


def _check_own_reading(
    part: Part, categories: Mapping[int, str], report: DataReport
) -> None:
    """Check what a data set class of another reading says that it reads."""
    dataset = part.dataset
    try:
        with explain_empty(dict(part.leaf)):
            dataset.full_init()
    except ImportError as error:
        what = (
            f'pictures not checked, as the data set can not be read: {one_line(error)}'
        )
        report.findings.warning(what)
        return
    labels = getattr(dataset, 'cat2label', {})
    check_order(report.classes, categories, labels, report.findings)
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    infos = [info for info in infos if isinstance(info.get('img_path'), str)]
    infos = [info for info in infos if not is_elsewhere(info['img_path'])]
    looks = inspect_pictures([i['img_path'] for i in infos], part, OPENCV_LIMIT, report)
    for info, one in zip(infos, looks, strict=True):
        if info.get('width') and info.get('height'):
            size = info['width'], info['height']
            check_size(info['img_path'], size, one, report.findings)


def _coco_use(part: Part) -> CocoUse:
    dataset = part.dataset
    filters = {} if dataset.test_mode else dict(dataset.filter_cfg or {})
    evaluators = _evaluators(part)
    metrics = [step_name(one) for one in evaluators] or ['CocoMetric']
    return CocoUse(
        classes=tuple(dataset.metainfo.get('classes') or ()),
        masks=any(step.get('with_mask') for step in part.steps),
        evaluated=part.evaluated,
        measured=not evaluators or not all(e.get('format_only') for e in evaluators),
        flagged=part.evaluated and any(name.endswith('CocoMetric') for name in metrics),
        drops_empty=bool(filters.get('filter_empty_gt')),
        min_size=filters.get('min_size') or 0,
        own_reading=_has_own_reading(dataset),
    )


def _evaluators(part: Part) -> list[Mapping]:
    """Return the evaluators of a data set, as far as they are written in the config."""
    found = part.config.get(part.loader.replace('dataloader', 'evaluator')) or ()
    found = [found] if isinstance(found, Mapping) else found
    return [one for one in found if isinstance(one, Mapping)]


def _check_evaluator(part: Part, file: str, findings: Findings) -> None:
    """Check that the truth of an evaluation is the data set's."""
    for evaluator in _evaluators(part):
        truth = evaluator.get('ann_file')
        if not isinstance(truth, str) or is_elsewhere(truth):
            continue
        if not Path(truth).is_file():
            findings.error(f'evaluator: {truth}: no such file')
        elif not os.path.samefile(truth, file):
            findings.warning(f'the evaluator compares with another file: {truth}')
