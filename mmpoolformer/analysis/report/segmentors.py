"""The report of a segmentor."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy import ndarray

from mmpoolformer.analysis.report.figures import MOST_BARS, draw_bars
from mmpoolformer.analysis.report.parts import (
    MOST_PICTURES,
    Report,
    Section,
    confusion_section,
    fitted,
)
from mmpoolformer.engine.outcomes import NO_TRUTH, Segmented, Tested
from mmpoolformer.visual.drawing import (
    IGNORED,
    arrange,
    draw_segmentation,
    fitted_map,
    region_colours,
)


def explain_segmentor(tested: Tested) -> Report:
    """Explain what mmseg's IoU metric has measured."""
    rows = [dict(row) for row in tested.per_class.tables['pixels']]
    names = [row['class'] for row in rows]
    matrix = count_pixels(tested.outcomes, len(names))
    worst = worst_maps(tested.outcomes, len(names))
    colours = region_colours(tested.meta or {}, len(names))
    main = 'IoU' if 'IoU' in rows[0] else list(rows[0])[1]
    values = {row['class']: float(row[main]) for row in rows}
    sections = [
        Section(
            f'{main} of each class',
            f'In percent, the lowest {MOST_BARS} where there are more. Classes that '
            'occur neither in truth nor prediction have none.',
            {f'{main}_per_class': draw_bars(values, f'{main}, %')},
        ),
        confusion_section(
            matrix,
            names,
            'Pixels by true and found class; ignored ones are left out.',
        ),
        Section(
            'Worst pictures',
            'Those with the lowest mean IoU of the classes in them; truth left, '
            'prediction right.',
            pictures=_pictures(worst, names, colours),
            data={'worst pictures': [one.path for _, one in worst]},
        ),
    ]
    return Report(rows, {'': sections})


def count_pixels(outcomes: Sequence[Segmented], classes: int) -> ndarray:
    """Count pixels (classes, classes) by true and found class."""
    matrix = np.zeros((classes, classes), dtype=np.int64)
    for one in outcomes:
        np.add.at(matrix, tuple(one.pairs.T), one.counts)
    return matrix


def worst_maps(
    outcomes: Sequence[Segmented], classes: int
) -> list[tuple[float, Segmented]]:
    """Return the pictures with the lowest mean IoU of the classes in them, and it."""
    ranked = []
    for place, one in enumerate(outcomes):
        matrix = count_pixels([one], classes)
        hits = np.diag(matrix)
        unions = matrix.sum(0) + matrix.sum(1) - hits
        if unions.any():  # else all of it is ignored
            known = unions > 0
            ranked.append((float((hits[known] / unions[known]).mean()), place))
    return [(iou, outcomes[place]) for iou, place in sorted(ranked)[:MOST_PICTURES]]


def _pictures(
    worst: Sequence[tuple[float, Segmented]], names: Sequence[str], colours: ndarray
) -> dict[str, ndarray]:
    drawn = {}
    for iou, one in worst:
        read = fitted(one.path)
        if read is None:
            continue
        picture, _ = read
        maps = [fitted_map(_labels(content), picture.shape) for content in one.maps]
        present = [int(k) for k in np.unique(maps) if k != NO_TRUTH]
        name = Path(one.path).name
        drawn[f'{name}, mean IoU {100 * iou:.1f} %'] = arrange(
            [[_drawn(picture, labels, colours) for labels in maps]],
            ['truth', 'found'],
            name,
            {names[k]: colours[k] for k in present},
        )
    return drawn


def _labels(content: bytes) -> ndarray:
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)


def _drawn(picture: ndarray, labels: ndarray, colours: ndarray) -> ndarray:
    """Draw labels; `draw_segmentation` leaves out 255, which may be a class."""
    known = labels != NO_TRUTH
    # Classes are numbered anew by what is there, to keep clear of 255.
    present, places = np.unique(labels[known], return_inverse=True)
    shown = np.full(labels.shape, IGNORED)
    shown[known] = places.reshape(-1)
    return draw_segmentation(picture, shown, colours[present])
