"""What a report is made of, whatever the task."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.figure import Figure
from numpy import ndarray
from PIL import Image

from mmpoolformer.analysis.report.figures import draw_calibration, draw_confusion
from mmpoolformer.analysis.report.measures import calibrate, top_confusions
from mmpoolformer.utils.images import PictureError, open_picture
from mmpoolformer.utils.results import Detections
from mmpoolformer.visual.drawing import fitted_map

MOST_PICTURES = 8
SIDE = 480  # of drawn pictures, in pixels


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        title: Its heading.
        text: What is seen, in a few sentences.
        figures: By the names of their files.
        table: Rows, of which the first one's keys are the head.
        pictures: RGB, uint8 (H, W, 3), by their captions.
        data: Numbers behind it, for `report.json`.
    """

    title: str
    text: str = ''
    figures: dict[str, Figure] = field(default_factory=dict)
    table: Sequence[dict] = ()
    pictures: dict[str, ndarray] = field(default_factory=dict)
    data: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """A report before it is written.

    Attributes:
        per_class: Figures of each class.
        sections: The parts that explain them, by what they are of: `box` and `mask`, or
            nothing.
    """

    per_class: list[dict]
    sections: dict[str, list[Section]]

    def data(self) -> dict:
        """Return the numbers behind the sections, for `report.json`."""
        data = {
            kind: {key: part.data[key] for part in parts for key in part.data}
            for kind, parts in self.sections.items()
        }
        return data.get('', data)


def confusion_section(matrix: ndarray, names: list[str], text: str) -> Section:
    """Show counts (K, K) by true and found class."""
    return Section(
        'Confusion',
        text,
        {'confusion': draw_confusion(matrix, names)},
        top_confusions(matrix, names),
        data={'confusion': {'classes': names, 'counts': matrix}},
    )


def calibration_section(
    scores: ndarray, right: ndarray, what: str, text: str
) -> Section:
    """Compare scores (N,) with what is right, bool (N,); `what` names its share."""
    found = calibrate(scores, right)
    return Section(
        'Calibration of scores',
        text,
        {'calibration': draw_calibration(found, what)},
        found.rows(),
        data={'calibration': {'error': found.error, 'rows': found.rows()}},
    )


def fitted(path: str) -> tuple[ndarray, float] | None:
    """Read a picture and bring its longer side to `SIDE` pixels.

    Returns:
        RGB, uint8 (H, W, 3), and its pixels per pixel of the file; None where it is no
        file that can be read, such as one in a tar file.
    """
    try:
        picture = open_picture(path)
    except (OSError, PictureError):
        return None
    scale = SIDE / max(picture.size)
    size = tuple(max(1, round(scale * side)) for side in picture.size)
    return np.array(picture.resize(size, Image.Resampling.BILINEAR)), scale


def fitted_objects(found: Detections, shape: Sequence[int], scale: float) -> Detections:
    """Bring boxes and masks to the size of a fitted picture."""
    masks = found.masks
    if masks is not None:
        masks = np.stack([fitted_map(one, shape) for one in masks])
    return Detections(scale * found.boxes, found.labels, found.scores, masks)
