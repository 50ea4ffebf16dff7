"""Figures of each class that metrics keep, by hand."""

import math

import pytest
import torch
from mmengine.evaluator import Evaluator

from mmpoolformer.classification.metric import Accuracy
from mmpoolformer.engine.per_class import keep_per_class


@pytest.mark.parametrize('names', [('ant', 'bee', 'cat'), None])
def test_top1_of_each_class_is_a_count(names: tuple | None) -> None:
    evaluator = Evaluator(Accuracy())
    evaluator.dataset_meta = names and {'classes': names}
    kept = keep_per_class(evaluator)
    # (true, found); the last has no class, as skipped pictures.
    pairs = [(0, 0), (0, 2), (0, 0), (1, 0), (-1, 1)]
    evaluator.process(
        [
            {'pred_scores': torch.eye(3)[found], 'gt_label': true}
            for true, found in pairs
        ]
    )
    assert evaluator.evaluate(5)['accuracy/top1'] == 50
    rows = kept.tables['pictures']
    expected = list(names) if names else ['0', '1']
    assert [row['class'] for row in rows] == expected
    assert [row['pictures'] for row in rows][:2] == [3, 1]
    assert [row['top1'] for row in rows][:2] == [pytest.approx(200 / 3), 0]
    if names:
        assert rows[2]['pictures'] == 0
        assert math.isnan(rows[2]['top1'])
