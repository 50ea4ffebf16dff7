"""The report of a classifier."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmpoolformer.analysis.report.figures import MOST_BARS, draw_bars
from mmpoolformer.analysis.report.parts import (
    MOST_PICTURES,
    Report,
    Section,
    calibration_section,
    confusion_section,
    fitted,
)
from mmpoolformer.data.classification import NO_CLASS
from mmpoolformer.engine.outcomes import Classified, Tested


def explain_classifier(tested: Tested) -> Report:
    """Explain the accuracy that was measured."""
    known = [one for one in tested.outcomes if one.truth != NO_CLASS]
    rows = [dict(row) for row in tested.per_class.tables['pictures']]
    count = max(len(rows), 1 + max(one.found for one in known))
    names = [row['class'] for row in rows] + [str(i) for i in range(len(rows), count)]
    truth, found = np.array([(one.truth, one.found) for one in known]).T
    matrix = np.zeros((count, count), dtype=int)
    np.add.at(matrix, (truth, found), 1)
    worst = worst_classified(known)
    top1 = {row['class']: row['top1'] for row in rows}
    sections = [
        Section(
            'Top-1 of each class',
            f'In percent, the lowest {MOST_BARS} where there are more.',
            {'top1_per_class': draw_bars(top1, 'top-1, %')},
        ),
        confusion_section(matrix, names, 'Pictures by true and found class.'),
        calibration_section(
            np.array([one.score for one in known]),
            truth == found,
            'share right',
            'The share of pictures whose class is right, by the score of that class. '
            'Below the diagonal the model is too sure.',
        ),
        Section(
            'Worst pictures',
            'Wrong ones with the highest scores.',
            pictures=_pictures(worst, names),
            data={'worst pictures': [one.path for one in worst]},
        ),
    ]
    return Report(rows, {'': sections})


def worst_classified(outcomes: Sequence[Classified]) -> list[Classified]:
    """Return the pictures that are wrong, with the highest scores."""
    wrong = [one for one in outcomes if one.found != one.truth]
    return sorted(wrong, key=lambda one: -one.score)[:MOST_PICTURES]


def _pictures(worst: Sequence[Classified], names: Sequence[str]) -> dict:
    drawn = {}
    for one in worst:
        read = fitted(one.path)
        if read is not None:
            text = f'{names[one.found]} {one.score:.2f}, is {names[one.truth]}'
            drawn[f'{Path(one.path).name}: {text}'] = read[0]
    return drawn
