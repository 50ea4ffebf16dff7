"""Registers the data sets for one's own folders, for the packages that are there.

mmpoolformer.registry names this module as a location, so it is imported as soon as
a config asks for `mmpoolformer.CocoFolderDataset` or a relative of it.
"""

from importlib import import_module
from importlib.util import find_spec

for package, module in (('mmdet', 'coco_folder'), ('mmseg', 'seg_folder')):
    if find_spec(package) is not None:
        import_module(f'mmpoolformer.data.{module}')
