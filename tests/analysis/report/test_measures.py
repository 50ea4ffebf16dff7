"""Calibration and the best threshold, by hand."""

import numpy as np
import pytest

from mmpoolformer.analysis.report.measures import (
    best_threshold,
    calibrate,
    top_confusions,
)


def test_calibration_is_the_gap_of_scores_and_shares() -> None:
    scores = np.array([0.05, 0.55, 0.55, 0.59, 0.59, 0.95, 1.0])
    right = np.array([0, 1, 0, 0, 0, 1, 1], dtype=bool)
    found = calibrate(scores, right)
    assert found.counts.tolist() == [1, 0, 0, 0, 0, 4, 0, 0, 0, 2]
    assert found.right[[0, 5, 9]] == pytest.approx([0, 0.25, 1])
    gap = (1 * 0.05 + 4 * (0.57 - 0.25) + 2 * (1 - 0.975)) / 7
    assert found.error == pytest.approx(gap)
    assert [row['score'] for row in found.rows()] == [
        *('0.0 - 0.1', '0.5 - 0.6', '0.9 - 1.0'),
    ]


def test_scores_that_are_shares_have_no_error() -> None:
    scores = np.repeat([0.25, 0.75], 400)
    right = np.concatenate([np.arange(400) < 100, np.arange(400) < 300])
    assert calibrate(scores, right).error == pytest.approx(0, abs=1e-12)
    assert calibrate(np.zeros(0), np.zeros(0, dtype=bool)).error == 0


def test_best_threshold_is_that_of_a_search() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 8, 60) / 8  # many are equal
    hits = rng.random(60) < scores
    tried = {
        t: 2 * hits[scores >= t].sum() / ((scores >= t).sum() + 50)
        for t in np.unique(scores)
    }
    threshold, f1 = best_threshold(scores, hits, 50)
    assert f1 == pytest.approx(max(tried.values()))
    assert tried[threshold] == pytest.approx(f1)
    assert best_threshold(np.zeros(0), np.zeros(0, dtype=bool), 3) == (0, 0)


def test_top_confusions_leave_out_what_is_right() -> None:
    matrix = np.array([[9, 1, 0], [4, 0, 0], [0, 3, 1]])
    rows = top_confusions(matrix, ['a', 'b', 'c'])
    assert [tuple(row.values()) for row in rows] == [
        *[('b', 'a', 4, '100.0%'), ('c', 'b', 3, '75.0%'), ('a', 'b', 1, '10.0%')],
    ]
