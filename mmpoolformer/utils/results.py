"""What models see in pictures."""

from dataclasses import dataclass, replace

import numpy as np
from numpy import ndarray

CLASSIFICATION = 'classification'
DETECTION = 'detection'
INSTANCES = 'instance segmentation'
SEGMENTATION = 'semantic segmentation'


@dataclass(frozen=True)
class Classes:
    """What a classifier sees.

    Attributes:
        labels: Numbers of all classes, the likeliest one first, (K,).
        scores: Their probabilities, float32 (K,).
    """

    labels: ndarray
    scores: ndarray


@dataclass(frozen=True)
class Regions:
    """What a segmentor sees.

    Attributes:
        labels: Number of the class of each pixel, (H, W).
    """

    labels: ndarray


@dataclass(frozen=True)
class Detections:
    """Objects of one image, found or true.

    Attributes:
        boxes: (N, 4).
        labels: Class numbers, (N,).
        scores: Confidence, (N,), or None for the truth.
        masks: bool (N, H, W), or None.
    """

    boxes: ndarray
    labels: ndarray
    scores: ndarray | None = None
    masks: ndarray | None = None

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together."""
        boxes = np.asarray(self.boxes, dtype=float).reshape(-1, 4)
        object.__setattr__(self, 'boxes', boxes)
        for name in ('labels', 'scores', 'masks'):
            value = getattr(self, name)
            if value is not None and len(value) != len(boxes):
                raise ValueError(f'{len(boxes)} boxes but {len(value)} {name}')

    def above(self, threshold: float) -> 'Detections':
        """Return those that score at least `threshold`; all where none has a score."""
        if self.scores is None:
            return self
        return self.ordered(np.flatnonzero(np.asarray(self.scores) >= threshold))

    def ordered(self, places: ndarray) -> 'Detections':
        """Return those at some places, in that order."""
        parts = {name: getattr(self, name) for name in ('labels', 'scores', 'masks')}
        parts = {n: None if p is None else p[places] for n, p in parts.items()}
        return replace(self, boxes=self.boxes[places], **parts)


@dataclass(frozen=True)
class Result:
    """What a model sees in one picture.

    Attributes:
        name: The picture's path; empty for pictures that were given as such.
        picture: The picture as it was read, upright, RGB, uint8 (H, W, 3).
        found: By the model's task; boxes are in the picture's pixels.
        problem: Why nothing was found; empty if the picture could be read.
    """

    name: str = ''
    picture: ndarray | None = None
    found: Classes | Detections | Regions | None = None
    problem: str = ''
