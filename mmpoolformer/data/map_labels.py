"""From the values of an annotation picture to labels."""

from collections.abc import Sequence

import numpy as np
from mmcv.transforms import BaseTransform

from mmpoolformer.registry import TRANSFORMS

IGNORE = 255


@TRANSFORMS.register_module()
class MapLabels(BaseTransform):
    """Turn the values of an annotation picture into labels 0..n-1 and 255.

    Args:
        ids: The value of each class, in the order of the labels.
        ignored: Values that stand for no class; they become 255. Binary masks of 0 and
            255 need `ids=[0, 255]` alone.

    Raises:
        ValueError: If the picture holds a value that is in neither list.
    """

    def __init__(self, ids: Sequence[int], ignored: Sequence[int] = ()) -> None:
        self.unknown = 256
        self.table = np.full(256, self.unknown, dtype=np.int64)
        self.table[list(ignored)] = IGNORE
        self.table[list(ids)] = np.arange(len(ids))

    def transform(self, results: dict) -> dict:
        """Replace `gt_seg_map` (H, W) of results."""
        values = results['gt_seg_map']
        if values.ndim != 2:
            raise ValueError(
                f'{results["seg_map_path"]}: shape {values.shape}, expected (H, W): '
                'one value a pixel, not a coloured picture'
            )
        labels = self.table[values]
        if (labels == self.unknown).any():
            strangers = np.unique(values[labels == self.unknown]).tolist()
            raise ValueError(
                f'{results["seg_map_path"]}: values {strangers} stand for no class; '
                'list them in classes.json, with "ignore": true if they are none'
            )
        results['gt_seg_map'] = labels.astype(np.uint8)
        return results
