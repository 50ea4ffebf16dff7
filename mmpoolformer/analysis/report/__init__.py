"""A report of a test: what went wrong, how often, and what it costs."""

import json
from os import PathLike
from pathlib import Path

from mmpoolformer.analysis.report.page import with_changes, write_files
from mmpoolformer.engine.outcomes import Tested
from mmpoolformer.utils.errors import UserError


def write_report(
    tested: Tested, facts: dict, folder: str | PathLike, rows: list[dict] | None = None
) -> Path:
    """Write a report of a test.

    Args:
        tested: What was measured, with the outcomes of its pictures.
        facts: What to say of the test, such as its `config` and `checkpoint`.
        folder: Where; it is made if need be.
        rows: Figures of each class to compare with, see `read_rows`.

    Returns:
        The page, `report.html`.

    Raises:
        UserError: If the metrics measured nothing.
    """
    if not tested.per_class.tables:
        raise UserError('--report: the metrics have measured nothing of any class')
    # Only the task's own libraries are there.
    if tested.scope == 'mmdet':
        from mmpoolformer.analysis.report.detectors import explain_detector as explain
    elif tested.scope == 'mmseg':
        from mmpoolformer.analysis.report.segmentors import explain_segmentor as explain
    else:
        from mmpoolformer.analysis.report.classifiers import (
            explain_classifier as explain,
        )
    report = explain(tested)
    if rows is not None:
        report.per_class[:] = with_changes(report.per_class, rows)
    title = f'Test of {Path(facts["checkpoint"]).name}'
    return write_files(
        report, title, {**facts, 'metrics': tested.metrics}, Path(folder)
    )


def read_rows(path: str | PathLike) -> list[dict]:
    """Read the figures of each class from the `report.json` of another test.

    Raises:
        UserError: If it is none.
    """
    try:
        rows = json.loads(Path(path).read_text(encoding='utf-8'))['per_class']
        return [{'class': row['class'], **row} for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f'{path}: not a report.json of a test: {error}') from error
