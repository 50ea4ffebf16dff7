"""Picture files of every format: what is opened, and what is refused."""

import io
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from tool_process import environment

from mmpoolformer.classification import TimmDataset, predict_pictures
from mmpoolformer.classification.pictures import (
    FORMATS,
    PICTURE_ERRORS,
    PictureError,
    open_picture,
)
from mmpoolformer.deploy.predictor import read_source
from mmpoolformer.engine.picture_files import look

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
    assert look(str(path), decode=True).problem == ''
    assert look(str(path)).stored == (32, 32)


@pytest.mark.parametrize('kind', REFUSED)
def test_other_formats_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / 'a.jpg'
    path.write_bytes(encoded(kind, REFUSED[kind]))
    with pytest.raises(PictureError, match=r'a\.jpg: can not be read .*JPEG, PNG'):
        open_picture(path)
    assert look(str(path)).problem
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


# How a reader gets at a file; the first one is Pillow as it is.
READERS = {
    'pillow': 'Image.open(path).load()',
    'open_picture': 'pictures.open_picture(path)',
    'look': 'picture_files.look(path, True)',
    'labels': 'picture_files.look_at_labels(path)',
    'limited': 'pictures.limit_formats(); Image.open(path).load()',
    'mmcv': 'pictures.limit_formats(); mmcv.imread(path, backend="pillow")',
    'timm': (
        'pictures.limit_formats(); '
        'reader_wds._decode({"jpg": open(path, "rb").read(), "cls": b"1"}, "jpg")'
    ),
}
SCRIPT = """
import sys
import mmcv
from PIL import Image
from timm.data.readers import reader_wds
from mmpoolformer.classification import pictures
from mmpoolformer.engine import picture_files
path = sys.argv[1]
for reader in sys.argv[2:]:
    try:
        exec(reader)
        print('read')
    except (OSError, ValueError) as error:
        print(type(error).__name__)
"""


def test_no_other_program_is_started(tmp_path: Path) -> None:
    """A stand-in for Ghostscript says when it is started."""
    path, marker = tmp_path / 'a.jpg', tmp_path / 'started'
    path.write_bytes(encoded('EPS'))
    program = tmp_path / 'gs'
    program.write_text(f'#!/bin/sh\necho started >> {marker}\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    variables = environment()
    variables['PATH'] = f'{tmp_path}{os.pathsep}{variables["PATH"]}'

    def run(*readers: str) -> list[str]:
        command = [sys.executable, '-c', SCRIPT, str(path), *readers]
        done = subprocess.run(
            command, env=variables, capture_output=True, text=True, check=True
        )
        return done.stdout.split()

    safe = [READERS[name] for name in READERS if name != 'pillow']
    told = run(*safe)
    assert not marker.exists()
    assert told == ['PictureError', 'read', 'read', *['UnidentifiedImageError'] * 3]
    run(READERS['pillow'])
    assert marker.exists()  # or else nothing was proven


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
    assert 'broken' in look(str(path), decode=True).problem


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
    assert [bool(read_source(path, True).problem) for path in paths] == [True, False]
