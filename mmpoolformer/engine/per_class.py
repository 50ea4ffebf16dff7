"""What metrics measure of each class, which they print or drop."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from mmengine.evaluator import BaseMetric, Evaluator

from mmpoolformer.classification.metric import Accuracy, topk_accuracy
from mmpoolformer.engine.evaluation import COCO_MODULE, faster
from mmpoolformer.utils.temporary import replaced

EVALUATIONS = ('COCOeval', 'COCOevalMP')


@dataclass
class PerClass:
    """Figures of each class, filled when the metrics are computed.

    Attributes:
        tables: Rows by what was measured: `bbox` and `segm` (AP from 0 to 1), `pixels`
            (IoU and others, in percent), `pictures` (top-1 in percent). A class of
            which there is nothing to find has NaN.
        keeps_evaluations: Whether to keep those of pycocotools, which are large and
            slow.
        coco: They, by `bbox` and `segm`.
    """

    keeps_evaluations: bool = False
    tables: dict[str, list[dict]] = field(default_factory=dict)
    coco: dict[str, object] = field(default_factory=dict)


def keep_per_class(evaluator: Evaluator, evaluations: bool = False) -> PerClass:
    """Let metrics keep what they measure of each class, in place.

    Args:
        evaluator: Of its metrics COCO's, mmseg's IoU and accuracy have such figures;
            others stay as they are.
        evaluations: See `PerClass.keeps_evaluations`.

    Returns:
        What is filled by the evaluation, in the main process alone.
    """
    kept = PerClass(evaluations)
    detection = sys.modules.get('mmdet.evaluation')  # else none of its metrics is there
    segmentation = sys.modules.get('mmseg.evaluation')
    for metric in evaluator.metrics:
        if isinstance(metric, Accuracy):
            keep = _keep_pictures
        elif segmentation and isinstance(metric, segmentation.IoUMetric):
            keep = _keep_pixels
        elif detection and isinstance(metric, detection.CocoMetric):
            keep = _keep_coco
        else:
            continue
        compute = metric.compute_metrics
        metric.compute_metrics = partial(keep, metric, compute, kept)
    return kept


def _keep_pictures(
    metric: Accuracy, compute: Callable, kept: PerClass, results: Sequence[tuple]
) -> dict:
    by_label = {}
    for label, rank in results:
        by_label.setdefault(label, []).append(rank)
    names = (metric.dataset_meta or {}).get('classes') or range(max(by_label) + 1)
    kept.tables['pictures'] = [
        {'class': str(name), 'pictures': len(ranks), 'top1': _top1(ranks)}
        for name, ranks in ((n, by_label.get(i, [])) for i, n in enumerate(names))
    ]
    return compute(results)


def _top1(ranks: Sequence[int]) -> float:
    return topk_accuracy(ranks, (1,))['top1'] if ranks else float('nan')


def _keep_pixels(
    metric: BaseMetric, compute: Callable, kept: PerClass, results: Sequence
) -> dict:
    measure = metric.total_area_to_metrics

    def keep(*areas: object) -> dict:
        found = measure(*areas)
        columns = {n: v for n, v in found.items() if n != 'aAcc'}
        kept.tables['pixels'] = [
            # In percent, with as many digits as mmseg prints.
            {'class': name} | {n: np.round(100 * v[i], 2) for n, v in columns.items()}
            for i, name in enumerate(metric.dataset_meta['classes'])
        ]
        return found

    with replaced(metric, 'total_area_to_metrics', keep):
        return compute(results)


def _keep_coco(
    metric: BaseMetric, compute: Callable, kept: PerClass, results: Sequence
) -> dict:
    def keep(evaluation: object) -> None:
        # Else of proposals, without classes.
        if evaluation.params.useCats and evaluation.eval:
            kind = evaluation.params.iouType
            kept.tables[kind] = coco_table(evaluation)
            if kept.keeps_evaluations:
                kept.coco[kind] = evaluation

    # The faster ones do not tell what was matched.
    with _recorded(keep, (lambda kind: kind) if kept.keeps_evaluations else faster):
        return compute(results)


@contextmanager
def _recorded(
    keep: Callable[[object], None], chosen: Callable[[Callable], Callable]
) -> Iterator[None]:
    """Give `keep` each evaluation that mmdet's metric makes and ends.

    They stay as they are, since `COCOevalMP` pickles itself. `chosen` says what makes
    them in place of one of `EVALUATIONS`.
    """
    module, last = sys.modules[COCO_MODULE], []

    def record(kind: type, *given: object) -> object:
        if last:
            keep(last.pop())  # it is over when the next one is made
        last.append(kind(*given))
        return last[0]

    with ExitStack() as recording:
        for name in EVALUATIONS:
            kind = chosen(getattr(module, name))
            recording.enter_context(replaced(module, name, partial(record, kind)))
        yield
        if last:
            keep(last.pop())


def coco_table(evaluation: object) -> list[dict]:
    """Return AP, AP50 and AR of each class, with as many digits as mmdet prints.

    The evaluation is a `COCOeval` that was accumulated.
    """
    settings, truth = evaluation.params, evaluation.cocoGt
    half = np.isclose(settings.iouThrs, 0.5)
    # Of all sizes, and as many detections a picture as were allowed.
    precision = evaluation.eval['precision'][:, :, :, 0, -1]
    recall = evaluation.eval['recall'][:, :, 0, -1]
    pictures = set(settings.imgIds)
    return [
        {
            'class': truth.cats[number]['name'],
            'objects': sum(
                one['image_id'] in pictures and not one.get('iscrowd', 0)
                for one in truth.loadAnns(truth.getAnnIds(catIds=[number]))
            ),
            'AP': _mean(precision[:, :, i]),
            'AP50': _mean(precision[half, :, i]),
            'AR': _mean(recall[:, i]),
        }
        for i, number in enumerate(settings.catIds)
    ]


def _mean(values: np.ndarray) -> float:
    known = values[values > -1]
    return round(float(known.mean()), 3) if known.size else float('nan')
