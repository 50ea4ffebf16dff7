"""Pictures and the label maps beside them."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from mmengine.registry import TRANSFORMS

from mmpoolformer.data.checks.built import is_elsewhere
from mmpoolformer.data.checks.images import (
    OPENCV_LIMIT,
    PILLOW,
    PILLOW_LIMIT,
    inspect_all,
    inspect_image,
    report_images,
)
from mmpoolformer.data.checks.labels import (
    LabelUse,
    Mapped,
    check_labels,
    measure_mapping,
)
from mmpoolformer.data.checks.part import (
    LABEL_TRANSFORMS,
    Options,
    Part,
    check_heads,
    check_size,
    folders_of,
    inspect_pictures,
    step_name,
)
from mmpoolformer.data.checks.report import DataReport
from mmpoolformer.utils.errors import UserError, as_user_error
from mmpoolformer.utils.images import SUFFIXES

# Pictures of labels that are read without `decode`, spread evenly.
LABELS_READ = 1000


def check_segmentation(part: Part, report: DataReport) -> None:
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
    check_heads(part.config, report.classes, report.findings)
    if not infos:
        raise UserError(f'no image to use: no file *{dataset.img_suffix} in {folder}')
    paths = [info['img_path'] for info in infos]
    report.folders = folders_of(folder, paths)
    looks = inspect_pictures(paths, part, OPENCV_LIMIT, report)
    if any('seg_map_path' not in info for info in infos):
        raise UserError('has no folder of labels (data_prefix.seg_map_path)')
    maps = [info['seg_map_path'] for info in infos]
    read = _spread(len(maps), part.options)
    how = partial(inspect_image, reader=_label_reader(part), counted=True)
    found = inspect_all(maps, how, read, part.options.workers, 'labels')
    report.files += [*maps, dataset.ann_file] if dataset.ann_file else maps
    for path in [] if dataset.ann_file else _left_out(part, paths, maps):
        report.findings.warning(
            f'pictures with labels that img_suffix {dataset.img_suffix!r} leaves out '
            '(rename or convert them)',
            path,
        )
    report_images(maps, found, PILLOW_LIMIT, report.findings.error)
    for path, one, of_labels in zip(paths, looks, found, strict=True):
        if not of_labels.problem:
            check_size(path, of_labels.stored, one, report.findings)
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


def _left_out(part: Part, paths: Sequence[str], maps: Sequence[str]) -> Iterator[str]:
    """Find pictures of other endings than the data set's, with labels of their own."""
    prefix, ending = part.dataset.data_prefix, part.dataset.seg_map_suffix
    used = {*map(Path, paths), *map(Path, maps)}
    for file in sorted(set(Path(prefix['img_path']).rglob('[!.]*')) - used):
        folder = prefix['seg_map_path'] / file.parent.relative_to(prefix['img_path'])
        labels = folder / f'{file.stem}{ending}'
        if file.suffix.lower() in SUFFIXES and labels not in used and labels.is_file():
            yield str(file)


def _mapping(part: Part, info: Mapping) -> dict[int, Mapped]:
    """Return what label each value becomes; empty if nothing in the config says."""
    steps = [step for step in part.steps if step_name(step).endswith(LABEL_TRANSFORMS)]
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


def _spread(count: int, options: Options) -> list[bool]:
    """Choose which pictures of labels to read."""
    if options.decode or count <= LABELS_READ:
        return [True] * count
    chosen = {i * count // LABELS_READ for i in range(LABELS_READ)}
    return [i in chosen for i in range(count)]


def _label_reader(part: Part) -> str:
    """Return what decodes the pictures of labels, by mmcv's names."""
    loaders = (s for s in part.steps if step_name(s).endswith('LoadAnnotations'))
    named = (loader.get('imdecode_backend') for loader in loaders)
    return next(filter(None, named), PILLOW)
