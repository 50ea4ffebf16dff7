"""Classes of picture files: as timm's model and transform see them."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

from mmpoolformer.classification.prediction import predict_pictures
from mmpoolformer.utils.images import PictureError, find_pictures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for i, name in enumerate(('b.png', 'a.JPG', 'deep/er/c.webp', 'deep/d.tif')):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (30 + 9 * i, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / 'note.txt').write_text('no picture')
    (tmp_path / '.thumbnails').mkdir()
    (tmp_path / '.thumbnails' / 'b.png').write_bytes(b'')
    return tmp_path


def network(num_classes: int) -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model('test_resnet', num_classes=num_classes).eval()


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('num_classes', [3, 20])
def test_predictions_are_timms(folder: Path, workers: int, num_classes: int) -> None:
    model, paths = network(num_classes), find_pictures([str(folder)])
    transform = create_transform(**resolve_model_data_config(model))
    found = list(
        predict_pictures(model, paths, transform, batch_size=3, workers=workers)
    )
    assert [one.path for one in found] == paths
    assert len(paths) == 4
    for one in found:
        with Image.open(one.path) as picture, torch.no_grad():
            scores = model(transform(picture.convert('RGB'))[None]).softmax(1)[0]
        best = scores.topk(min(5, num_classes))
        assert list(one.classes) == best.indices.tolist()
        assert one.probabilities == pytest.approx(best.values.tolist(), rel=1e-4)
        assert one.problem == ''


def test_unreadable_pictures(folder: Path) -> None:
    model = network(3)
    (folder / 'b.png').write_bytes((folder / 'b.png').read_bytes()[:100])
    paths = [str(folder / 'a.JPG'), str(folder / 'b.png'), str(folder / 'note.txt')]
    transform = create_transform(32)
    with pytest.raises(PictureError, match=r'b\.png: can not be read'):
        list(predict_pictures(model, paths, transform))
    found = list(predict_pictures(model, paths, transform, skip_unreadable=True))
    assert [bool(one.problem) for one in found] == [False, True, True]
    assert 'note.txt: can not be read' in found[2].problem
    (alone,) = predict_pictures(model, paths[:1], transform)
    assert found[0].classes == alone.classes


@pytest.mark.parametrize('suffix', ['.avif', '.webp', '.JPG', '.tif'])
def test_a_damaged_picture_of_a_folder_is_skipped(folder: Path, suffix: str) -> None:
    path = folder / f'c{suffix}'
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = bytes(9)
    path.write_bytes(content)
    paths = find_pictures([str(folder)])
    assert str(path) in paths
    found = list(
        predict_pictures(
            network(3), paths, create_transform(32), batch_size=2, skip_unreadable=True
        )
    )
    assert [one.path for one in found if one.problem] == [str(path)]
    assert len(found) == 5


def test_what_the_transform_raises_is_the_pictures_problem(folder: Path) -> None:
    def transform(picture: Image.Image) -> torch.Tensor:
        if picture.size == (30, 40):
            raise ZeroDivisionError('no pixel left')
        return create_transform(32)(picture)

    Image.new('RGB', (30, 40)).save(folder / 'c.png')
    paths = find_pictures([str(folder)])
    found = list(predict_pictures(network(3), paths, transform, skip_unreadable=True))
    assert [one.problem for one in found if one.problem] == [
        f'{folder}/c.png: can not be read as a picture (no pixel left)'
    ]
    with pytest.raises(PictureError, match=r'c\.png.*no pixel left'):
        list(predict_pictures(network(3), paths, transform))


def test_scores_that_are_not_finite_are_an_error(folder: Path) -> None:
    model = network(3)
    model.fc.bias.data[1] = float('nan')
    with pytest.raises(ValueError, match=r'a\.JPG: .* not finite'):
        list(predict_pictures(model, [str(folder / 'a.JPG')], create_transform(32)))


def names(places: list[str], folder: Path) -> list[str]:
    found = find_pictures([str(folder / place) for place in places])
    return [str(Path(path).relative_to(folder)) for path in found]


def test_places(folder: Path) -> None:
    whole = ['a.JPG', 'b.png', 'deep/d.tif', 'deep/er/c.webp']
    assert names(['.'], folder) == whole
    assert names(['*.png', 'b.png', 'a.JPG'], folder) == ['b.png', 'a.JPG']
    assert names(['**/*.webp'], folder) == ['deep/er/c.webp']
    assert names(['d*'], folder) == ['deep/d.tif', 'deep/er/c.webp']
    assert names(['note.txt'], folder) == ['note.txt']  # named one by one: any name
    (folder / 'x[1].png').touch()
    assert names(['x[1].png'], folder) == ['x[1].png']


@pytest.mark.parametrize(
    ('place', 'words'),
    [
        ('gone.png', r'gone\.png: no such picture or folder'),
        ('*.bmp', r'\*\.bmp: no such picture or folder'),
        ('empty', r'empty: no picture there'),
    ],
)
def test_places_without_pictures(folder: Path, place: str, words: str) -> None:
    (folder / 'empty').mkdir()
    with pytest.raises(ValueError, match=words):
        names([place], folder)
