"""A COCO-format folder of one's own for mmdet, with its classes read from the file."""

from pathlib import Path
from typing import ClassVar

from mmdet.datasets import CocoDataset

from mmpoolformer.data.class_names import coco_classes
from mmpoolformer.registry import DATASETS


@DATASETS.register_module()
class CocoFolderDataset(CocoDataset):
    """mmdet's CocoDataset, with the class names of the annotation file itself.

    Options are those of `mmdet.datasets.CocoDataset`. `metainfo=dict(classes=...)`
    still chooses some of the classes.

    Raises:
        ValueError: If a class isn't in the annotation file, a picture that the file
            names isn't in the image folder, or no picture is left to use.
    """

    METAINFO: ClassVar[dict] = {}  # not COCO's 80 classes

    def load_data_list(self) -> list[dict]:
        """Load the annotations after the class names, and check the pictures."""
        found = coco_classes(self.ann_file)
        chosen = self._metainfo.setdefault('classes', found)
        unknown = sorted(set(chosen) - set(found))
        if unknown:
            raise ValueError(
                f'{self.ann_file}: has no classes {unknown}; it has {list(found)}'
            )
        data_list = super().load_data_list()
        self._check_pictures([info['img_path'] for info in data_list])
        return data_list

    def filter_data(self) -> list[dict]:
        """Drop what `filter_cfg` tells to drop; at least one picture must stay."""
        kept = super().filter_data()
        if not kept:
            raise ValueError(
                f'{self.ann_file}: none of its {len(self.data_list)} pictures has an '
                f'annotation of the classes {list(self.metainfo["classes"])}'
            )
        return kept

    def _check_pictures(self, paths: list[str]) -> None:
        missing = [path for path in paths if not Path(path).is_file()]
        if missing:
            raise ValueError(
                f'{len(missing)} of the {len(paths)} pictures that {self.ann_file} '
                f'names do not exist, first {missing[0]}; set data_prefix.img to the '
                'folder that "file_name" is relative to'
            )
