"""Bad data of every kind: what is said of it, and that nothing is written or lost.

Each row of a table is one input with one fault. What is sound passes, and is what the
libraries make of it.
"""

import copy
import hashlib
import json
import math
import os
import shutil
import zlib
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import cv2
import mmcv
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmpoolformer.data.checks import detection, part, preflight, segmentation
from mmpoolformer.data.checks.built import check_dataset
from mmpoolformer.data.checks.coco import decode_counts, rle_problem
from mmpoolformer.data.checks.part import Options
from mmpoolformer.data.checks.preflight import (
    check_and_report,
    check_before,
    check_data,
    refuse_errors,
    training_loaders,
)
from mmpoolformer.utils.errors import UserError
from mmpoolformer.utils.nested import leaf_datasets

GONE = object()
WIDTH, HEIGHT = 24, 16
NOISE = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
SQUARE = [4, 4, 12, 4, 12, 12, 4, 12]


def box(number: int, image: int, category: int, **more: object) -> dict:
    return {
        'id': number,
        'image_id': image,
        'category_id': category,
        'bbox': [4, 4, 8, 8],
        'area': 64,
        'iscrowd': 0,
        'segmentation': [SQUARE],
        **more,
    }


def write_coco(folder: Path) -> None:
    """Three pictures of noise with a box each, and the annotation file."""
    (folder / 'images').mkdir(parents=True)
    content = {'images': [], 'annotations': [], 'categories': []}
    for i, name in enumerate('abc', start=1):
        Image.fromarray(NOISE).save(folder / 'images' / f'{name}.png')
        size = {'width': WIDTH, 'height': HEIGHT}
        content['images'].append({'id': i, 'file_name': f'{name}.png', **size})
        content['annotations'].append(box(i, i, 1 + i % 2))
    for number, name in ((1, 'ant'), (2, 'bee')):
        content['categories'].append({'id': number, 'name': name})
    (folder / 'train.json').write_text(json.dumps(content))


def coco_config(folder: Path, **dataset: object) -> Config:
    data = dict(
        type='CocoDataset',
        data_root=str(folder),
        ann_file='train.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=('ant', 'bee')),
        filter_cfg=dict(filter_empty_gt=True, min_size=8),
        pipeline=[dict(type='LoadAnnotations', with_bbox=True, with_mask=True)],
    )
    return Config(
        dict(
            default_scope='mmdet',
            work_dir=str(folder / 'work'),
            model=dict(type='X', bbox_head=dict(type='Y', num_classes=2)),
            train_dataloader=dict(dataset={**data, **dataset}),
        )
    )


def tree(folder: Path) -> dict[str, str]:
    """What a folder holds, by content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob('*')
        if path.is_file()
    }


def assert_refused(config: Config, folder: Path, message: str, **how: object) -> None:
    """Check that the data is refused for this, alone, and that nothing is written."""
    before = tree(folder)
    reports = check_data(config, options=Options(**how))
    assert tree(folder) == before
    with pytest.raises(UserError) as refusal:
        refuse_errors(reports)
    assert message in str(refusal.value)
    assert '\n' not in str(refusal.value)
    assert 'other errors' not in str(refusal.value)
    assert all(len(line) < 80 for r in reports for line in r.lines() if '/' not in line)


def assert_warned(config: Config, message: str, **how: object) -> None:
    """Check that there is this warning, and no error."""
    reports = check_data(config, options=Options(**how))
    refuse_errors(reports)
    warnings = [str(one) for report in reports for one in report.findings.warnings]
    assert any(message in warning for warning in warnings), warnings
    assert (Path(config.work_dir) / preflight.CACHE).is_file()


def changed(content: object, path: tuple, value: object) -> object:
    """Return JSON content with the value at a path replaced, or gone."""
    if not path:
        return value
    key, *rest = path
    new = list(content) if isinstance(content, list) else dict(content)
    if value is GONE and not rest:
        del new[key]
    elif isinstance(new, list) and key == len(new):
        new.append(value)
    else:
        new[key] = changed(new[key] if rest else None, tuple(rest), value)
    return new


RLE_SIZE = 'whose "size" is not height and width'
RLE_SUM = 'that do not add up to the pixels'
IMAGE, NOTE, KIND = ('images', 0), ('annotations', 0), ('categories', 0)
MASK = (*NOTE, 'segmentation')

COCO_ERRORS = {
    'no object': ((), [1, 2], 'the top level is not a JSON object'),
    'no images': (('images',), GONE, 'has no list "images"'),
    'images a dict': (('images',), {}, 'has no list "images"'),
    'no annotations': (('annotations',), None, 'has no list "annotations"'),
    'no categories': (('categories',), [], 'has no category'),
    'no picture': (('images',), [], 'names no picture'),
    'none annotated': (('annotations',), [], 'no image to use'),
    'picture without id': ((*IMAGE, 'id'), GONE, 'without an "id", a whole number'),
    'picture id half': ((*IMAGE, 'id'), 1.5, 'without an "id", a whole number'),
    'picture id a list': ((*IMAGE, 'id'), [1], 'without an "id", a whole number'),
    'picture id a text': ((*IMAGE, 'id'), '1', 'is a text and the picture\'s "id" a n'),
    'other picture id': ((*IMAGE, 'id'), 'x', 'are texts in part and numbers in part'),
    'image_id a text': ((*NOTE, 'image_id'), '1', 'a text and the picture\'s "id" a n'),
    'root category': (
        ('categories', 2),
        {'id': 0, 'name': 'ant', 'supercategory': 'none'},
        'remove the one without annotations from "categories", such as the root',
    ),
    'picture id twice': ((*IMAGE, 'id'), 2, 'duplicate image ids'),
    'no file name': ((*IMAGE, 'file_name'), GONE, 'without a "file_name"'),
    'file name a number': ((*IMAGE, 'file_name'), 7, 'without a "file_name"'),
    'file name with a zero byte': ((*IMAGE, 'file_name'), 'a\0', 'a "file_name"'),
    'no width': ((*IMAGE, 'width'), GONE, 'without "width" and "height": 1 (a.png)'),
    'no height left': ((*IMAGE, 'height'), 0, 'without "width" and "height"'),
    'half a pixel': ((*IMAGE, 'width'), 23.5, 'without "width" and "height"'),
    'other width': (
        (*IMAGE, 'width'),
        25,
        'another size than their annotations say: 1 (',
    ),
    'missing picture': ((*IMAGE, 'file_name'), 'x.png', 'not there: 1 ('),
    'category without name': ((*KIND, 'name'), GONE, 'without a whole "id" and a "n'),
    'category id a text': ((*KIND, 'id'), 'one', 'without a whole "id" and a "name"'),
    'class missing': ((*KIND, 'name'), 'fly', "'bee') does not name: 1 (ant)"),
    'other order': (
        ('categories',),
        [{'id': 2, 'name': 'bee'}, {'id': 1, 'name': 'ant'}],
        'in another order than the config, and labels follow the file: write '
        "metainfo=dict(classes=('bee', 'ant'))",
    ),
    'no picture named': ((*NOTE, 'image_id'), GONE, 'without an "image_id"'),
    'picture named by a list': ((*NOTE, 'image_id'), [1], 'without an "image_id"'),
    'annotation id twice': ((*NOTE, 'id'), 2, 'duplicate annotation ids'),
    'annotation a list': (NOTE, [1], 'annotations that are no object: 1 ([0])'),
    'unknown category': ((*NOTE, 'category_id'), 9, 'annotation 1 of a.png: 9'),
    'category a text': ((*NOTE, 'category_id'), '1', 'category_id that no category'),
    'no box': ((*NOTE, 'bbox'), GONE, 'not four finite numbers: 1 (annotation 1 of'),
    'box of three': ((*NOTE, 'bbox'), [1, 2, 3], 'not four finite numbers'),
    'box of texts': ((*NOTE, 'bbox'), ['1', 2, 3, 4], 'not four finite numbers'),
    'NaN in a box': ((*NOTE, 'bbox'), [4, 4, math.nan, 8], 'not four finite numbers'),
    'endless box': ((*NOTE, 'bbox'), [4, 4, math.inf, 8], 'not four finite numbers'),
    'astronomic box': ((*NOTE, 'bbox'), [4, 4, 10**400, 8], 'not four finite numbers'),
    'no area': ((*NOTE, 'area'), GONE, 'annotations without "area", which mmdet'),
    'area null': ((*NOTE, 'area'), None, 'annotations without "area", which mmdet'),
    'NaN area': ((*NOTE, 'area'), math.nan, '"area" is no finite number'),
    'no mask': (MASK, GONE, 'without a mask ("segmentation")'),
    'empty mask': (MASK, [], 'without a mask ("segmentation")'),
    'flat polygon': (MASK, SQUARE, 'neither a list of polygons nor run lengths'),
    'mask a text': (MASK, 'x', 'neither a list of polygons nor run lengths'),
    'NaN polygon': (MASK, [[*SQUARE, math.nan, 1]], 'polygons of what are not finite'),
    'RLE of another size': (MASK, {'size': [24, 16], 'counts': [384]}, RLE_SIZE),
    'RLE without size': (MASK, {'counts': [384]}, RLE_SIZE),
    'RLE too short': (MASK, {'size': [16, 24], 'counts': [300]}, RLE_SUM),
    'RLE too long': (MASK, {'size': [16, 24], 'counts': [300, 2**31 - 1]}, RLE_SUM),
    'negative RLE': (MASK, {'size': [16, 24], 'counts': [400, -16]}, RLE_SUM),
    'RLE of floats': (MASK, {'size': [16, 24], 'counts': [384.0]}, 'no whole numbers'),
    'RLE text cut': (MASK, {'size': [16, 24], 'counts': 'P'}, RLE_SUM),
    'RLE text too long': (MASK, {'size': [16, 24], 'counts': 'oooooo0'}, RLE_SUM),
    'RLE text endless': (MASK, {'size': [16, 24], 'counts': 'o' * 99 + '0'}, RLE_SUM),
    'RLE text of others': (MASK, {'size': [16, 24], 'counts': '~~'}, 'other letters'),
}

COCO_WARNINGS = {
    'thin box': ((*NOTE, 'bbox'), [4, 4, 0.5, 8], 'of less than a pixel, which are'),
    'negative box': ((*NOTE, 'bbox'), [12, 12, -8, -8], 'of less than a pixel'),
    'no area at all': ((*NOTE, 'area'), 0, 'of less than a pixel'),
    'outside': ((*NOTE, 'bbox'), [99, 4, 8, 8], 'outside of their picture, which are'),
    'over the edge': ((*NOTE, 'bbox'), [20, 4, 8, 8], 'over the edge of their picture'),
    'no such picture': ((*NOTE, 'image_id'), 9, 'of an image_id that no picture has'),
    'odd polygon': (MASK, [SQUARE, [*SQUARE, 3]], 'polygons of an odd count'),
    'two points': (MASK, [SQUARE, [1, 1, 2, 2]], 'less than 3 points'),
    'wide polygon': (MASK, [[4, 4, 40, 4, 12, 12]], 'polygons over the edge'),
    'one more category': (
        ('categories', 2),
        {'id': 5, 'name': 'cow'},
        'categories that the config leaves out: 1 (cow)',
    ),
    'one more picture of the name': (
        ('images', 3),
        {'id': 9, 'file_name': 'a.png', 'width': WIDTH, 'height': HEIGHT},
        'duplicate images: 1 (a.png)',
    ),
}


def rewrite(folder: Path, path: tuple, value: object) -> None:
    file = folder / 'train.json'
    file.write_text(json.dumps(changed(json.loads(file.read_text()), path, value)))


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    write_coco(tmp_path / 'data')
    return tmp_path / 'data'


@pytest.mark.parametrize('case', COCO_ERRORS)
def test_bad_annotations_are_refused(coco: Path, case: str) -> None:
    path, value, message = COCO_ERRORS[case]
    rewrite(coco, path, value)
    config = coco_config(coco)
    before = tree(coco)
    (report,) = check_data(config)
    assert tree(coco) == before
    assert any(message in str(one) for one in report.findings.errors)
    with pytest.raises(UserError, match=r'train_dataloader: CocoDataset train\.json: '):
        refuse_errors([report])


@pytest.mark.parametrize('case', COCO_WARNINGS)
def test_odd_annotations_are_told(coco: Path, case: str) -> None:
    path, value, message = COCO_WARNINGS[case]
    rewrite(coco, path, value)
    assert_warned(coco_config(coco), message)


# -- pictures ----------------------------------------------------------------------


def jpeg(folder: Path, mode: str = 'RGB', size: tuple = (WIDTH, HEIGHT), turn: int = 0):
    """Put a JPEG under the name a.png; the content counts, not the name."""
    exif = Image.Exif()
    if turn:
        exif[0x0112] = turn
    picture = Image.fromarray(NOISE).convert(mode).resize(size)
    picture.save(folder / 'images' / 'a.png', 'JPEG', exif=exif)


def cut(folder: Path, share: float, kind: str = 'PNG') -> None:
    if kind == 'JPEG':
        jpeg(folder)
    file = folder / 'images' / 'a.png'
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])


def changed_byte(folder: Path) -> None:
    """Damage the middle of a picture, and leave its head and its end."""
    file = folder / 'images' / 'a.png'
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)


def huge(folder: Path) -> None:
    """Announce the largest picture that a PNG may be, in the annotations too."""
    file = folder / 'images' / 'a.png'
    content = bytearray(file.read_bytes())
    content[16:24] = (b'\x7f' + b'\xff' * 3) * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, 'big')
    file.write_bytes(content)
    for side in ('width', 'height'):
        rewrite(folder, (*IMAGE, side), 2**31 - 1)


def put(content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / 'images' / 'a.png').write_bytes(content)


def save(picture: Image.Image, kind: str) -> Callable[[Path], None]:
    return lambda folder: picture.save(folder / 'images' / 'a.png', kind)


BAD_PICTURES = {
    'gone': (lambda f: (f / 'images' / 'a.png').unlink(), 'that are not there: 1'),
    'a folder': (
        lambda f: ((f / 'images' / 'a.png').unlink(), (f / 'images/a.png').mkdir()),
        'that are not there: 1',
    ),
    'a pipe': (
        lambda f: ((f / 'images' / 'a.png').unlink(), os.mkfifo(f / 'images/a.png')),
        'that are not there: 1',
    ),
    'empty': (put(b''), 'unreadable pictures: 1'),
    'a web page': (put(b'<!DOCTYPE html>'), 'unreadable pictures: 1'),
    'zeros': (put(bytes(1000)), 'unreadable pictures: 1'),
    'head only': (lambda f: cut(f, 0.02), 'unreadable pictures: 1'),
    'PNG cut short': (lambda f: cut(f, 0.6), 'unreadable pictures: 1'),
    'JPEG cut short': (lambda f: cut(f, 0.8, 'JPEG'), 'unreadable pictures: 1'),
    'huge': (huge, 'of more than 1,073,741,824 pixels, which can not be read: 1'),
    'turned': (lambda f: jpeg(f, turn=6), 'that EXIF turns, with annotations for'),
    'other size': (lambda f: jpeg(f, size=(20, 16)), 'a.png is 20x16, not 24x16'),
    'floats': (
        save(Image.fromarray(NOISE[..., 0].astype(np.float32)), 'TIFF'),
        'pictures of floating-point numbers: 1',
    ),
}


@pytest.mark.parametrize('case', BAD_PICTURES)
def test_bad_pictures_are_refused(coco: Path, case: str) -> None:
    change, message = BAD_PICTURES[case]
    change(coco)
    assert_refused(coco_config(coco), coco, message)


def test_damage_within_is_found_by_decoding(coco: Path) -> None:
    changed_byte(coco)
    refuse_errors(check_data(coco_config(coco)))
    (coco / 'work' / preflight.CACHE).unlink()
    assert_refused(coco_config(coco), coco, 'unreadable pictures: 1', decode=True)


@pytest.mark.parametrize('turn', [2, 3, 4])
def test_turns_that_keep_the_size_are_told(coco: Path, turn: int) -> None:
    jpeg(coco, turn=turn)
    assert_warned(coco_config(coco), f'a.png, orientation {turn})')


def test_annotations_for_the_turned_picture_are_right(coco: Path) -> None:
    jpeg(coco, size=(HEIGHT, WIDTH), turn=6)
    (report,) = check_data(coco_config(coco))
    assert not report.findings.errors and not report.findings.warnings
    # As mmdet reads it.
    results = LoadImageFromFile().transform({'img_path': str(coco / 'images/a.png')})
    assert results['img'].shape == (HEIGHT, WIDTH, 3)


GREY = Image.fromarray(NOISE[..., 0])
DEEP = Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257)
GOOD_PICTURES = {
    'grey': lambda f: jpeg(f, 'L'),
    'CMYK': lambda f: jpeg(f, 'CMYK'),
    'grey PNG': save(GREY, 'PNG'),
    '16 bits': save(DEEP, 'PNG'),
    'palette': save(Image.fromarray(NOISE).convert('P'), 'PNG'),
    'transparent': save(Image.fromarray(NOISE).convert('RGBA'), 'PNG'),
    'one bit': save(GREY.convert('1'), 'PNG'),
    'BMP': save(Image.fromarray(NOISE), 'BMP'),
    'TIFF': save(Image.fromarray(NOISE), 'TIFF'),
    'WebP': save(Image.fromarray(NOISE), 'WEBP'),
    'bytes after the end': lambda f: (
        jpeg(f),
        (f / 'images/a.png').open('ab').write(bytes(99_999)),
    ),
}


@pytest.mark.parametrize('case', GOOD_PICTURES)
def test_pictures_of_every_kind_pass_and_are_read(coco: Path, case: str) -> None:
    GOOD_PICTURES[case](coco)
    (report,) = check_data(coco_config(coco), options=Options(decode=True))
    assert not report.findings.errors and not report.findings.warnings
    results = LoadImageFromFile().transform({'img_path': str(coco / 'images/a.png')})
    assert results['img'].shape == (HEIGHT, WIDTH, 3)
    assert results['img'].dtype == np.uint8


def test_pictures_too_narrow_to_resize_are_refused(coco: Path) -> None:
    for side, value in (('width', 20_000), ('height', 1)):
        rewrite(coco, (*IMAGE, side), value)
    Image.new('RGB', (20_000, 1)).save(coco / 'images' / 'a.png')
    rewrite(coco, ('annotations', 0, 'bbox'), [0, 0, 9, 1])
    rewrite(coco, ('annotations', 0, 'segmentation'), [[0, 0, 9, 0, 9, 1, 0, 1]])
    resize = dict(type='Resize', scale=(1333, 800), keep_ratio=True)
    message = 'resizing leaves no pixel of one side: 1 ('
    config = coco_config(coco, pipeline=[resize])
    (report,) = check_data(config)
    (error,) = [str(one) for one in report.findings.errors]
    assert message in error and 'a.png, 20000x1)' in error
    (report,) = check_data(
        coco_config(coco, pipeline=[{**resize, 'keep_ratio': False}])
    )
    assert not report.findings.errors


# Formats that Pillow writes, in a mode that each takes; which of them can be read is
# what mmcv, with the library that it is told to use, says.
KINDS = {
    **dict.fromkeys(('AVIF', 'BMP', 'DIB', 'EPS', 'GIF', 'JPEG', 'JPEG2000'), 'RGB'),
    **dict.fromkeys(('DDS', 'ICO', 'IM', 'MPO', 'PCX', 'PNG', 'PPM', 'SGI'), 'RGB'),
    **dict.fromkeys(('TGA', 'TIFF', 'WEBP', 'QOI'), 'RGB'),
    **dict.fromkeys(('MSP', 'XBM'), '1'),
}


FOUR_BANDS = dict(
    type='LoadImageFromFile', color_type='unchanged', imdecode_backend='tifffile'
)


def is_read_by_mmcv(path: Path, backend: str) -> bool:
    try:
        return mmcv.imread(path, backend=backend) is not None
    except (OSError, ValueError, cv2.error):
        return False


@pytest.mark.parametrize('decode', [False, True])
@pytest.mark.parametrize('kind', KINDS)
def test_the_check_agrees_with_opencv(coco: Path, kind: str, decode: bool) -> None:
    path = coco / 'images' / 'a.png'
    Image.fromarray(NOISE).convert(KINDS[kind]).save(path, kind)
    (report,) = check_data(coco_config(coco), options=Options(decode=decode))
    assert is_read_by_mmcv(path, 'cv2') == (not report.findings.errors)


def test_whole_numbers_of_32_bits_are_refused(coco: Path) -> None:
    path = coco / 'images' / 'a.png'
    Image.fromarray(NOISE[..., 0].astype(np.int32)).save(path, 'TIFF')
    assert not is_read_by_mmcv(path, 'cv2')
    assert_refused(coco_config(coco), coco, 'that cv2 can not read: 1')


@pytest.mark.parametrize(
    ('step', 'kind', 'message'),
    [
        ({'imdecode_backend': 'pillow'}, 'GIF', ''),
        ({'imdecode_backend': 'pillow'}, 'TGA', 'unreadable pictures: 1'),
        ({'imdecode_backend': 'turbojpeg'}, 'BMP', 'turbojpeg can not read: 3'),
        ({'imdecode_backend': 'tifffile'}, 'TIFF', 'tifffile can not read: 2'),
        ({'type': 'LoadArchive'}, 'TGA', ''),
    ],
)
def test_the_reader_is_the_configs(
    coco: Path, step: dict, kind: str, message: str
) -> None:
    Image.fromarray(NOISE).save(coco / 'images' / 'a.png', kind)
    config = coco_config(coco, pipeline=[{'type': 'LoadImageFromFile', **step}])
    (report,) = check_data(config)
    errors = [str(one) for one in report.findings.errors]
    assert len(errors) == bool(message)
    assert not message or message in errors[0]


@pytest.mark.parametrize('decode', [False, True])
@pytest.mark.parametrize(
    ('bands', 'kind'),
    [(4, np.uint16), (4, np.uint8), (1, np.float32), (8, np.float32), (2, np.uint16)],
)
def test_bands_that_tifffile_reads_are_sound(
    coco: Path, bands: int, kind: type, decode: bool
) -> None:
    tifffile = pytest.importorskip('tifffile')
    values = np.zeros((HEIGHT, WIDTH, bands), kind).squeeze()
    planes = None if bands == 1 else 'contig'
    for name in 'abc':
        path = coco / 'images' / f'{name}.png'
        tifffile.imwrite(path, values, photometric='minisblack', planarconfig=planes)
    config = coco_config(coco, pipeline=[FOUR_BANDS])
    (report,) = check_data(config, options=Options(decode=decode))
    assert not report.findings.errors and not report.findings.warnings
    read = LoadImageFromFile(color_type='unchanged', imdecode_backend='tifffile')
    assert read({'img_path': str(coco / 'images/a.png')})['img_shape'] == (16, 24)


def test_bands_are_seen_as_mmcv_reads_them(coco: Path) -> None:
    tifffile = pytest.importorskip('tifffile')
    config = coco_config(coco, pipeline=[FOUR_BANDS])
    path = coco / 'images' / 'a.png'
    read = LoadImageFromFile(color_type='unchanged', imdecode_backend='tifffile')
    # A page for each row, and a plane for each band.
    for planes, shape in ((None, (HEIGHT, WIDTH, 4)), ('separate', (4, HEIGHT, WIDTH))):
        for name in 'abc':
            path = coco / 'images' / f'{name}.png'
            options = dict(photometric='minisblack', planarconfig=planes)
            tifffile.imwrite(path, np.zeros(shape, np.uint16), **options)
        is_read = read({'img_path': str(path)})['img_shape'] == (HEIGHT, WIDTH)
        (report,) = check_data(config)
        assert is_read == (not report.findings.errors)
    assert 'bands in planes' in str(report.findings.errors[0])
    assert 'INTERLEAVE=PIXEL' in str(report.findings.errors[0])


def test_tiffs_cut_short_are_found_by_decoding(coco: Path) -> None:
    tifffile = pytest.importorskip('tifffile')
    for name in 'abc':
        path = coco / 'images' / f'{name}.png'
        tifffile.imwrite(path, np.zeros((HEIGHT, WIDTH, 4), np.uint16))
    path.write_bytes(path.read_bytes()[:-900])
    config = coco_config(coco, pipeline=[FOUR_BANDS])
    (report,) = check_data(config, options=Options(decode=True))
    assert 'unreadable pictures: 1' in str(report.findings.errors[0])


def test_headers_of_pictures_are_all_that_is_read(coco: Path, monkeypatch) -> None:
    decoded = []
    monkeypatch.setattr(
        'PIL.ImageFile.ImageFile.load', lambda self: decoded.append(self.filename)
    )
    check_data(coco_config(coco))
    assert not decoded
    check_data(coco_config(coco), options=Options(decode=True))
    assert len(decoded) == 3


# -- configs -----------------------------------------------------------------------

BAD_CONFIGS = {
    'no file': ({'ann_file': 'no.json'}, 'no.json: no such file'),
    'no folder': ({'data_prefix': {'img': 'no/'}}, 'pictures that are not there: 3'),
    'no root': ({'data_root': 'nowhere'}, 'nowhere/train.json: no such file'),
    'unknown class': (
        {'metainfo': {'classes': ('ant', 'cat')}},
        'does not name: 1 (cat)',
    ),
    'classes of COCO': ({'metainfo': None}, 'does not name: 80 (person, bicycle, car'),
    'all too small': ({'filter_cfg': {'min_size': 99}}, 'no image to use'),
    'unknown type': ({'type': 'CocoDatset'}, 'CocoDatset'),
    'unknown option': ({'annfile': 'x'}, "argument 'annfile'"),
}


@pytest.mark.parametrize('case', BAD_CONFIGS)
def test_bad_configs_are_refused(coco: Path, case: str) -> None:
    options, message = BAD_CONFIGS[case]
    reports = check_data(coco_config(coco, **options))
    assert not (coco / 'work').exists()
    errors = [str(one) for one in reports[0].findings.errors]
    assert any(message in error for error in errors), errors


@pytest.mark.parametrize(
    ('place', 'named'),
    [
        ('images/default/{}.png', '{}.png'),  # CVAT
        ('images/{}.png', '/data/upload/1/{}.png'),  # Label Studio
        ('images/my {}.png', 'my%20{}.png'),
        ('images/{}.PNG', '{}.png'),
        ('images/{}.png', 'images\\{}.png'),
    ],
)
def test_pictures_elsewhere_are_found(coco: Path, place: str, named: str) -> None:
    content = json.loads((coco / 'train.json').read_text())
    for image in content['images']:
        name = image['file_name'].removesuffix('.png')
        (coco / place.format(name)).parent.mkdir(exist_ok=True)
        (coco / 'images' / f'{name}.png').rename(coco / place.format(name))
        image['file_name'] = named.format(name)
    (coco / 'train.json').write_text(json.dumps(content))
    (report,) = check_data(coco_config(coco))
    assert 'pictures that are not there: 3' in str(report.findings.errors[0])
    first = coco / place.format(Path(content['images'][0]['file_name']).stem[-1])
    (warning,) = report.findings.warnings
    assert 'set data_prefix.img, or correct "file_name"' in str(warning)
    assert str(warning).endswith(f'is it {first}?)')


def test_heads_for_another_number_of_classes_are_refused(coco: Path) -> None:
    config = coco_config(coco)
    config.model.roi_head = dict(mask_head=[dict(num_classes=2), dict(num_classes=80)])
    assert_refused(
        config,
        coco,
        'the model has 80 classes, the data 2 (ant, bee): set '
        'model.roi_head.mask_head.1.num_classes to 2',
    )


def test_things_and_stuff_of_other_data_are_refused(coco: Path) -> None:
    config = coco_config(coco)
    head = dict(type='Y', num_things_classes=80, num_stuff_classes=0)
    config.model = dict(type='X', panoptic_head=head)
    setting = 'model.panoptic_head.num_things_classes + num_stuff_classes'
    assert_refused(
        config,
        coco,
        f'the model has 80 classes, the data 2 (ant, bee): set {setting} to 2',
    )


@pytest.mark.parametrize(
    'text', ['', '{"images": [', '[' * 99_999, '9' * 9_999, '\xff']
)
def test_files_that_are_no_json_are_refused(coco: Path, text: str) -> None:
    (coco / 'train.json').write_text(text, encoding='latin1')
    assert_refused(coco_config(coco), coco, 'train.json: not a JSON file')


def test_boxes_by_their_corners_are_refused(coco: Path) -> None:
    for i in range(3):
        rewrite(coco, ('annotations', i, 'bbox'), [12, 8, 22, 14])
    assert_refused(coco_config(coco), coco, 'are [left, top, width, height]')


def test_truth_without_crowd_flags_is_refused(coco: Path) -> None:
    rewrite(coco, (*NOTE, 'iscrowd'), GONE)
    config = coco_config(coco)
    assert not check_data(config)[0].findings.errors  # training can do without
    config.val_dataloader = config.train_dataloader
    shutil.rmtree(coco / 'work')
    assert_refused(config, coco, '"iscrowd" is neither 0 nor 1')


@pytest.mark.parametrize('loader', ['train_dataloader', 'val_dataloader'])
@pytest.mark.parametrize('flag', [1, True])
def test_crowds_alone_are_refused(coco: Path, loader: str, flag: object) -> None:
    for i in range(3):
        rewrite(coco, ('annotations', i, 'iscrowd'), flag)
    config = coco_config(coco)
    config[loader] = config.pop('train_dataloader')
    assert_refused(config, coco, 'all 3 boxes are crowds (iscrowd=1)')


def test_crowds_are_counted(coco: Path) -> None:
    rewrite(coco, (*NOTE, 'iscrowd'), 1)
    rewrite(coco, ('annotations', 2, 'iscrowd'), 1)
    (report,) = check_data(coco_config(coco))
    assert '2 crowds' in report.facts and '2 pictures of crowds only' in report.facts
    assert_warned(coco_config(coco), 'classes of crowds only: 1 (bee)')


def test_validation_without_a_box_is_told(coco: Path) -> None:
    rewrite(coco, ('annotations',), [])
    config = coco_config(coco, test_mode=True)
    config.val_dataloader = config.pop('train_dataloader')
    assert_warned(config, 'AP can not be measured')


@pytest.mark.parametrize('annotations', [GONE, []])
def test_test_sets_without_annotations_are_for_writing_results(
    coco: Path, annotations: object
) -> None:
    rewrite(coco, ('annotations',), annotations)
    config = coco_config(coco, test_mode=True)
    config.test_dataloader = config.pop('train_dataloader')
    config.test_evaluator = dict(type='CocoMetric', format_only=True)
    (report,) = check_data(config)
    assert not report.findings.errors and not report.findings.warnings
    config.test_evaluator.format_only = False
    (report,) = check_data(config)
    assert report.findings.errors or report.findings.warnings


def test_truth_of_the_evaluator_is_looked_for(coco: Path) -> None:
    config = coco_config(coco)
    config.val_dataloader = config.train_dataloader
    config.val_evaluator = dict(type='CocoMetric', ann_file=str(coco / 'no.json'))
    assert_refused(config, coco, 'no.json: no such file')
    shutil.copy(coco / 'train.json', coco / 'other.json')
    config.val_evaluator.ann_file = str(coco / 'other.json')
    assert_warned(config, 'compares with another file')


def test_other_classes_in_validation_are_refused(coco: Path) -> None:
    config = coco_config(coco)
    config.val_dataloader = copy.deepcopy(config.train_dataloader)
    config.val_dataloader.dataset.metainfo = dict(classes=('ant',))
    config.model = dict(type='X')
    assert_refused(config, coco, 'other classes than in train_dataloader')


@pytest.mark.parametrize('loop', [{}, {'type': 'ValLoop'}, None])
def test_what_a_training_validates_on_is_checked(coco: Path, loop: object) -> None:
    config = coco_config(coco)
    config.val_dataloader = copy.deepcopy(config.train_dataloader)
    config.val_dataloader.dataset.ann_file = 'gone.json'
    config.val_cfg = loop
    refusal = pytest.raises(UserError, match='no such file')
    with nullcontext() if loop is None else refusal:
        check_before(config, training_loaders(config), '')


def test_what_another_run_found_is_kept(
    coco: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = coco_config(coco)
    config.test_dataloader = copy.deepcopy(config.train_dataloader)
    for loaders in (part.LOADERS[:1], part.LOADERS[2:]):
        check_data(config, loaders)
    looked = []
    monkeypatch.setattr(preflight, 'check_detection', lambda *args: looked.append(args))
    assert len(check_data(config)) == 2
    assert looked == []
    (coco / 'images' / 'a.png').touch()
    check_data(config)
    assert len(looked) == 2


def test_pickles_are_told_of(coco: Path) -> None:
    config = coco_config(coco, type='BaseDetDataset', ann_file='train.pkl')
    assert_warned(config, 'is a pickle, which can run any program')


def test_data_sets_inside_wrappers_are_found() -> None:
    leaves = [dict(type=name) for name in 'abc']
    nested = dict(
        type='ConcatDataset',
        datasets=[
            dict(type='RepeatDataset', times=2, dataset=leaves[0]),
            dict(dataset=dict(dataset=leaves[1])),
            leaves[2],
        ],
    )
    assert list(leaf_datasets(nested)) == leaves


@pytest.mark.parametrize('kind', [float, 'image-{}'.format, str])
def test_ids_are_read_as_mmdet_and_pycocotools_read_them(
    coco: Path, kind: Callable
) -> None:
    for i in range(3):
        rewrite(coco, ('images', i, 'id'), kind(i + 1))
        rewrite(coco, ('annotations', i, 'image_id'), kind(i + 1))
    (report,) = check_data(coco_config(coco))
    assert not report.findings.errors and not report.findings.warnings
    config = coco_config(coco).train_dataloader.dataset
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = DATASETS.build(config)
    assert [len(dataset.get_data_info(i)['instances']) for i in range(3)] == [1, 1, 1]
    file = str(coco / 'train.json')
    assert measured_by_pycocotools(file) == 1


def measured_by_pycocotools(file: str) -> float:
    """Return the AP of the truth against itself."""
    truth = COCO(file)
    found = truth.loadRes([{**one, 'score': 1} for one in truth.dataset['annotations']])
    measure = COCOeval(truth, found, 'bbox')
    for step in (measure.evaluate, measure.accumulate, measure.summarize):
        step()
    return measure.stats[0]


@pytest.mark.parametrize('name', [r'sub\{}.png', r'sub\deep\{}.png'])
def test_backslashes_are_named(coco: Path, name: str) -> None:
    for i, letter in enumerate('abc'):
        path = coco / 'images' / name.format(letter).replace('\\', '/')
        path.parent.mkdir(parents=True, exist_ok=True)
        (coco / 'images' / f'{letter}.png').rename(path)
        rewrite(coco, ('images', i, 'file_name'), name.format(letter))
    assert_refused(coco_config(coco), coco, 'backslashes, which part folders on W')


# -- data set classes of another reading --------------------------------------------


class Deeper(CocoDataset):
    """Finds pictures one folder below where the file says."""

    def load_data_list(self) -> list[dict]:
        infos = super().load_data_list()
        for info in infos:
            info['img_path'] = info['img_path'].replace('images/', 'images/deep/')
        return infos


class Linked(CocoDataset):
    """Finds pictures by addresses, like LVIS."""

    def load_data_list(self) -> list[dict]:
        content = json.loads(Path(self.ann_file).read_text())
        for image in content['images']:
            image['file_name'] = image['coco_url'].split('/')[-1]
        local = Path(self.ann_file).with_name('local.json')
        local.write_text(json.dumps(content))
        self.ann_file = str(local)
        return super().load_data_list()


class Late(CocoDataset):
    """Gives paths only when asked for a picture."""

    def get_data_info(self, index: int) -> dict:
        info = super().get_data_info(index)
        return {**info, 'img_path': info['img_path'].replace('images/', 'late/')}


@pytest.mark.parametrize(('kind', 'folder'), [(Deeper, 'images/deep'), (Late, 'late')])
def test_paths_are_those_of_the_data_set_class(
    coco: Path, kind: type, folder: str
) -> None:
    (coco / folder).mkdir()
    for name in 'abc':
        (coco / 'images' / f'{name}.png').rename(coco / folder / f'{name}.png')
    (report,) = check_data(coco_config(coco, type=kind))
    assert not report.findings.errors and not report.findings.warnings
    (coco / folder / 'a.png').unlink()
    assert_refused_for(coco_config(coco, type=kind), f'{folder}/a.png')


def assert_refused_for(config: Config, message: str) -> None:
    (report,) = check_data(config)
    assert any(message in str(one) for one in report.findings.errors)


def test_pictures_may_be_named_by_addresses(coco: Path) -> None:
    for i, name in enumerate('abc'):
        rewrite(coco, ('images', i, 'coco_url'), f'http://x.org/{name}.png')
        rewrite(coco, ('images', i, 'file_name'), GONE)
    (report,) = check_data(coco_config(coco, type=Linked))
    assert not report.findings.errors and not report.findings.warnings
    assert_refused_for(coco_config(coco), 'without a "file_name"')


@pytest.mark.parametrize('names', [('ant', 'bee'), ('bee', 'ant')])
def test_objects365_sorts_its_classes(coco: Path, names: tuple[str, str]) -> None:
    categories = [{'id': 2, 'name': 'bee'}, {'id': 1, 'name': 'ant'}]
    rewrite(coco, ('categories',), categories)
    metainfo = dict(classes=names)
    config = coco_config(coco, type='Objects365V1Dataset', metainfo=metainfo)
    (report,) = check_data(config)
    assert not report.findings.warnings
    errors = [str(one) for one in report.findings.errors]
    right = names == ('ant', 'bee')
    assert right == (not errors)
    assert right or "write metainfo=dict(classes=('ant', 'bee'))" in errors[0]


def test_objects365_v2_shortens_its_paths(coco: Path) -> None:
    for i, name in enumerate('abc'):
        rewrite(coco, ('images', i, 'file_name'), f'images/v2/patch0/{name}.png')
    (coco / 'patch0').mkdir()
    for name in 'abc':
        (coco / 'images' / f'{name}.png').rename(coco / 'patch0' / f'{name}.png')
    config = coco_config(coco, type='Objects365V2Dataset', data_prefix=dict(img=''))
    (report,) = check_data(config)
    assert not report.findings.errors and not report.findings.warnings


@pytest.mark.parametrize('with_seg', [False, True])
def test_maps_that_no_transform_reads_may_be_missing(
    coco: Path, with_seg: bool
) -> None:
    config = coco_config(coco, data_prefix=dict(img='images/', seg='panoptic/'))
    config.train_dataloader.dataset.pipeline[0].with_seg = with_seg
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = DATASETS.build(config.train_dataloader.dataset)
    missing = pytest.raises(UserError, match=r'panoptic/a\.png is missing')
    with missing if with_seg else nullcontext():
        check_dataset(dataset)


# -- labels ------------------------------------------------------------------------


@pytest.fixture
def seg(tmp_path: Path) -> Path:
    """Two pictures with labels 1, 2, 3 from top to bottom, 0 and 255 left."""
    folder = tmp_path / 'data'
    for kind in ('images', 'labels'):
        (folder / kind).mkdir(parents=True)
    for name in 'ab':
        Image.fromarray(NOISE).save(folder / 'images' / f'{name}.jpg')
        write_labels(folder, labels(), name)
    return folder


def labels() -> np.ndarray:
    values = np.repeat(np.arange(1, 5, dtype=np.uint8), 4)[:, None].repeat(WIDTH, 1)
    values[12:] = 0
    values[15] = 255
    return values


def write_labels(folder: Path, values: np.ndarray, name: str = 'a') -> None:
    # PNG has no 32 bits; readers go by the content, not by the name.
    kind = 'TIFF' if values.dtype == np.int32 else 'PNG'
    Image.fromarray(values).save(folder / 'labels' / f'{name}.png', kind)


def seg_config(folder: Path, reduce: bool = True, classes: int = 3) -> Config:
    data = dict(
        type='BaseSegDataset',
        data_root=str(folder),
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        metainfo=dict(
            classes=tuple('abcdefgh'[:classes]),
            palette=[[i, i, i] for i in range(classes)],
        ),
        reduce_zero_label=reduce,
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
    )
    head = dict(type='Y', num_classes=classes)
    return Config(
        dict(
            default_scope='mmseg',
            work_dir=str(folder / 'work'),
            model=dict(type='X', decode_head=head),
            train_dataloader=dict(dataset=data),
        )
    )


def with_pixel(value: int, kind: type = np.uint8) -> Callable[[Path], None]:
    values = labels().astype(kind)
    values[0, 0] = value
    return lambda folder: write_labels(folder, values)


BAD_LABELS = {
    'one too high': (with_pixel(4), 'a.png: value 4, label 3)'),
    'far too high': (with_pixel(200), 'a.png: value 200, label 199)'),
    '16 bits': (with_pixel(300, np.uint16), 'a.png: 300 would become 44)'),
    '32 bits': (with_pixel(70_000, np.int32), 'a.png: 70000 would become 112)'),
    'coloured': (
        lambda f: write_labels(f, NOISE),
        'coloured (one value a pixel is wanted)',
    ),
    'other size': (
        lambda f: write_labels(f, labels()[:8]),
        'another size than their annotations say: 1 (',
    ),
    'gone': (lambda f: (f / 'labels/a.png').unlink(), 'pictures that are not there: 1'),
    'no folder': (lambda f: shutil.rmtree(f / 'labels'), 'that are not there: 2'),
    'no picture': (
        lambda f: [path.unlink() for path in (f / 'images').iterdir()],
        'no image to use: no file *.jpg',
    ),
    'no folder of pictures': (
        lambda f: shutil.rmtree(f / 'images'),
        'images: no such folder of pictures',
    ),
    'no labels': (
        lambda f: (f / 'labels' / 'a.png').write_bytes(b'x'),
        'unreadable pictures: 1',
    ),
    'turned': (
        lambda f: (
            (f / 'images/a.jpg').unlink(),
            jpeg(f, turn=6),
            (f / 'images/a.png').rename(f / 'images/a.jpg'),
        ),
        'that EXIF turns, with annotations for the unturned ones',
    ),
}


@pytest.mark.parametrize('case', BAD_LABELS)
def test_bad_labels_are_refused(seg: Path, case: str) -> None:
    change, message = BAD_LABELS[case]
    change(seg)
    assert_refused(seg_config(seg), seg, message)


def test_sound_labels_are_counted(seg: Path) -> None:
    (report,) = check_data(seg_config(seg))
    assert not report.findings.errors and not report.findings.warnings
    assert report.facts == [
        '2 pictures',
        'labels of 3 of 3 classes',
        '25 % of the pixels ignored',
    ]


def test_pictures_of_another_ending_are_told(seg: Path) -> None:
    (seg / 'images' / 'b.jpg').rename(seg / 'images' / 'b.JPG')
    shutil.copy(seg / 'images' / 'a.jpg', seg / 'images' / 'a.gif')  # a preview
    shutil.copy(seg / 'images' / 'a.jpg', seg / 'images' / 'unlabelled.png')
    (report,) = check_data(seg_config(seg))
    (what,) = report.findings.warnings
    assert what.count == 1 and what.what.startswith(
        "pictures with labels that img_suffix '.jpg' leaves out"
    )
    assert report.facts[0] == '1 pictures'


def test_16_bits_are_cut_by_mmseg_without_a_word(seg: Path) -> None:
    # Why they are refused, and that the message has the right number.
    with_pixel(300, np.uint16)(seg)
    from mmseg.datasets.transforms import LoadAnnotations

    path = str(seg / 'labels' / 'a.png')
    results = dict(seg_map_path=path, reduce_zero_label=False, seg_fields=[])
    assert LoadAnnotations()(results)['gt_seg_map'][0, 0] == 44


def test_16_bits_with_small_values_pass(seg: Path) -> None:
    write_labels(seg, labels().astype(np.uint16))
    (report,) = check_data(seg_config(seg))
    assert not report.findings.errors and not report.findings.warnings


def test_values_counted_from_one_ask_for_reduce_zero_label(seg: Path) -> None:
    reports = check_data(seg_config(seg, reduce=False))
    errors = [str(one) for one in reports[0].findings.errors]
    assert any('set reduce_zero_label=True' in error for error in errors)
    assert any('value 3, label 3' in error for error in errors)


def write_values(folder: Path, rows: list[int]) -> None:
    """Write both pictures of labels, with the values by row, as often as need be."""
    values = np.resize(np.array(rows, np.uint8), HEIGHT)[:, None].repeat(WIDTH, 1)
    for name in 'ab':
        write_labels(folder, values, name)


def test_values_counted_from_zero_are_not_shifted(seg: Path) -> None:
    write_values(seg, [0, 1, 2, 255])
    assert_refused(seg_config(seg), seg, 'shifted by one; set reduce_zero_label=False')
    refuse_errors(check_data(seg_config(seg, reduce=False)))


def test_background_first_is_not_shifted_in_validation(seg: Path) -> None:
    write_values(seg, [0, 1])  # of three classes
    config = seg_config(seg)
    config.val_dataloader = config.pop('train_dataloader')
    assert_warned(config, 'if values are counted from 0, set reduce_zero_label=False')
    config.val_dataloader.dataset.metainfo.classes = ('_background_', 'b', 'c')
    shutil.rmtree(seg / 'work')
    assert_refused(config, seg, 'every class would be shifted by one')


@pytest.mark.parametrize('rows', [[0, 0, 1, 2], [0, 1, 2]])
def test_own_folders_counted_from_zero_are_not_shifted(
    seg: Path, rows: list[int]
) -> None:
    write_values(seg, rows)
    config = seg_config(seg, reduce=False)
    ids = dict(type='mmpoolformer.MapLabels', ids=[1, 2, 3], ignored=[0, 255])
    config.train_dataloader.dataset.pipeline.append(ids)
    assert_refused(config, seg, 'write classes.json with "id" from 0 in place of')
    ids.update(ids=[0, 1, 2], ignored=[255])
    refuse_errors(check_data(config))


def test_sparse_ids_without_the_last_class_are_no_shift(seg: Path) -> None:
    write_values(seg, [0, 7, 20])
    config = seg_config(seg, reduce=False)
    ids = dict(type='mmpoolformer.MapLabels', ids=[7, 20, 33], ignored=[0, 255])
    config.train_dataloader.dataset.pipeline.append(ids)
    (report,) = check_data(config)
    warnings = [str(one) for one in report.findings.warnings]
    assert not report.findings.errors
    assert [text.split(':')[0] for text in warnings] == ['labels without a pixel']


@pytest.mark.parametrize(
    ('reduce', 'classes', 'message'),
    [(False, 2, '255 is'), (True, 2, 'both are'), (True, 1, 'both are')],
)
def test_binary_masks_need_a_map(
    seg: Path, reduce: bool, classes: int, message: str
) -> None:
    write_values(seg, [0, 0, 0, 255])
    assert_refused(
        seg_config(seg, reduce, classes),
        seg,
        f'(values 0 and 255), of which {message} ignored',
    )


def test_one_setting_reads_binary_masks(seg: Path) -> None:
    write_values(seg, [0, 0, 0, 255])
    config = seg_config(seg, reduce=False, classes=2)
    table = dict(type='mmpoolformer.MapLabels', ids=[0, 255])
    config.train_dataloader.dataset.pipeline.append(table)
    (report,) = check_data(config)
    assert not report.findings.errors and not report.findings.warnings
    assert 'labels of 2 of 2 classes' in report.facts


@pytest.mark.parametrize(
    ('rows', 'reduce', 'classes'), [([0, 1], True, 1), ([0], False, 3), ([7], True, 8)]
)
def test_one_label_alone_teaches_nothing(
    seg: Path, rows: list[int], reduce: bool, classes: int
) -> None:
    write_values(seg, rows)
    assert_refused(seg_config(seg, reduce, classes), seg, 'nothing to learn: label ')


def test_most_pixels_ignored_are_told(seg: Path) -> None:
    write_values(seg, [0, 0, 0, 0, 0, 1, 2, 3])
    assert_warned(seg_config(seg), 'most pixels (62 %) are ignored, as the values 0')


def test_pictures_without_any_label_are_told(seg: Path) -> None:
    write_labels(seg, np.full((HEIGHT, WIDTH), 255, np.uint8))
    assert_warned(seg_config(seg), 'in which every pixel is ignored: 1 (')


def test_reduction_of_one_side_only_is_refused(seg: Path) -> None:
    config = seg_config(seg, reduce=False)
    config.train_dataloader.dataset.pipeline[1].reduce_zero_label = True
    assert_refused(config, seg, 'labels refused')


def test_another_ignored_label_is_refused(seg: Path) -> None:
    config = seg_config(seg)
    config.model.decode_head.ignore_index = 254
    assert_refused(config, seg, 'value 0, label 255')


def test_labels_through_a_table_of_ids(seg: Path) -> None:
    config = seg_config(seg, reduce=False)
    table = dict(type='mmpoolformer.MapLabels', ids=[3, 1], ignored=[0, 255])
    config.train_dataloader.dataset.pipeline.append(table)
    assert_refused(config, seg, 'values [2] stand for no class')


def test_an_unknown_option_of_a_transform_is_refused(seg: Path) -> None:
    config = seg_config(seg)
    config.train_dataloader.dataset.pipeline[1].scale = (64, 64)
    message = 'pipeline: LoadAnnotations.__init__() got an unexpected keyword argument'
    assert_refused(config, seg, message)


def test_few_labels_are_read_of_many(seg: Path, monkeypatch) -> None:
    monkeypatch.setattr(segmentation, 'LABELS_READ', 1)
    with_pixel(200)(seg)  # a is read, b is not
    assert_refused(seg_config(seg), seg, 'value 200')
    write_labels(seg, labels())
    (seg / 'labels' / 'b.png').write_bytes((seg / 'labels' / 'a.png').read_bytes())
    values = labels()
    values[0, 0] = 200
    write_labels(seg, values, 'b')
    refuse_errors(check_data(seg_config(seg)))
    shutil.rmtree(seg / 'work')
    assert_refused(seg_config(seg), seg, 'b.png: value 200', decode=True)


# -- classes in folders ------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for split in ('train', 'val'):
        for name in ('ant', 'bee'):
            (tmp_path / 'data' / split / name).mkdir(parents=True)
            Image.fromarray(NOISE).save(tmp_path / 'data' / split / name / '0.png')
    return tmp_path / 'data'


def folder_config(folder: Path, **dataset: object) -> Config:
    data = dict(type='mmpoolformer.TimmDataset', root=str(folder), **dataset)
    return Config(
        dict(
            default_scope='mmengine',
            work_dir=str(folder / 'work'),
            model=dict(type='X', num_classes=2),
            train_dataloader=dict(dataset=dict(split='train', **data)),
            val_dataloader=dict(dataset=dict(split='val', **data)),
        )
    )


def add_class(split: str, picture: bool) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / split / 'cow').mkdir()
        if picture:
            Image.fromarray(NOISE).save(folder / split / 'cow' / '0.png')

    return change


BAD_FOLDERS = {
    'gone': (lambda f: shutil.rmtree(f), 'data: no such folder or tar file'),
    'no training': (
        lambda f: (f / 'train').rename(f / 'training_set'),
        "has no folder for the split 'train'",
    ),
    'empty class': (add_class('train', False), 'train: no picture in cow'),
    'one class more': (
        add_class('train', True),
        'the model has 2 classes, the data 3 (ant, bee, cow): set model.num_classes',
    ),
    'other classes': (
        lambda f: (f / 'val' / 'bee').rename(f / 'val' / 'wasp'),
        'other classes than in train_dataloader',
    ),
    'loose picture': (
        lambda f: Image.fromarray(NOISE).save(f / 'train' / 'x.png'),
        'lies outside of the class folders',
    ),
    'unreadable': (
        lambda f: (f / 'train' / 'ant' / '0.png').write_bytes(b'x'),
        'unreadable pictures: 1',
    ),
    'cut short': (
        lambda f: (f / 'val' / 'ant' / '0.png').write_bytes(
            (f / 'val' / 'bee' / '0.png').read_bytes()[:-40]
        ),
        'unreadable pictures: 1',
    ),
}


@pytest.mark.parametrize('case', BAD_FOLDERS)
def test_bad_folders_are_refused(folders: Path, case: str) -> None:
    change, message = BAD_FOLDERS[case]
    change(folders)
    before = tree(folders)
    reports = check_data(folder_config(folders))
    assert tree(folders) == before
    errors = [str(one) for report in reports for one in report.findings.errors]
    assert any(message in error for error in errors), errors


def test_unreadable_pictures_that_are_skipped_are_told(folders: Path) -> None:
    (folders / 'train' / 'ant' / '0.png').write_bytes(b'x')
    assert_warned(folder_config(folders, on_error='skip'), '(skipped): 1 (')


@pytest.mark.parametrize(('batch_size', 'cure'), [(3, 2), (128, 2)])
def test_fewer_pictures_than_a_batch_are_refused(
    folders: Path, batch_size: int, cure: int
) -> None:
    config = folder_config(folders)
    config.train_dataloader.update(batch_size=batch_size, drop_last=True)
    assert_refused(
        config,
        folders,
        f'a batch of {batch_size} and drop_last=True leave no step: set '
        f'train_dataloader.batch_size to {cure} or less',
    )
    config.train_dataloader.batch_size = cure
    refuse_errors(check_data(config))
    config.train_dataloader.update(batch_size=batch_size, drop_last=False)
    refuse_errors(check_data(config))


def test_a_folder_in_a_wrapper_is_not_counted(folders: Path) -> None:
    config = folder_config(folders)
    inner = config.train_dataloader.dataset
    config.train_dataloader = dict(
        batch_size=8,
        drop_last=True,
        dataset=dict(type='RepeatDataset', times=4, dataset=inner),
    )
    refuse_errors(check_data(config))


def test_notes_about_folders_are_warnings(folders: Path, monkeypatch) -> None:
    # Told by the report alone, not in a log besides.
    monkeypatch.setattr('mmpoolformer.data.classification.warn', None)
    for split in ('train', 'val'):
        (folders / split / 'bee').rename(folders / split / 'Bug')
        (folders / split / 'ant' / '1.heic').touch()
    config = folder_config(folders)
    assert_warned(config, 'label 0 is ant, but Bug in the plain')
    assert_warned(config, '1 files left out')


def test_a_changed_file_of_classes_is_read_anew(folders: Path) -> None:
    names = folders / 'names.txt'
    names.write_text('bee\nant\n')
    config = folder_config(folders, classes=str(names))
    assert [report.classes for report in check_data(config)] == [('bee', 'ant')] * 2
    names.write_text('bee\nwasp\n')
    errors = [str(one) for r in check_data(config) for one in r.findings.errors]
    assert any('folders of unknown classes: ant' in error for error in errors)


def test_turned_pictures_of_classes_are_sound(folders: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(NOISE).save(folders / 'train' / 'ant' / '1.jpg', exif=exif)
    for report in check_data(folder_config(folders)):
        assert not report.findings.errors and not report.findings.warnings


# -- what was found before ---------------------------------------------------------


def test_a_second_start_reads_nothing(coco: Path, monkeypatch, capsys) -> None:
    rewrite(coco, (*NOTE, 'bbox'), [4, 4, 0.5, 8])
    config = coco_config(coco)
    first = check_data(config)
    monkeypatch.setattr(part, 'inspect_image', None)
    monkeypatch.setattr(detection, 'read_json', None)
    second = check_and_report(config, ['train_dataloader'])
    assert [report.lines() for report in second] == [report.lines() for report in first]
    assert 'warning: boxes or areas of less than a pixel' in capsys.readouterr().out


@pytest.mark.parametrize(
    'change', ['picture', 'annotations', 'config', 'added', 'gone']
)
def test_what_has_changed_is_read_anew(coco: Path, change: str) -> None:
    config = coco_config(coco)
    check_data(config)
    if change == 'picture':
        (coco / 'images' / 'a.png').write_bytes(b'x')
    elif change == 'annotations':
        rewrite(coco, (*NOTE, 'category_id'), 9)
    elif change == 'config':
        config.model.bbox_head.num_classes = 3
    elif change == 'gone':
        (coco / 'images' / 'a.png').unlink()
    else:
        (coco / 'images' / 'd.png').write_bytes(b'x')  # of no annotation: sound
    (report,) = check_data(config)
    assert bool(report.findings.errors) == (change != 'added')


def test_a_new_picture_in_the_folder_is_found(seg: Path) -> None:
    config = seg_config(seg)
    refuse_errors(check_data(config))
    (seg / 'images' / 'c.jpg').write_bytes(b'x')
    errors = [str(one) for r in check_data(config) for one in r.findings.errors]
    assert any('unreadable pictures: 1' in error for error in errors)


@pytest.mark.parametrize(
    'text', ['', '[]', '{"x": 1}', '[' * 99_999, '{"a": {"report":']
)
def test_damaged_notes_are_no_obstacle(coco: Path, text: str) -> None:
    config = coco_config(coco)
    check_data(config)
    (coco / 'work' / preflight.CACHE).write_text(text)
    (report,) = check_data(config)
    assert not report.findings.errors
    assert json.loads((coco / 'work' / preflight.CACHE).read_text())


# -- run lengths as COCO's own code reads them -------------------------------------


@pytest.mark.parametrize('seed', range(5))
def test_run_lengths_are_read_as_by_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((40, 31)) < (0.03, 0.5, 0.97, 0, 1)[seed]
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    text = rle['counts'].decode()
    counts = decode_counts(text)
    runs = np.diff(np.flatnonzero(np.diff(mask.T.ravel(), prepend=False)))
    assert sum(counts) == mask.size
    assert sum(counts[1::2]) == mask.sum()
    assert sorted(counts[1 : 1 + len(runs)]) == sorted(runs.tolist())
    assert rle_problem({'size': [40, 31], 'counts': text}, 40, 31) == ''
    assert rle_problem({'size': [40, 31], 'counts': counts}, 40, 31) == ''
