"""What models see in pictures."""

from dataclasses import dataclass

from numpy import ndarray

from mmpoolformer.visual.drawing import Detections

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
