"""Sizes after resizing: as mmcv's own transforms come to them."""

import cv2
import numpy as np
import pytest
from mmcv.transforms import RandomChoiceResize, RandomResize, Resize
from mmengine.config import Config
from torch.utils.data import DataLoader, Dataset

from mmpoolformer.data.checks.resizing import smallest_scales, vanishes
from mmpoolformer.engine import launch
from mmpoolformer.utils.errors import UserError

KEPT = {'keep_ratio': True}
STEPS = {
    'Resize': (Resize, {'scale': (1333, 800), **KEPT}),
    'one number': (Resize, {'scale': 64, **KEPT}),
    'factor': (Resize, {'scale_factor': 0.25, **KEPT}),
    'factors': (Resize, {'scale_factor': (0.5, 0.25), **KEPT}),
    'RandomResize': (RandomResize, {'scale': (640, 80), 'ratio_range': (1, 1), **KEPT}),
    'two scales': (RandomResize, {'scale': [(640, 80), (640, 80)], **KEPT}),
    'choice': (RandomChoiceResize, {'scales': [(640, 80)], **KEPT}),
}
SIZES = [(1, w) for w in (100, 639, 1279, 1280, 1281, 2665, 2666, 2667, 4000)]
SIZES += [(w, 1) for w in (1, 127, 128, 129, 2667)] + [(3, 3840), (3, 3841), (3, 3)]


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('case', STEPS)
def test_what_vanishes_is_what_mmcv_can_not_resize(case: str, size: tuple) -> None:
    kind, options = STEPS[case]
    (scale,) = smallest_scales([{'type': kind.__name__, **options}])
    width, height = size
    results = {'img': np.zeros((height, width, 3), np.uint8)}
    results['img_shape'] = results['img'].shape[:2]
    try:
        kind(**options)(results)
        fails = False
    except (cv2.error, ZeroDivisionError):
        fails = True
    assert vanishes(size, scale) == fails


@pytest.mark.parametrize('kind', [Resize, 'Resize', 'mmcv.Resize'])
def test_a_step_is_given_by_its_name_or_class(kind: type | str) -> None:
    assert smallest_scales([{'type': kind, 'scale': 64, **KEPT}]) == [(64, 64)]


def test_pipelines() -> None:
    load, pack = {'type': 'LoadImageFromFile'}, {'type': 'mmdet.PackDetInputs'}
    resize = {'type': 'mmdet.Resize', 'scale': (1333, 800), **KEPT}
    flip, crop = {'type': 'RandomFlip'}, {'type': 'RandomCrop'}
    random = {'type': 'RandomResize', 'scale': (512, 64), 'ratio_range': (0.5, 2)}
    assert smallest_scales([load, flip, resize, pack]) == [(1333, 800)]
    assert smallest_scales([load, {**random, **KEPT}]) == [(256, 32)]
    assert smallest_scales([load, random]) == []  # to exactly this size
    assert smallest_scales([load, crop, resize]) == []  # not known what is left
    assert smallest_scales([load, pack]) == []
    choice = {'type': 'RandomChoice', 'transforms': [[resize], [crop, resize]]}
    assert smallest_scales([load, choice]) == [(1333, 800)]


class Lines(Dataset):
    """Pictures of one row that are made smaller."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict:
        results = {'img': np.zeros((1, 4000, 3), np.uint8), 'img_shape': (1, 4000)}
        return Resize(scale=(1333, 800), keep_ratio=True)(results)


@pytest.mark.parametrize('workers', [0, 1])
def test_a_test_ends_with_one_line(
    monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    def start(job: launch.Testing, config: Config) -> None:
        list(DataLoader(Lines(), num_workers=workers, collate_fn=list))

    monkeypatch.setattr(launch, '_test', start)
    monkeypatch.setattr(launch.settings, 'load_config', lambda *_, **__: Config({}))
    with pytest.raises(UserError, match=r'OpenCV failed on a picture.*check-data') as e:
        launch.test(launch.Testing(config='', checkpoint=''))
    assert '\n' not in str(e.value)
