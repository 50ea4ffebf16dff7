"""Pictures with class labels, in folders."""

from pathlib import Path

from mmpoolformer.data.checks.built import smaller_than_a_batch
from mmpoolformer.data.checks.images import PILLOW, PILLOW_LIMIT
from mmpoolformer.data.checks.part import (
    Part,
    check_heads,
    folders_of,
    inspect_pictures,
)
from mmpoolformer.data.checks.report import DataReport


def check_classification(part: Part, report: DataReport) -> None:
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
    check_heads(part.config, report.classes, report.findings)
    root = Path(dataset.root)
    if part.leaf.get('name') or not root.is_dir():
        report.facts.append('pictures not checked, because they lie in no folder')
        return
    paths = [dataset.data.filename(i, absolute=True) for i in range(len(dataset.data))]
    report.folders = folders_of(str(root), paths)

    def add_skipped(what: str, name: str) -> None:
        report.findings.warning(f'{what} (skipped)', name)

    add = add_skipped if dataset.on_error == 'skip' else report.findings.error
    inspect_pictures(paths, part, PILLOW_LIMIT, report, PILLOW, add)
