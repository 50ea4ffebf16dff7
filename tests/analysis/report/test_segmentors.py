"""The report of a segmentor, by hand."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from mmpoolformer.analysis.report.segmentors import explain_segmentor
from mmpoolformer.engine import outcomes
from mmpoolformer.engine.per_class import PerClass


def test_regions_have_the_colours_of_the_data_set(tmp_path: Path) -> None:
    path = tmp_path / 'black.png'
    Image.new('RGB', (40, 20)).save(path)
    labels = np.repeat(np.array([[0, 1]], np.uint16), 20, axis=0).repeat(20, axis=1)
    truth, found = (cv2.imencode('.png', one)[1].tobytes() for one in (labels, labels))
    pairs, counts = np.array([[0, 0], [1, 1]]), np.array([400, 400])
    rows = [{'class': name, 'IoU': 100.0} for name in ('sky', 'sea')]
    tested = outcomes.Tested(
        'mmseg',
        {'mIoU': 100.0},
        PerClass(tables={'pixels': rows}),
        [outcomes.Segmented(str(path), pairs, counts, (truth, found))],
        {'classes': ('sky', 'sea'), 'palette': [[201, 3, 7], [5, 9, 203]]},
    )
    worst = explain_segmentor(tested).sections[''][-1]
    (drawing,) = worst.pictures.values()
    shades = {tuple(colour) for colour in drawing.reshape(-1, 3).tolist()}
    assert {(201, 3, 7), (5, 9, 203)} <= shades  # as the legend has them
    # On a black picture what is drawn is a part of each colour.
    blue = drawing[..., 2].astype(int) - drawing[..., 0]
    assert (blue > 50).sum() > 100 < (blue < -50).sum()
