"""Files of class names, one per line, as other programs write them."""

from pathlib import Path

import pytest

from mmpoolformer.data.class_names import read_class_names, read_json


@pytest.mark.parametrize(
    'content',
    [
        b'ant\nBee\ncat fish\n',
        b'ant\nBee\ncat fish',
        b'\xef\xbb\xbfant\r\nBee\r\ncat fish\r\n\r\n',
        b'ant \n\tBee\ncat fish\n \n',
    ],
    ids=['unix', 'no end of line', 'windows with a byte order mark', 'spaces'],
)
def test_names_in_the_order_of_lines(tmp_path: Path, content: bytes) -> None:
    (tmp_path / 'names.txt').write_bytes(content)
    assert read_class_names(tmp_path / 'names.txt') == ('ant', 'Bee', 'cat fish')


def test_names_of_any_script(tmp_path: Path) -> None:
    (tmp_path / 'names.txt').write_text('猫\nchâteau\n', encoding='utf-8')
    assert read_class_names(str(tmp_path / 'names.txt')) == ('猫', 'château')


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'ant\nbee\nant\n', r"duplicate class 'ant' \(lines 1, 3\)"),
        (b'ant\nbee\nbee \n', r"duplicate class 'bee' \(lines 2, 3\)"),
        (b'ant\n\nbee\n', 'line 2 is empty'),
        (b'\nant\nbee\n', 'line 1 is empty'),
        (b'', 'no class names'),
        (b'\xef\xbb\xbf\n \n', 'no class names'),
        ('ant\nbee\n'.encode('utf-16'), 'not UTF-8 text'),
        (b'ch\xe2teau\n', 'not UTF-8 text'),
    ],
)
def test_what_would_shift_labels_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / 'names.txt'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf'{path}: {message}'):
        read_class_names(path)


def test_other_annotation_files_beside_a_missing_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'train\.json: no such file$'):
        read_json(tmp_path / 'train.json')
    (tmp_path / 'instances_default.json').write_text('{}')  # as CVAT calls it
    with pytest.raises(ValueError, match=rf'file; {tmp_path} has instances_default'):
        read_json(tmp_path / 'train.json')


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'names\.txt: no such file'):
        read_class_names(tmp_path / 'names.txt')
