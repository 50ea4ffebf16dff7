"""The old place of `mmpoolformer.utils.images`, for programs that name it."""

from mmpoolformer.utils.images import PictureError, convert_picture, open_picture

__all__ = ['PictureError', 'convert_picture', 'open_picture']
