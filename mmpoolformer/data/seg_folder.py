"""An ADE20K-layout folder of one's own for mmseg, with its classes read from a file."""

from pathlib import Path

from mmseg.datasets import BaseSegDataset

from mmpoolformer.registry import DATASETS


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
            raise ValueError(
                f'{folder}: no *{self.img_suffix} there; set img_suffix (with the '
                'own-folder config IMG_SUFFIX=.png or the like before the command)'
            )
        maps = [info['seg_map_path'] for info in data_list if 'seg_map_path' in info]
        missing = [path for path in maps if not Path(path).is_file()]
        if missing:
            raise ValueError(
                f'{len(missing)} of {len(maps)} annotation pictures do not exist, '
                f'first {missing[0]}'
            )
        return data_list
