"""Picture files of every format: what is opened, and what is refused."""

import io
import os
import stat
import struct
import subprocess
import sys
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from tool_process import environment

from mmpoolformer.analysis.gradcam_pages import read_picture
from mmpoolformer.classification import TimmDataset, TimmStream, predict_pictures
from mmpoolformer.data.checks.images import inspect_image
from mmpoolformer.inference.classifiers import KnownClassifier
from mmpoolformer.utils.images import (
    FORMATS,
    PICTURE_ERRORS,
    PictureError,
    convert_picture,
    open_picture,
)

NOISE = np.random.default_rng(0).integers(0, 255, (20, 24, 3), np.uint8)
OPENED = ('AVIF', 'BMP', 'GIF', 'JPEG', 'MPO', 'PNG', 'PPM', 'TIFF', 'WEBP')
# What Pillow writes and reads besides, in a mode that it takes.
REFUSED = {
    'DDS': 'RGB',
    'EPS': 'RGB',
    'ICNS': 'RGB',
    'ICO': 'RGB',
    'IM': 'RGB',
    'JPEG2000': 'RGB',
    'MSP': '1',
    'PCX': 'RGB',
    'SGI': 'RGB',
    'SPIDER': 'F',
    'TGA': 'RGB',
    'XBM': '1',
}


def encoded(kind: str, mode: str = 'RGB', **options: object) -> bytes:
    stream = io.BytesIO()
    picture = Image.fromarray(NOISE).resize((32, 32)).convert(mode)
    picture.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize('kind', OPENED)
def test_common_formats_are_opened_by_content(tmp_path: Path, kind: str) -> None:
    path = tmp_path / 'a.jpg'
    path.write_bytes(encoded(kind))
    with Image.open(path) as expected:
        assert np.array_equal(open_picture(path), expected.convert('RGB'))
    assert inspect_image(str(path), decode=True).problem == ''
    assert inspect_image(str(path)).stored == (32, 32)


@pytest.mark.parametrize('kind', REFUSED)
def test_other_formats_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / 'a.jpg'
    path.write_bytes(encoded(kind, REFUSED[kind]))
    with pytest.raises(PictureError, match=r'a\.jpg: can not be read .*JPEG, PNG'):
        open_picture(path)
    assert inspect_image(str(path)).problem
    root = tmp_path / 'classes' / 'ant'
    root.mkdir(parents=True)
    path.rename(root / 'a.jpg')
    with pytest.raises(PictureError, match=r'a\.jpg: can not be read'):
        TimmDataset(str(root.parent))[0]


def test_data_sets_of_torchvision_open_no_other_formats(tmp_path: Path) -> None:
    (tmp_path / 'ant').mkdir()
    for name, kind in (('0.jpg', 'PNG'), ('1.jpg', 'TGA')):
        (tmp_path / 'ant' / name).write_bytes(encoded(kind))
    transform = dict(input_size=16)
    data = TimmDataset(str(tmp_path), name='torch/image_folder', transform=transform)
    assert data[0]['inputs'].shape == (3, 16, 16)
    with pytest.raises(PictureError, match=r'1\.jpg: can not be read'):
        data[1]


# How a reader gets at a file, and what comes of it; the fourth is Pillow as it is.
READERS = {
    'pictures.open_picture(path)': 'PictureError False',
    'picture_files.inspect_image(path, True)': 'read False',
    'picture_files.inspect_image(path, True, counted=True)': 'read False',
    'Image.open(path).load()': 'UnidentifiedImageError True',
    'pictures.limit_formats(); Image.open(path)': 'UnidentifiedImageError False',
    'mmcv.imread(path, backend="pillow")': 'UnidentifiedImageError False',
    'reader_wds._decode({"jpg": open(path, "rb").read(), "cls": b"1"}, "jpg")': (
        'UnidentifiedImageError False'
    ),
}
SCRIPT = """
import os
import sys
import mmcv
from PIL import Image
from timm.data.readers import reader_wds
from mmpoolformer.utils import images as pictures
from mmpoolformer.data.checks import images as picture_files
path, marker = sys.argv[1:3]
for reader in sys.argv[3:]:
    try:
        exec(reader)
        result = 'read'
    except (OSError, ValueError) as error:
        result = type(error).__name__
    print(result, os.path.exists(marker))
    if os.path.exists(marker):
        os.unlink(marker)
"""


@pytest.mark.slow
def test_no_other_program_is_started(tmp_path: Path) -> None:
    """A stand-in for Ghostscript says when it is started, as it is by Pillow alone."""
    path, marker = tmp_path / 'a.jpg', tmp_path / 'started'
    path.write_bytes(encoded('EPS'))
    program = tmp_path / 'gs'
    program.write_text(f'#!/bin/sh\necho started >> {marker}\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    variables = environment()
    variables['PATH'] = f'{tmp_path}{os.pathsep}{variables["PATH"]}'
    command = [sys.executable, '-c', SCRIPT, str(path), str(marker), *READERS]
    done = subprocess.run(
        command, env=variables, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == list(READERS.values())


def test_formats_are_those_of_pillow() -> None:
    assert set(FORMATS) == {*OPENED} - {'MPO'}


# -- damaged files -----------------------------------------------------------------


def damaged(content: bytes, generator: np.random.Generator) -> bytes:
    """Change a few bytes, or cut the file short, or both."""
    changed = bytearray(content)
    for place in generator.integers(0, len(content), generator.integers(1, 6)):
        changed[place] = generator.integers(0, 256)
    return bytes(changed[: generator.integers(1, 2 * len(content))])


@pytest.mark.parametrize('kind', OPENED)
@pytest.mark.filterwarnings('ignore')
def test_damaged_files_are_read_or_named(kind: str) -> None:
    generator = np.random.default_rng(7)
    content = encoded(kind)
    named = 0
    for _ in range(150):
        try:
            picture = open_picture(io.BytesIO(damaged(content, generator)), name='a')
            assert picture.mode == 'RGB'
        except PictureError as error:
            assert str(error).startswith('a: ')
            named += 1
    assert named


@pytest.mark.parametrize('error', PICTURE_ERRORS)
def test_whatever_a_reader_raises_is_the_pictures_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type
) -> None:
    path = tmp_path / 'a.png'
    path.write_bytes(encoded('PNG'))

    def fail(self: Image.Image) -> None:
        raise error('broken')

    monkeypatch.setattr('PIL.ImageFile.ImageFile.load', fail)
    with pytest.raises(PictureError, match=r'a\.png: can not be read .*broken'):
        open_picture(path)
    assert 'broken' in inspect_image(str(path), decode=True).problem


def test_a_damaged_avif_stops_no_folder(tmp_path: Path) -> None:
    sound = encoded('AVIF')
    start = sound.index(b'mdat') + 4
    (tmp_path / 'a.avif').write_bytes(sound[:start] + bytes(len(sound) - start))
    (tmp_path / 'b.avif').write_bytes(sound)
    with Image.open(tmp_path / 'a.avif') as picture:  # what Pillow says
        assert picture.size == (32, 32)
        with pytest.raises(RuntimeError, match='Failed to decode'):
            picture.load()
    paths = [str(tmp_path / name) for name in ('a.avif', 'b.avif')]
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 2))
    transform = create_transform(16)
    found = list(predict_pictures(network, paths, transform, skip_unreadable=True))
    assert [bool(one.problem) for one in found] == [True, False]
    assert found[0].problem.startswith(f'{paths[0]}: can not be read')


# -- orientation -------------------------------------------------------------------

ORIENTATION = 0x0112
# What each value of EXIF's tag asks for, from its definition: where row 0 and column 0
# of the stored pixels are in the scene.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}


def turned(path: Path, turn: int, kind: str = 'PNG') -> np.ndarray:
    """Write a picture with the tag, and return what is to be seen."""
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    options = {'lossless': True} if kind == 'WEBP' else {}
    Image.fromarray(NOISE).save(path, kind, exif=exif, **options)
    return UPRIGHT[turn](NOISE)


@pytest.mark.parametrize('kind', ['PNG', 'TIFF', 'WEBP'])
@pytest.mark.parametrize('turn', UPRIGHT)
def test_one_rule_of_orientation(tmp_path: Path, turn: int, kind: str) -> None:
    """Wherever pictures are read, they are upright, and are not turned twice."""
    path = tmp_path / 'data' / 'ant' / 'a.png'
    path.parent.mkdir(parents=True)
    expected = turned(path, turn, kind)
    picture = open_picture(path)
    assert np.array_equal(picture, expected)
    assert np.array_equal(convert_picture(picture), expected)
    with Image.open(path) as opened:
        assert np.array_equal(convert_picture(opened), expected)
    assert np.array_equal(KnownClassifier.read(str(path)), expected)
    assert np.array_equal(read_picture(path, KnownClassifier).pixels, expected)
    root = str(tmp_path / 'data')
    for data in (TimmDataset(root), TimmDataset(root, name='torch/image_folder')):
        data.transform = np.array
        assert np.array_equal(data[0]['inputs'], expected)

    class Network(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            assert np.array_equal(images[0].permute(1, 2, 0), expected)
            return torch.zeros(1, 2)

    def transform(picture: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)

    (found,) = predict_pictures(Network(), [str(path)], transform)
    assert not found.problem


def test_a_picture_can_be_read_as_it_is_stored(tmp_path: Path) -> None:
    expected = turned(tmp_path / 'a.png', 6, 'PNG')
    assert np.array_equal(open_picture(tmp_path / 'a.png', upright=True), expected)
    stored = open_picture(tmp_path / 'a.png', upright=False)
    assert np.array_equal(stored, NOISE)


@pytest.mark.parametrize('turn', UPRIGHT)
def test_detection_sees_what_classification_sees(tmp_path: Path, turn: int) -> None:
    expected = turned(tmp_path / 'a.png', turn)
    assert np.array_equal(mmcv.imread(tmp_path / 'a.png')[..., ::-1], expected)


def test_streams_are_upright(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = turned(tmp_path / 'a.png', 6)

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            with Image.open(tmp_path / 'a.png') as picture:
                yield picture.convert('RGB'), 0

        def set_loader_cfg(self, num_workers: int) -> None:
            pass

    monkeypatch.setattr(
        'mmpoolformer.data.stream.create_dataset', lambda *_, **__: Stream()
    )
    stream = TimmStream('wds/x')
    stream.transform = np.array
    (item,) = stream
    assert np.array_equal(item['inputs'], expected)


def exif_block(generator: np.random.Generator, turn: int) -> bytes:
    """Return a camera's notes that hold the tag among others of random content."""
    order = generator.choice(['<', '>'])
    count = int(generator.integers(1, 8))
    place = int(generator.integers(0, count))
    block = (b'II*\0' if order == '<' else b'MM\0*') + struct.pack(order + 'I', 8)
    block += struct.pack(order + 'H', count)
    for i in range(count):
        if i == place:
            block += struct.pack(order + 'HHIHH', ORIENTATION, 3, 1, turn, 0)
            continue
        tag = int(generator.integers(0x0113, 0xFFFF))
        kind, number = int(generator.integers(0, 14)), int(generator.integers(0, 40))
        block += struct.pack(order + 'HHI', tag, kind, number) + generator.bytes(4)
    return b'Exif\0\0' + block + generator.bytes(generator.integers(0, 200))


@pytest.mark.filterwarnings('ignore')
def test_odd_notes_of_cameras_are_no_obstacle() -> None:
    """Sound JPEGs with random EXIF: the tag counts, whatever else is there."""
    generator = np.random.default_rng(3)
    plain = encoded('JPEG')
    pixels = np.asarray(Image.open(io.BytesIO(plain)))
    differ = 0
    for _ in range(300):
        turn = int(generator.integers(1, 9))
        block = exif_block(generator, turn)
        content = encoded('JPEG', exif=block)
        picture = open_picture(io.BytesIO(content), name='a')
        assert np.array_equal(picture, UPRIGHT[turn](pixels)), block
        theirs = Image.open(io.BytesIO(content)).getexif().get(ORIENTATION, 1)
        differ += theirs != turn
    assert differ > 20  # Pillow gives up on these


@pytest.mark.filterwarnings('ignore')
def test_any_bytes_for_notes() -> None:
    generator = np.random.default_rng(4)
    pixels = np.asarray(Image.open(io.BytesIO(encoded('JPEG'))))
    for _ in range(500):
        block = b'Exif\0\0' + generator.choice([b'II*\0', b'MM\0*', b''])
        block += generator.bytes(generator.integers(0, 300))
        content = encoded('JPEG', exif=block)
        assert look_turned(content, pixels)


def look_turned(content: bytes, pixels: np.ndarray) -> bool:
    """Tell whether a picture is read as these pixels, in any orientation."""
    found = np.asarray(open_picture(io.BytesIO(content), name='a'))
    return any(np.array_equal(found, turn(pixels)) for turn in UPRIGHT.values())
