"""The old place of `mmpoolformer.data.classification`, for programs that name it."""

from mmpoolformer.data.classification import TimmDataset, find_split, folder_classes

__all__ = ['TimmDataset', 'find_split', 'folder_classes']
