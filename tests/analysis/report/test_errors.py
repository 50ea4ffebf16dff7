"""Kinds of errors, confusion and what they cost, by hand and by pycocotools."""

import numpy as np
import pytest

pytest.importorskip('pycocotools')

from coco_scenes import evaluate, shaken

from mmpoolformer.analysis.report.detectors import worst_scenes
from mmpoolformer.analysis.report.errors import error_table, judge, mean_precision
from mmpoolformer.analysis.report.matching import confusion, read_scenes
from mmpoolformer.analysis.report.measures import average_precision

A, B = 0, 1
BOX, NEAR, FAR = (20, 20, 60, 60), (52, 20, 60, 60), (120, 120, 60, 60)  # IoU 0.3, 0
OBJECTS = [(1, A, BOX), (2, A, BOX), (3, A, BOX), (4, B, BOX), (5, A, BOX), (6, B, BOX)]
DETECTIONS = [
    *[(1, A, BOX, 0.9), (1, A, BOX, 0.8)],  # and a duplicate
    (2, B, BOX, 0.7),  # class
    # Nothing in picture 3: missed.
    *[(4, B, BOX, 0.6), (4, A, NEAR, 0.1)],  # and both
    (5, A, BOX, 0.75),
    *[(6, B, NEAR, 0.3), (6, B, FAR, 0.2)],  # localisation, background
]


@pytest.fixture(scope='module')
def by_hand() -> object:
    return evaluate(OBJECTS, DETECTIONS, ('a', 'b'))


def test_each_kind_is_known_and_costs_what_it_costs(by_hand: object) -> None:
    rows = error_table(judge(read_scenes(by_hand), 2))
    found = {row['error']: (row['count'], row['AP50 gained']) for row in rows}
    # Of 101 recalls, 26 are up to 1/4, 34 up to 1/3, 51 up to 1/2, 67 up to 2/3.
    a, b = (26 + 25 * 2 / 3) / 101, 51 / 2 / 101
    expected = {
        'class': (26 + 50 * 3 / 4) / 101
        - a
        + 51 / 101
        - b,  # found, and out of the way
        'localisation': 2 / 3 - b,
        'both': 0,
        'duplicate': 51 / 101 - a,
        'background': 0,
        'missed': (34 + 33 * 2 / 3) / 101 - a,
    }
    for kind, gain in expected.items():
        assert found[kind] == (1, pytest.approx(gain / 2, abs=1e-4)), kind


@pytest.mark.parametrize('seed', range(3))
def test_precision_is_that_of_pycocotools(seed: int) -> None:
    evaluation = evaluate(*shaken(seed), ('a', 'b', 'c', 'd'))
    judged = judge(read_scenes(evaluation), 4)
    assert mean_precision(judged) == pytest.approx(evaluation.stats[1], abs=1e-12)
    curves = evaluation.eval['precision'][0, :, :, 0, -1]
    for k in range(4):
        own = judged.labels == k
        found = average_precision(
            judged.scores[own], judged.hits[own], judged.objects[k]
        )
        assert found == pytest.approx(curves[:, k].mean(), abs=1e-12)


def test_every_wrong_detection_has_a_kind() -> None:
    judged = judge(read_scenes(evaluate(*shaken(3), 'abcd')), 4)
    assert ((judged.kinds >= 0) == ~judged.hits).all()
    assert set(judged.kinds) == set(range(-1, 5))
    # What can be fixed, was missed, or was found: every object is one of the three.
    can_be_found = np.bincount(judged.fixed[judged.fixed >= 0], minlength=4)
    found = np.bincount(judged.labels[judged.hits], minlength=4)
    np.testing.assert_array_equal(can_be_found + judged.missed + found, judged.objects)


@pytest.mark.parametrize(('more', 'gain'), [([], 0.5), ([(1, B, BOX, 0.1)], 0)])
def test_a_class_that_is_wholly_missed(more: list, gain: float) -> None:
    # Nothing is left of it to find: without detections it then counts no longer.
    objects, found = [(1, A, BOX), (1, B, FAR)], [(1, A, BOX, 0.5), *more]
    judged = judge(read_scenes(evaluate(objects, found, 'ab')), 2)
    assert mean_precision(judged) == 0.5
    assert error_table(judged)[-1]['AP50 gained'] == gain


@pytest.mark.parametrize(
    ('threshold', 'expected'),
    [
        # Rows: truth a, b, background; the duplicate is found in the background.
        (0.15, [[2, 1, 1], [0, 1, 1], [1, 2, 0]]),
        (0.65, [[2, 1, 1], [0, 0, 2], [1, 0, 0]]),
        (0.95, [[0, 0, 4], [0, 0, 2], [0, 0, 0]]),
    ],
)
def test_confusion_is_a_count(by_hand, threshold: float, expected: list) -> None:
    found = confusion(read_scenes(by_hand), 2, threshold)
    np.testing.assert_array_equal(found, expected)


def test_confusion_pairs_the_nearest_first() -> None:
    shifted = [(20 + d, 20, 60, 60) for d in (4, 12)]
    detections = [(1, B, shifted[1], 0.9), (1, B, shifted[0], 0.5), (1, B, FAR, 0.4)]
    scenes = read_scenes(evaluate([(1, A, BOX)], detections, 'ab'))
    np.testing.assert_array_equal(
        confusion(scenes, 2, 0.0), [[0, 1, 0], [0, 0, 0], [0, 2, 0]]
    )


def test_crowds_and_what_lies_in_them_do_not_count(by_hand: object) -> None:
    evaluation = evaluate(OBJECTS, DETECTIONS, ('a', 'b'))
    evaluation.cocoGt.anns[6]['iscrowd'] = 1
    evaluation.cocoGt.anns[6]['bbox'] = [0, 0, 200, 200]
    evaluation.evaluate()
    last = read_scenes(evaluation)[-1]
    assert last.image == 6
    assert len(last.objects) == len(last.labels) == 0


def test_worst_pictures_have_the_lowest_f1(by_hand: object) -> None:
    worst = worst_scenes(read_scenes(by_hand), 0.25)
    assert [(round(f1, 3), one.image) for f1, one in worst] == [
        *[(0.0, 2), (0.0, 6), (0.0, 3)],  # two errors, two, one
        (0.667, 1),
    ]
