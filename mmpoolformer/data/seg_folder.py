"""An ADE20K-layout folder of one's own for mmseg, with its classes read from a file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.datasets import BaseSegDataset

from mmpoolformer.registry import DATASETS, TRANSFORMS

IGNORE = 255


@DATASETS.register_module()
class SegFolderDataset(BaseSegDataset):
    """mmseg's BaseSegDataset, which checks that pictures and annotations are there.

    Options are those of `mmseg.datasets.BaseSegDataset`.

    Raises:
        ValueError: If there is no picture, or one without its annotation.
    """

    def load_data_list(self) -> list[dict]:
        """List pictures with their annotations."""
        folder = Path(self.data_prefix['img_path'])
        if not folder.is_dir():
            raise ValueError(f'{folder}: no such folder of pictures')
        data_list = super().load_data_list()
        if not data_list:
            raise ValueError(f'{folder}: no *{self.img_suffix} there; set img_suffix')
        maps = [info['seg_map_path'] for info in data_list if 'seg_map_path' in info]
        missing = [path for path in maps if not Path(path).is_file()]
        if missing:
            raise ValueError(
                f'{len(missing)} of {len(maps)} annotation pictures do not exist, '
                f'first {missing[0]}'
            )
        return data_list


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
