"""COCO's metrics over the pictures that were run, and 0 where nothing was detected.

mmdet's metric counts every picture of the annotation file, so that AP of a part of a
data set is too low; and it gives no number at all if no object was detected, which
ends early stopping and the choice of the best checkpoint. Where faster-coco-eval is
installed (the extra `[det]`), it evaluates in pycocotools' place, to the same digits in
a tenth of the time.
"""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from mmengine.evaluator import BaseMetric, Evaluator

from mmpoolformer.utils.errors import UserError
from mmpoolformer.utils.logs import warn
from mmpoolformer.utils.temporary import replaced
from mmpoolformer.utils.text import first_few

# Where mmdet's metric looks its evaluations up.
COCO_MODULE = 'mmdet.evaluation.metrics.coco_metric'
# What mmdet's metric of LVIS gives by default, of boxes or masks and of proposals.
LVIS_ITEMS = ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'APr', 'APc', 'APf')
PROPOSALS = ('AR@300', 'ARs@300', 'ARm@300', 'ARl@300')


def count_run_pictures(evaluator: Evaluator) -> None:
    """Let mmdet's COCO and LVIS metrics count the pictures that were run, in place.

    Args:
        evaluator: Its other metrics, which count so already, stay as they are.
    """
    detection = sys.modules.get('mmdet.evaluation')  # else none of its metrics is there
    for metric in evaluator.metrics if detection else ():
        if isinstance(metric, detection.CocoMetric):
            metric.compute_metrics = partial(_compute, metric, metric.compute_metrics)


def check_categories(evaluator: Evaluator) -> None:
    """Refuse files of COCO's metrics with other categories than the data's classes.

    mmdet counts labels in the order of the file, whatever the config says: they would
    stand for other classes than the model has learned.

    Args:
        evaluator: One that knows its data set; only metrics with a file of their own
            are looked at.

    Raises:
        UserError: Naming the classes in both orders.
    """
    wanted = list((evaluator.dataset_meta or {}).get('classes') or ())
    for metric in evaluator.metrics:
        api = getattr(metric, '_coco_api', None)
        kinds = {*getattr(metric, 'metrics', ())} - {'proposal', 'proposal_fast'}
        if not (api and kinds and wanted):
            continue
        ids = api.get_cat_ids(cat_names=wanted)
        found = [api.cats[number]['name'] for number in ids]
        if found != wanted:
            raise UserError(
                f'{type(metric).__name__}: of the classes {first_few(wanted, 8)} its '
                f'ann_file has {first_few(found, 8) or "none"}, in this order, which '
                'labels follow: write the "categories" of all files in the order of '
                'the training'
            )


def _compute(metric: BaseMetric, compute: partial, results: Sequence) -> dict:
    # In the order of the results, as proposal_fast pairs them.
    metric.img_ids = list(dict.fromkeys(truth['img_id'] for truth, _ in results))
    if len(metric.img_ids) < len(results):
        counts = Counter(truth['img_id'] for truth, _ in results)
        raise UserError(
            f'{type(metric).__name__}: several pictures of the data have the id '
            f'{counts.most_common(1)[0][0]!r}, so that it is not known what is in '
            'which: give the pictures of joined data sets (ConcatDataset) ids of their '
            'own, or test one after the other'
        )
    if 'segm' in metric.metrics and any(
        'masks' not in found and len(found['labels']) for _, found in results
    ):
        raise UserError(
            f'{type(metric).__name__}: metric={metric.metrics} needs masks, and this '
            "model finds none: set metric='bbox' (val_evaluator.metric, "
            'test_evaluator.metric)'
        )
    metric.iou_thrs = np.atleast_1d(metric.iou_thrs)  # a list equals no number
    if hasattr(metric, '_lvis_api'):
        return _filled(metric, compute(results))
    if metric._coco_api is None:
        metric._coco_api = _api_of_results(metric, results)
    api = metric._coco_api
    _number_annotations(api)
    unknown = [image for image in metric.img_ids if image not in api.imgs]
    if unknown:
        raise UserError(
            f'{type(metric).__name__}: its ann_file has no picture of id '
            f'{unknown[0]!r}, which was run: give the evaluator the ann_file of the '
            'data set (val_evaluator.ann_file, test_evaluator.ann_file)'
        )
    if len(metric.img_ids) < len(api.imgs):
        warn(
            f'{type(metric).__name__}: evaluated on the {len(metric.img_ids)} pictures '
            f'that were run, of {len(api.imgs)} in the annotation file'
        )
    tolerant = copy(api)
    tolerant.loadRes = partial(_load_detections, api)
    module = sys.modules[COCO_MODULE]
    fast = replaced(module, 'COCOeval', faster(module.COCOeval))
    with replaced(metric, '_coco_api', tolerant), fast:
        found = compute(_by_category_id(metric, api, results))
    # What counts by default, in `save_best='auto'` too, is the first.
    return dict(sorted(found.items(), key=lambda one: one[0].endswith('_precision')))


def _by_category_id(metric: BaseMetric, api: object, results: Sequence) -> Sequence:
    """Number labels as the ids of their categories are sorted, where that matters.

    pycocotools sorts its figures of classes so, and mmdet reads them as if they were in
    the order of the file.
    """
    ids = api.get_cat_ids(cat_names=metric.dataset_meta['classes'])
    if not metric.classwise or ids == sorted(ids):
        return results
    metric.cat_ids = sorted(ids)
    ranks = np.array([metric.cat_ids.index(number) for number in ids])
    return [
        (truth, {**found, 'labels': ranks[found['labels']]}) for truth, found in results
    ]


def faster(kind: Callable) -> Callable:
    """Return what evaluates as pycocotools' `COCOeval` does, faster where that can be.

    It has an AP also where `proposal_nums` is without 100; pycocotools gives -1 there.

    Args:
        kind: What makes an evaluation; all but `COCOeval` itself stay as they are.
    """
    from pycocotools.cocoeval import COCOeval  # only there for detection

    return _evaluation if kind is COCOeval and find_spec('faster_coco_eval') else kind


def _evaluation(truth: object, found: object, kind: str) -> object:
    from faster_coco_eval import COCOeval_faster
    from pycocotools.cocoeval import COCOeval

    # It keeps ids as whole numbers.
    if not all(type(number) is int for number in [*truth.imgs, *truth.cats]):
        return COCOeval(truth, found, kind)
    return COCOeval_faster(truth, found, kind, print_function=print)


def _number_annotations(api: object) -> None:
    """Number annotations from 1 where an id counts for pycocotools as no match: 0.

    Label Studio numbers from 0, for one. Nothing else looks at these ids.
    """
    if not all(isinstance(number, int) and number > 0 for number in api.anns):
        for number, one in enumerate(api.dataset['annotations'], 1):
            one['id'] = number
        api.createIndex()


def _filled(metric: BaseMetric, found: dict) -> dict:
    """Give LVIS's metrics 0 where there is no number, as nothing was detected."""
    for kind in () if metric.format_only else metric.metrics:
        own = PROPOSALS if kind == 'proposal' else LVIS_ITEMS
        start = '' if kind == 'proposal' else f'{kind}_'
        names = [f'{start}{item}' for item in metric.metric_items or own]
        if kind != 'proposal_fast' and not found.keys() & names:
            found |= dict.fromkeys(names, 0.0)
    return found


def _api_of_results(metric: BaseMetric, results: Sequence) -> object:
    """Return COCO's view of the ground truth that came with the results."""
    from mmdet.datasets.api_wrappers import COCO  # only there for detection

    truths = [truth for truth, _ in results]
    with TemporaryDirectory() as folder:
        return COCO(metric.gt_to_coco_json(truths, str(Path(folder) / 'truth')))


def _load_detections(api: object, found: list) -> object:
    """Return COCO's view of detections; of none, which pycocotools refuses, too."""
    if found:
        return api.loadRes(found)
    empty = type(api)()
    parts = ('images', 'categories')
    empty.dataset = {**{key: api.dataset[key] for key in parts}, 'annotations': []}
    empty.createIndex()
    return empty
