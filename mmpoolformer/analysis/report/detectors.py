"""The report of a detector, of boxes and of masks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy import ndarray

from mmpoolformer.analysis.report.errors import Judged, error_table, judge
from mmpoolformer.analysis.report.figures import draw_bars, draw_precision
from mmpoolformer.analysis.report.matching import Scene, confusion, read_scenes
from mmpoolformer.analysis.report.measures import best_threshold
from mmpoolformer.analysis.report.parts import (
    MOST_PICTURES,
    Report,
    Section,
    calibration_section,
    confusion_section,
    fitted,
    fitted_objects,
)
from mmpoolformer.engine.outcomes import Tested
from mmpoolformer.utils.results import Detections
from mmpoolformer.visual.drawing import arrange, draw_detections

NAMES = {'bbox': 'box', 'segm': 'mask'}
BACKGROUND = 'background'


def explain_detector(tested: Tested) -> Report:
    """Explain what COCO's metric has measured."""
    tables, paths = tested.per_class.tables, dict(tested.outcomes)
    rows = [
        {'class': parts[0]['class'], 'objects': parts[0]['objects']}
        | {
            f'{NAMES[kind]} {name}': part[name]
            for kind, part in zip(tables, parts, strict=True)
            for name in ('AP', 'AP50', 'AR')
        }
        for parts in zip(*tables.values(), strict=True)
    ]
    sections = {
        NAMES[kind]: _sections(evaluation, paths)
        for kind, evaluation in tested.per_class.coco.items()
    }
    return Report(rows, sections)


def _sections(evaluation: object, paths: dict) -> list[Section]:
    numbers = evaluation.params.catIds
    classes = [evaluation.cocoGt.cats[number]['name'] for number in numbers]
    scenes = read_scenes(evaluation)
    judged = judge(scenes, len(classes))
    threshold, f1 = best_threshold(judged.scores, judged.hits, judged.objects.sum())
    worst = worst_scenes(scenes, threshold)
    return [
        _precision_section(evaluation, classes, judged.objects),
        _error_section(judged),
        confusion_section(
            confusion(scenes, len(classes), threshold),
            [*classes, BACKGROUND],
            f'At an IoU of 0.5 and a score of at least {threshold:.2f}, where F1 is '
            f'highest ({f1:.3f}). The row {BACKGROUND} has detections of nothing and '
            'duplicates, its column the objects that were missed.',
        ),
        calibration_section(
            judged.scores,
            judged.hits,
            'share of hits',
            'The share of detections that find an object at an IoU of 0.5, by score.',
        ),
        Section(
            'Worst pictures',
            'Those with the lowest F1 at that score; truth left, detections right.',
            pictures=_pictures(evaluation, worst, classes, paths, threshold),
            data={
                'threshold': threshold,
                'F1': f1,
                'worst pictures': [paths[scene.image] for _, scene in worst],
            },
        ),
    ]


def _precision_section(
    evaluation: object, classes: Sequence[str], objects: ndarray
) -> Section:
    precision = evaluation.eval['precision'][:, :, :, 0, -1]  # (IoUs, recalls, classes)
    levels, recalls = np.asarray(evaluation.params.iouThrs), evaluation.params.recThrs
    order = np.argsort(-objects, kind='stable')
    names = [classes[i] for i in order]
    half = precision[np.abs(levels - 0.5).argmin()][:, order]
    title = f'mean of IoU {levels[0]:.2f} to {levels[-1]:.2f}'
    return Section(
        'Precision and recall',
        'AP is the area below a curve, at one IoU or in the mean of all. A curve that '
        'ends early has objects that no detection finds, at any score.',
        {
            'precision_at_50': draw_precision(recalls, half, names, 'IoU 0.50'),
            'precision_mean': draw_precision(
                recalls, precision.mean(0)[:, order], names, title
            ),
        },
    )


def _error_section(judged: Judged) -> Section:
    rows = error_table(judged)
    gains = {row['error']: row['AP50 gained'] for row in rows}
    return Section(
        'Errors by kind',
        'What each kind of error costs: how far AP50 would rise if it alone were '
        'fixed (TIDE). Gains do not add up. A class of which every object is missed '
        'mostly gains nothing: look at its AP.',
        {'errors': draw_bars(gains, 'AP50 gained if fixed')},
        rows,
        data={'errors': rows},
    )


def worst_scenes(
    scenes: Sequence[Scene], threshold: float
) -> list[tuple[float, Scene]]:
    """Return the pictures with the lowest F1, those with more errors first, and it."""
    ranked = []
    for scene in (one.above(threshold) for one in scenes):
        hits = int(scene.hits.sum())
        errors = len(scene.labels) + len(scene.objects) - 2 * hits
        if errors:
            ranked.append((2 * hits / (2 * hits + errors), -errors, len(ranked), scene))
    return [(f1, scene) for f1, _, _, scene in sorted(ranked)[:MOST_PICTURES]]


def _pictures(
    evaluation: object,
    worst: Sequence[tuple[float, Scene]],
    classes: Sequence[str],
    paths: dict,
    threshold: float,
) -> dict[str, ndarray]:
    drawn = {}
    for f1, scene in worst:
        read = fitted(paths[scene.image])
        if read is None:
            continue
        picture, scale = read
        sides = (
            _objects(evaluation, scene.truth, scene.objects, None),
            # The surest ones last, on top of the others.
            _objects(
                evaluation, scene.found[::-1], scene.labels[::-1], scene.scores[::-1]
            ),
        )
        row = [
            draw_detections(
                picture, fitted_objects(side, picture.shape, scale), classes
            )
            for side in sides
        ]
        lost, wrong = (~scene.used()).sum(), (~scene.hits).sum()
        name = Path(paths[scene.image]).name
        headings = ['truth', f'found, score from {threshold:.2f}']
        text = f'{name}, F1 {f1:.2f}: {lost} missed, {wrong} wrong'
        drawn[text] = arrange([row], headings, name)
    return drawn


def _objects(
    evaluation: object, entries: Sequence[dict], labels: ndarray, scores: ndarray | None
) -> Detections:
    boxes = np.array([one['bbox'] for one in entries], dtype=float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    masks = None
    if evaluation.params.iouType == 'segm' and entries:
        masks = np.stack([evaluation.cocoGt.annToMask(one) for one in entries])
    return Detections(boxes, labels, scores, None if masks is None else masks == 1)
