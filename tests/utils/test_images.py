"""Which files of a folder are pictures."""

from pathlib import Path

import pytest
from PIL import Image, features

from mmpoolformer.utils.images import SUFFIXES, find_pictures, open_picture

KINDS = {
    '.apng': 'PNG',
    '.BMP': 'BMP',
    '.gif': 'GIF',
    '.JFIF': 'JPEG',
    '.jpe': 'JPEG',
    '.JPEG': 'JPEG',
    '.mpo': 'MPO',
    '.pgm': 'PPM',
    '.tif': 'TIFF',
    '.TIFF': 'TIFF',
    '.webp': 'WEBP',
}
if features.check('avif'):
    KINDS['.avif'] = 'AVIF'


@pytest.mark.parametrize('suffix', KINDS)
def test_every_ending_of_what_can_be_read_is_found(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f'a{suffix}'
    Image.new('RGB', (8, 8)).save(path, KINDS[suffix])
    assert find_pictures([str(tmp_path)]) == [str(path)]
    assert open_picture(path).size == (8, 8)


@pytest.mark.parametrize('suffix', ['.eps', '.pdf', '.tga', '.jp2', '.pfm', '.txt'])
def test_other_endings_are_not(tmp_path: Path, suffix: str) -> None:
    assert suffix not in SUFFIXES
    (tmp_path / f'a{suffix}').touch()
    with pytest.raises(ValueError, match='no picture there'):
        find_pictures([str(tmp_path)])
