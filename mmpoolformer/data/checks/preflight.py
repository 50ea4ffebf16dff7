"""Checking the data of a config before minutes are burnt on it.

The config's data sets are built as mmengine would, but not read; what they would read
is checked file by file. Of pictures only the headers are read, and the whole file where
its end is missing (a picture cut short); `decode` reads all. Of the pictures of labels
some are read, or all with `decode`.

What mmengine's Runner builds later is checked again by `data.checks.built`,
in passing and for every tool; here is what takes time.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from urllib.parse import unquote

import cv2
from mmengine.config import Config
from mmengine.dist import broadcast_object_list
from mmengine.registry import DATASETS, TRANSFORMS, DefaultScope
from torch.utils.data import Dataset

from mmpoolformer.data.checks.built import (
    explain_empty,
    is_elsewhere,
    smaller_than_a_batch,
    wrong_class_count,
)
from mmpoolformer.data.checks.coco import CocoUse, check_coco, check_order
from mmpoolformer.data.checks.images import (
    MISSING,
    OPENCV,
    OPENCV_LIMIT,
    PILLOW,
    PILLOW_LIMIT,
    ImageInfo,
    inspect_all,
    inspect_image,
    inspect_labels,
    report_images,
)
from mmpoolformer.data.checks.labels import (
    LabelUse,
    Mapped,
    check_labels,
    measure_mapping,
)
from mmpoolformer.data.checks.report import (
    DataReport,
    Findings,
    read_notes,
    sound_before,
    write_notes,
)
from mmpoolformer.data.checks.resizing import smallest_scales, vanishes
from mmpoolformer.data.class_names import read_json
from mmpoolformer.data.classification import TimmDataset
from mmpoolformer.utils.distributed import launched_rank
from mmpoolformer.utils.errors import SETTING_ERRORS, UserError, as_user_error, one_line
from mmpoolformer.utils.text import type_name
from mmpoolformer.version import __version__

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
HEADS = ('bbox_head', 'mask_head', 'decode_head', 'auxiliary_head')
# Settings of a panoptic or masked-attention head, whose sum is its classes.
PANOPTIC = ('num_things_classes', 'num_stuff_classes')
LABEL_TRANSFORMS = ('LoadAnnotations', 'MapLabels')
CACHE = 'data_check.json'
# Pictures of labels that are read without `decode`, spread evenly.
LABELS_READ = 1000
FOLDERS_SEARCHED = 1000  # for pictures that are not where they should be
FLIPPED = (2, 3, 4)  # orientations of EXIF that keep width and height
# Methods by which a data set class decides what it reads of a COCO file.
READING = frozenset(
    ('load_data_list', 'get_data_info', 'full_init', 'filter_data', '_join_prefix')
)
PICKLES = ('.pkl', '.pickle')


@dataclass(frozen=True)
class Options:
    """How thoroughly to check.

    Attributes:
        decode: Whether to decode every picture.
        workers: Threads that read pictures; None for the default of `inspect_all`.
    """

    decode: bool = False
    workers: int | None = None


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
    cache = read_notes(Path(config.work_dir) / CACHE) if cached else {}
    reports, fresh = [], {}
    for loader in loaders:
        if not config.get(loader):
            continue
        for leaf in leaf_datasets(config[loader].get('dataset')):
            key = _key(config, loader, leaf, options)
            if key in fresh:  # as where val_dataloader is test_dataloader
                continue
            report = sound_before(cache.get(key)) or _checked(
                config, loader, leaf, options
            )
            reports.append(report)
            fresh[key] = report
    _compare_classes(reports)
    if not any(report.findings.errors for report in reports):
        with as_user_error('', (OSError,)):
            write_notes(Path(config.work_dir) / CACHE, fresh)
    return reports


def leaf_datasets(dataset: Mapping | None) -> Iterator[Mapping]:
    """Find the data sets inside wrappers such as RepeatDataset and ConcatDataset."""
    if not isinstance(dataset, Mapping):
        return
    if isinstance(dataset.get('dataset'), Mapping):
        yield from leaf_datasets(dataset['dataset'])
    elif isinstance(dataset.get('datasets'), (list, tuple)):
        for one in dataset['datasets']:
            yield from leaf_datasets(one)
    else:
        yield dataset


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


def check_before_training(config: Config) -> None:
    """Check the data of a training in the first process of a job, and tell.

    The others go on and wait for the first where they meet: their time to do so is
    `env_cfg.dist_cfg.timeout`, by default half an hour.

    Raises:
        UserError: If there are errors.
    """
    refusal = []
    if launched_rank() == 0:
        loaders = LOADERS[:2] if config.get('val_cfg') else LOADERS[:1]
        reports = check_and_report(config, loaders, briefly=True)
        try:
            refuse_errors(reports, '--no-check trains all the same')
        except UserError as error:
            refusal.append(str(error))
    told = [refusal]
    broadcast_object_list(told)  # nothing but where processes are connected already
    if told[0]:
        raise UserError(told[0][0])


# -- one data set -------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A data set with what the config says around it.

    Attributes:
        config: The config.
        loader: The setting that has the data set.
        leaf: The data set's own setting, without wrappers.
        dataset: The data set, built but not read.
        options: How thoroughly to check it.
    """

    config: Config
    loader: str
    leaf: Mapping
    dataset: Dataset
    options: Options

    @property
    def evaluated(self) -> bool:
        """Whether it is the truth of an evaluation."""
        return self.loader != LOADERS[0]

    @property
    def steps(self) -> list[Mapping]:
        """The pipeline, as far as it is written in the config."""
        return [s for s in self.leaf.get('pipeline') or () if isinstance(s, Mapping)]


def _checked(
    config: Config, loader: str, leaf: Mapping, options: Options
) -> DataReport:
    """Check one data set."""
    what = leaf.get('ann_file') or leaf.get('root') or leaf.get('data_root') or ''
    report = DataReport(f'{loader}: {_name(leaf)} {what}'.strip())
    if str(what).endswith(PICKLES):
        report.findings.warning('is a pickle, which can run any program')
    with DefaultScope.overwrite_default_scope(config.get('default_scope')):
        try:
            dataset = _built(leaf)
        except (UserError, *SETTING_ERRORS) as error:
            report.findings.error(one_line(error))
            return report
        part = Part(config, loader, leaf, dataset, options)
        try:
            CHECKS[_kind(dataset)](part, report)
        except (AssertionError, OSError, UserError, ValueError) as error:
            report.findings.error(one_line(error))
    return report


def _built(leaf: Mapping) -> Dataset:
    """Build a data set without reading it, if it is of a kind that can wait."""
    leaf = dict(leaf)
    if _is_ours(leaf):
        return DATASETS.build({**leaf, 'quiet': True})
    kind = leaf.get('type')
    with DATASETS.switch_scope_and_registry(leaf.get('_scope_')) as registry:
        kind = registry.get(kind) if isinstance(kind, str) else kind
    if kind is None:
        raise UserError(f'there is no data set of type {leaf.get("type")}')
    lazy = {'lazy_init': True, 'pipeline': []} if _waits(kind) else {}
    return DATASETS.build({**leaf, **lazy})


def _is_ours(leaf: Mapping) -> bool:
    return leaf.get('type') in ('mmpoolformer.TimmDataset', TimmDataset)


def _waits(kind: type) -> bool:
    return hasattr(kind, 'full_init') and hasattr(kind, '_join_prefix')


def _kind(dataset: Dataset) -> str:
    """Tell which check a data set takes; others are not of a kind known here."""
    if isinstance(dataset, TimmDataset):
        return 'classification'
    names = {kind.__name__: kind for kind in type(dataset).__mro__}
    if 'CocoDataset' in names:
        own = type(dataset).parse_data_info is names['CocoDataset'].parse_data_info
        return 'coco' if own else 'unknown'
    return 'segmentation' if 'BaseSegDataset' in names else 'unknown'


def _check_unknown(part: Part, report: DataReport) -> None:
    report.facts.append('of a kind that is not checked')


def _check_coco(part: Part, report: DataReport) -> None:
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
    _check_heads(part.config, content.classes, report.findings)
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
    looks = _inspect(paths, part, OPENCV_LIMIT, report)
    for path, picture, one in zip(paths, pictures, looks, strict=True):
        size = picture.width, picture.height
        _check_size(path, size, one, report.findings)
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
    looks = _inspect([i['img_path'] for i in infos], part, OPENCV_LIMIT, report)
    for info, one in zip(infos, looks, strict=True):
        if info.get('width') and info.get('height'):
            size = info['width'], info['height']
            _check_size(info['img_path'], size, one, report.findings)


def _coco_use(part: Part) -> CocoUse:
    dataset = part.dataset
    filters = {} if dataset.test_mode else dict(dataset.filter_cfg or {})
    return CocoUse(
        classes=tuple(dataset.metainfo.get('classes') or ()),
        masks=any(step.get('with_mask') for step in part.steps),
        evaluated=part.evaluated,
        measured=not part.evaluated or _measures(part),
        flagged=part.evaluated and _by_pycocotools(part),
        drops_empty=bool(filters.get('filter_empty_gt')),
        min_size=filters.get('min_size') or 0,
        own_reading=_has_own_reading(dataset),
    )


def _evaluators(part: Part) -> list[Mapping]:
    """Return the evaluators of a data set, as far as they are written in the config."""
    found = part.config.get(part.loader.replace('dataloader', 'evaluator')) or ()
    found = [found] if isinstance(found, Mapping) else found
    return [one for one in found if isinstance(one, Mapping)]


def _measures(part: Part) -> bool:
    """Tell whether an evaluation measures, and does not write results alone."""
    evaluators = _evaluators(part)
    return not evaluators or not all(one.get('format_only') for one in evaluators)


def _by_pycocotools(part: Part) -> bool:
    evaluators = _evaluators(part)
    return not evaluators or any(_name(e).endswith('CocoMetric') for e in evaluators)


def _check_size(
    path: str, size: tuple[int, int], one: ImageInfo, findings: Findings
) -> None:
    """Compare a picture with the size that its annotations are for."""
    if one.problem or not one.width:
        return
    if one.seen == size:
        square = one.width == one.height
        if one.turn in FLIPPED or (one.turn != 1 and square):
            findings.warning(
                'pictures that EXIF turns or mirrors without a change of size, as '
                'training will see them: be sure that the boxes are for that',
                f'{path}, orientation {one.turn}',
            )
        return
    found = f'{one.seen[0]}x{one.seen[1]}'
    if one.stored == size:
        findings.error(
            'pictures that EXIF turns, with annotations for the unturned ones: turn '
            'the pixels and drop the tag',
            f'{path}, orientation {one.turn}',
        )
        return
    findings.error(
        'pictures of another size than their annotations say',
        f'{path} is {found}, not {size[0]}x{size[1]}',
    )


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


def _check_segmentation(part: Part, report: DataReport) -> None:
    """Check pictures and the pictures of labels beside them."""
    dataset = part.dataset
    folder = dataset.data_prefix.get('img_path') or ''
    if is_elsewhere(folder):
        report.facts.append('on another machine, not checked')
        return
    if not dataset.ann_file and not Path(folder).is_dir():
        raise UserError(f'{folder}: no such folder of pictures')
    infos = dataset.load_data_list()
    report.classes = tuple(dataset.metainfo.get('classes') or ())
    report.facts.append(f'{len(infos)} pictures')
    _check_heads(part.config, report.classes, report.findings)
    if not infos:
        raise UserError(f'no image to use: no file *{dataset.img_suffix} in {folder}')
    paths = [info['img_path'] for info in infos]
    report.folders = _folders(folder, paths)
    looks = _inspect(paths, part, OPENCV_LIMIT, report)
    if any('seg_map_path' not in info for info in infos):
        raise UserError('has no folder of labels (data_prefix.seg_map_path)')
    maps = [info['seg_map_path'] for info in infos]
    read = _spread(len(maps), part.options)
    how = partial(inspect_labels, reader=_label_reader(part))
    found = inspect_all(maps, how, read, part.options.workers, 'labels')
    report.files += [*maps, dataset.ann_file] if dataset.ann_file else maps
    report_images(maps, found, PILLOW_LIMIT, report.findings.error)
    for path, one, of_labels in zip(paths, looks, found, strict=True):
        if not of_labels.problem:
            _check_size(path, of_labels.stored, one, report.findings)
    mapping = _mapping(part, infos[0])
    use = _label_use(part, len(report.classes), all(read))
    if mapping and use.num_classes:
        report.facts += check_labels(maps, found, mapping, use, report.findings)
        if not use.every:
            report.facts.append(
                f'values of {sum(read)} of them (of all: mmpoolformer check-data '
                '--decode)'
            )
    else:
        report.facts.append('values of labels not checked')


def _mapping(part: Part, info: Mapping) -> dict[int, Mapped]:
    """Return what label each value becomes; empty if nothing in the config says."""
    steps = [step for step in part.steps if _name(step).endswith(LABEL_TRANSFORMS)]
    with as_user_error('pipeline'):
        transforms = [TRANSFORMS.build(dict(step)) for step in steps]
    return measure_mapping(transforms, info) if transforms else {}


def _label_use(part: Part, classes: int, every: bool) -> LabelUse:
    head = part.config.model.get('decode_head') or {}
    head = head[-1] if isinstance(head, (list, tuple)) else head
    return LabelUse(
        num_classes=head.get('num_classes') or classes,
        ignored=head.get('ignore_index', 255),
        zero_is_ignored=bool(part.dataset.reduce_zero_label),
        every=every,
        trained=not part.evaluated,
        classes=tuple(map(str, part.dataset.metainfo.get('classes') or ())),
    )


def _name(step: Mapping) -> str:
    return type_name(step.get('type'))


def _spread(count: int, options: Options) -> list[bool]:
    """Choose which pictures of labels to read."""
    if options.decode or count <= LABELS_READ:
        return [True] * count
    chosen = {i * count // LABELS_READ for i in range(LABELS_READ)}
    return [i in chosen for i in range(count)]


def _check_classification(part: Part, report: DataReport) -> None:
    """Check the pictures of an image folder; its folders TimmDataset has checked."""
    dataset = part.dataset
    report.classes = tuple(dataset.metainfo.get('classes', ()))
    report.facts.append(f'{len(dataset)} pictures of {len(report.classes)} classes')
    loader = part.config[part.loader]
    batch_size = loader.get('batch_size') or 1
    alone = not part.evaluated and loader.dataset == part.leaf  # in no wrapper
    if alone and loader.get('drop_last') and len(dataset) < batch_size:
        report.findings.error(smaller_than_a_batch(len(dataset), batch_size))
    for note in dataset.notes:
        report.findings.warning(note)
    if isinstance(part.leaf.get('classes'), str):
        report.files.append(part.leaf['classes'])
    _check_heads(part.config, report.classes, report.findings)
    root = Path(dataset.root)
    if part.leaf.get('name') or not root.is_dir():
        report.facts.append('pictures not checked, because they lie in no folder')
        return
    paths = [dataset.data.filename(i, absolute=True) for i in range(len(dataset.data))]
    report.folders = _folders(str(root), paths)

    def add_skipped(what: str, name: str) -> None:
        report.findings.warning(f'{what} (skipped)', name)

    add = add_skipped if dataset.on_error == 'skip' else report.findings.error
    _inspect(paths, part, PILLOW_LIMIT, report, add)


CHECKS = {
    'coco': _check_coco,
    'segmentation': _check_segmentation,
    'classification': _check_classification,
    'unknown': _check_unknown,
}


def _inspect(
    paths: Sequence[str],
    part: Part,
    limit: int,
    report: DataReport,
    add: Callable[[str, str], None] | None = None,
) -> list[ImageInfo]:
    options = part.options
    decode = [options.decode] * len(paths)
    how = partial(inspect_image, reader=_picture_reader(part))
    looks = inspect_all(paths, how, decode, options.workers, 'pictures')
    report_images(paths, looks, limit, add or report.findings.error)
    report.files += paths
    scales = smallest_scales(part.steps)
    for path, one in zip(paths, looks, strict=True):
        if one.width and any(vanishes(one.seen, scale) for scale in scales):
            report.findings.error(
                'pictures so narrow that resizing leaves no pixel of one side',
                f'{path}, {one.width}x{one.height}',
            )
    return looks


def _picture_reader(part: Part) -> str:
    """Return what decodes the pictures, by mmcv's names; empty if it is not known."""
    if isinstance(part.dataset, TimmDataset):
        return PILLOW
    for step in part.steps:
        name = _name(step)
        if name == 'LoadImageFromFile':
            return step.get('imdecode_backend') or OPENCV
        if name.startswith('Load') and name not in LABEL_TRANSFORMS:
            return ''
    return OPENCV


def _label_reader(part: Part) -> str:
    """Return what decodes the pictures of labels, by mmcv's names."""
    named = (step.get('imdecode_backend') for step in part.steps if _loads_labels(step))
    return next(filter(None, named), PILLOW)


def _loads_labels(step: Mapping) -> bool:
    return _name(step).endswith('LoadAnnotations')


def _check_heads(config: Config, classes: Sequence[str], findings: Findings) -> None:
    """Compare the heads' numbers of classes with the data's."""
    if not classes:
        return
    for place, count in _class_counts(config.model):
        if count != len(classes):
            findings.error(wrong_class_count(count, classes, place))


def _class_counts(model: Mapping, path: str = 'model') -> Iterator[tuple[str, int]]:
    """Find the settings of a classifier or of heads for their numbers of classes."""
    if path == 'model' and isinstance(model.get('num_classes'), int):
        yield f'{path}.num_classes', model['num_classes']
    for key, child in model.items():
        parts = child if isinstance(child, (list, tuple)) else [child]
        for i, part in enumerate(parts):
            if not isinstance(part, Mapping):
                continue
            where = f'{path}.{key}' + (f'.{i}' if part is not child else '')
            if key in HEADS and isinstance(part.get('num_classes'), int):
                yield f'{where}.num_classes', part['num_classes']
            parts_of = [part.get(kind) for kind in PANOPTIC]
            if key == 'panoptic_head' and all(isinstance(n, int) for n in parts_of):
                yield f'{where}.{" + ".join(PANOPTIC)}', sum(parts_of)
            yield from _class_counts(part, where)


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


def _folders(root: str, files: Sequence[str]) -> list[str]:
    """Return the folders from a root down to files."""
    folders = {root, *(os.path.dirname(file) for file in files)}
    above = {str(up) for folder in folders for up in Path(folder).parents}
    inside = {folder for folder in above if Path(folder).is_relative_to(root)}
    return sorted(folders | inside)


def _key(config: Config, loader: str, leaf: Mapping, options: Options) -> str:
    """Name all that decides what is found, but for the files."""
    parts = [
        __version__,
        loader != LOADERS[0],
        leaf,
        sorted(_class_counts(config.model)),
        config.get(loader.replace('dataloader', 'evaluator')),
        options.decode,
        cv2.__version__,  # decides which formats can be read
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()
