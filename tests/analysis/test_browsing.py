"""Pictures of any number of channels are shown as RGB."""

import numpy as np
import pytest
import torch

from mmpoolformer.analysis.browsing import _annotated_late, _pixels


@pytest.mark.parametrize(('channels', 'top'), [(3, 255), (4, 255), (4, 65535), (1, 9)])
def test_any_number_of_channels_is_shown(channels: int, top: int) -> None:
    values = torch.linspace(0, top, channels * 4).view(channels, 2, 2)
    shown = _pixels(values, torch.zeros(channels), torch.ones(channels))
    assert shown.shape == (2, 2, 3)
    assert shown.dtype == np.uint8
    bands = [0, 1, 2] if channels >= 3 else [0, 0, 0]
    expected = values[bands].numpy()
    if top > 255:
        expected = expected * 255 / expected.max()
    np.testing.assert_array_equal(shown, np.rint(expected).transpose(1, 2, 0))


def test_annotations_read_late_are_found_in_joined_data_sets() -> None:
    steps = [{'type': name} for name in ('LoadImage', 'Resize', 'LoadAnnotations')]
    early, late = ({'pipeline': pipeline} for pipeline in (steps[::-1], steps))
    for dataset, expected in ((early, False), (late, True)):
        joined = {'type': 'ConcatDataset', 'datasets': [dataset, dataset]}
        assert _annotated_late(dataset) is expected
        assert _annotated_late({'type': 'RepeatDataset', 'dataset': joined}) is expected
