"""The two families of OpenMMLab packages: one table for all that depends on them.

The originals (``mmengine``, ``mmcv``, ...) and the maintained forks
(``onedl-mmengine``, ...) unpack into the same folders, so installing one over the
other breaks both. ``setup.py`` and ``tools/setup_env.py`` run this file by its path,
before anything is installed: it imports the standard library only. The exact, tested
versions of each stack are in ``requirements/NAME.txt``.
"""

from typing import NamedTuple


class Stack(NamedTuple):
    """One family of OpenMMLab packages and what holds for it.

    ``packages`` gives the distribution of each module; ``requires`` the ranges that
    ``setup.py`` states for the base and its extras; ``build`` what compiles mmcv.
    """

    newest_python: tuple[int, int]
    why_newest: str
    packages: dict[str, str]
    requires: dict[str, list[str]]
    build: tuple[str, ...]


STACKS = {
    'forks': Stack(
        newest_python=(3, 13),
        why_newest='numpy 2.2 has no wheels for newer ones',
        packages={
            'mmengine': 'onedl-mmengine',
            'mmcv': 'onedl-mmcv',
            'mmdet': 'onedl-mmdetection',
            'mmseg': 'onedl-mmsegmentation',
        },
        requires={
            'engine': ['onedl-mmengine>=0.10.8'],
            'det': ['onedl-mmcv>=2.3', 'onedl-mmdetection>=3.4', 'pycocotools>=2.0.11'],
            'seg': ['onedl-mmcv>=2.3', 'onedl-mmsegmentation>=1.3', 'ftfy', 'regex'],
        },
        build=('setuptools>=80,<82', 'wheel', 'ninja', 'psutil'),
    ),
    'originals': Stack(
        newest_python=(3, 11),
        why_newest='torch 2.1.2 has no wheels for newer ones',
        packages={
            'mmengine': 'mmengine',
            'mmcv': 'mmcv',
            'mmdet': 'mmdet',
            'mmseg': 'mmsegmentation',
        },
        requires={
            'engine': ['mmengine>=0.10.0'],
            'det': ['mmcv>=2.1,<2.2', 'mmdet>=3.3,<4', 'pycocotools>=2.0.11'],
            'seg': ['mmcv>=2.1,<2.2', 'mmsegmentation>=1.2.2,<2', 'ftfy', 'regex'],
        },
        build=('setuptools<80', 'wheel', 'ninja', 'psutil'),
    ),
}

# Distributions that bring ``cv2``: all unpack into the same folder.
OPENCVS = (
    'opencv-python-headless',
    'opencv-python',
    'opencv-contrib-python-headless',
    'opencv-contrib-python',
)
