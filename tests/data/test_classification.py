"""Pictures with class labels: right ones read as timm reads them, wrong ones named."""

import json
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from PIL import Image
from timm.data import create_dataset, create_transform
from two_processes import in_two_processes

from mmpoolformer.classification import (
    SeededSampler,
    TimmDataset,
    TimmStream,
    folder_classes,
)
from mmpoolformer.utils.images import PictureError, open_picture

EVALUATION = dict(input_size=16, crop_pct=1.0)
TRAINING = dict(
    input_size=16,
    is_training=True,
    auto_augment='rand-m9-mstd0.5-inc1',
    re_prob=0.5,
    re_mode='pixel',
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of four pictures each, for training and validation."""
    generator = np.random.default_rng(0)
    for split in ('train', 'val'):
        for name in ('ant', 'bee', 'cat'):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(4):
                pixels = generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f'{i}.png')
    return tmp_path


def test_items_equal_timms(folder: Path) -> None:
    ours = TimmDataset(str(folder), 'val', transform=EVALUATION)
    theirs = create_dataset('', str(folder), split='val')
    theirs.transform = create_transform(**EVALUATION)
    assert len(ours) == len(theirs) == 12
    assert ours.metainfo == {'classes': ('ant', 'bee', 'cat')}
    for i in range(12):
        image, label = theirs[i]
        assert torch.equal(ours[i]['inputs'], image)
        assert ours[i]['targets'] == label
        assert ours[i]['img_path'] == theirs.filename(i, absolute=True)


def test_augmentation_depends_on_the_place_alone(folder: Path) -> None:
    data = TimmDataset(str(folder), 'train', transform=TRAINING)
    first = data[5, 0, 1, 2]['inputs']
    random.seed(99), np.random.seed(99), torch.manual_seed(99)
    assert torch.equal(data[5, 0, 1, 2]['inputs'], first)
    others = [data[5, 0, 1, place]['inputs'] for place in range(3, 8)]
    assert all(not torch.equal(other, first) for other in others)


def test_the_generators_run_on_untouched(folder: Path) -> None:
    data = TimmDataset(str(folder), 'train', transform=TRAINING)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    _ = data[0, 7, 7, 7]
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected


@pytest.mark.parametrize('workers', [1, 2])
def test_worker_processes_change_nothing(folder: Path, workers: int) -> None:
    def batches(count: int) -> list[torch.Tensor]:
        loader = Runner.build_dataloader(
            dict(
                dataset=dict(
                    type='mmpoolformer.TimmDataset',
                    root=str(folder),
                    split='train',
                    transform=TRAINING,
                ),
                sampler=dict(type='mmpoolformer.SeededSampler'),
                collate_fn=dict(type='default_collate'),
                batch_size=4,
                num_workers=count,
            ),
            seed=3,
        )
        loader.sampler.set_epoch(2)
        return [batch['inputs'] for batch in loader]

    for one, other in zip(batches(0), batches(workers), strict=True):
        assert torch.equal(one, other)


def test_sampler_gives_every_picture_once_with_its_place(folder: Path) -> None:
    data = TimmDataset(str(folder), 'train', transform=EVALUATION)
    places = list(SeededSampler(data, seed=4))
    assert sorted(index for index, *_ in places) == list(range(12))
    assert [place for *_, place in places] == list(range(12))


def test_tar_files_are_read_too(folder: Path, tmp_path: Path) -> None:

    with tarfile.open(tmp_path / 'train.tar', 'w') as tar:
        for path in sorted((folder / 'train').rglob('*.png')):
            tar.add(path, path.relative_to(folder / 'train'))
    packed = TimmDataset(str(tmp_path / 'train.tar'), transform=EVALUATION)
    plain = TimmDataset(str(folder), 'train', transform=EVALUATION)
    assert packed.metainfo == plain.metainfo
    for i in range(12):
        assert torch.equal(packed[i]['inputs'], plain[i]['inputs'])
        assert packed[i]['targets'] == plain[i]['targets']


def test_empty_class_folder_is_named(folder: Path) -> None:
    (folder / 'train' / 'ape').mkdir()
    with pytest.raises(ValueError, match='no picture in ape'):
        TimmDataset(str(folder), 'train')
    with pytest.raises(ValueError, match='no picture in ape'):
        folder_classes(folder)


def test_missing_split_and_root_are_named(folder: Path) -> None:
    (folder / 'val').rename(folder / 'held_out')
    with pytest.raises(ValueError, match=r"split 'val'.*it has held_out, train"):
        TimmDataset(str(folder), 'val')
    with pytest.raises(ValueError, match='no such folder'):
        TimmDataset(str(folder / 'nowhere'), 'train')


def test_synonyms_of_splits_are_found(folder: Path) -> None:
    (folder / 'val').rename(folder / 'validation')
    assert TimmDataset(str(folder), 'val').root == folder / 'validation'


def test_picture_outside_of_the_classes_is_named(folder: Path) -> None:
    Image.new('RGB', (8, 8)).save(folder / 'train' / 'stray.png')
    with pytest.raises(ValueError, match=r'stray\.png lies outside'):
        TimmDataset(str(folder), 'train')


def test_unknown_options_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"on_error='ignore'.*raise, skip"):
        TimmDataset(str(folder), 'train', on_error='ignore')
    with pytest.raises(TypeError, match='colour_jitter'):
        TimmDataset(str(folder), 'train', transform=dict(colour_jitter=0.1))


def broken(folder: Path) -> Path:
    """Cut the second picture of the first class short."""
    path = folder / '1.png'
    path.write_bytes(path.read_bytes()[:300])
    return path


def test_truncated_picture_is_an_error_that_names_it(folder: Path) -> None:
    path = broken(folder / 'train' / 'ant')
    data = TimmDataset(str(folder), 'train', transform=EVALUATION)
    with pytest.raises(PictureError, match=rf'{path}.*on_error'):
        data[1]


def test_skipped_in_training_the_next_one_stands_in(folder: Path) -> None:
    path = broken(folder / 'train' / 'ant')
    data = TimmDataset(str(folder), 'train', transform=TRAINING, on_error='skip')
    stand_in, wanted = data[1, 0, 0, 1], data[2, 0, 0, 1]
    assert torch.equal(stand_in['inputs'], wanted['inputs'])
    assert stand_in['img_path'].endswith('2.png')
    assert data.unreadable == [str(path)]


def test_skipped_in_an_evaluation_it_does_not_count(folder: Path) -> None:
    path = broken(folder / 'val' / 'ant')
    data = TimmDataset(str(folder), 'val', transform=EVALUATION, on_error='skip')
    loader = torch.utils.data.DataLoader(data, batch_size=6, num_workers=1)
    labels = torch.cat([batch['targets'] for batch in loader])
    assert labels.tolist() == [0, -1, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert data.unreadable == [str(path)]  # met in the worker process


def test_processes_tell_each_other_what_they_have_skipped(
    folder: Path, tmp_path: Path
) -> None:
    paths = [broken(folder / 'train' / name) for name in ('ant', 'cat')]

    def read_own_half(rank: int) -> int:
        data = TimmDataset(
            str(folder), 'train', transform=EVALUATION, on_error='skip', quiet=True
        )
        for index in range(6 * rank, 6 * rank + 6):
            data[index]
        assert data.unreadable == [str(paths[rank])]
        data.share_unreadable()
        assert data.unreadable == [*map(str, paths)]
        return 0

    assert in_two_processes(read_own_half, tmp_path / 'meet') == [0, 0]


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    for i in range(2):
        (tmp_path / 'ant').mkdir(exist_ok=True)
        (tmp_path / 'ant' / f'{i}.png').write_bytes(b'no picture')
    data = TimmDataset(str(tmp_path), transform=EVALUATION, on_error='skip')
    with pytest.raises(PictureError, match='none of its 2 pictures'):
        data[0]


@pytest.mark.parametrize(
    ('mode', 'colour', 'expected'),
    [
        ('L', 90, (90, 90, 90)),
        ('RGBA', (10, 20, 30, 0), (10, 20, 30)),
        ('LA', (70, 255), (70, 70, 70)),
        ('1', 1, (255, 255, 255)),
        ('CMYK', (0, 255, 255, 0), (255, 0, 0)),
    ],
)
def test_colour_modes(
    tmp_path: Path, mode: str, colour: object, expected: tuple
) -> None:
    path = tmp_path / ('a.tif' if mode == 'CMYK' else 'a.png')
    Image.new(mode, (4, 4), colour).save(path)
    assert open_picture(path).getpixel((0, 0)) == expected


def test_16_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / 'deep.png')
    found = np.asarray(open_picture(tmp_path / 'deep.png'))
    assert found[0, :, 0].tolist() == [0, 1, 128, 255]
    assert found.shape == (1, 4, 3)


def test_32_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[70000]], dtype=np.int32)).save(tmp_path / 'deep.tif')
    with pytest.raises(PictureError, match='at most 16 bits'):
        open_picture(tmp_path / 'deep.tif')


def test_bombs_and_text_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'note.png').write_text('no picture')
    with pytest.raises(PictureError, match=r'note\.png: can not be read'):
        open_picture(tmp_path / 'note.png')
    with pytest.raises(PictureError, match='no such picture'):
        open_picture(tmp_path / 'gone.png')
    Image.new('L', (100, 100)).save(tmp_path / 'large.png')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)
    with pytest.raises(PictureError, match=r'large\.png.*decompression bomb'):
        open_picture(tmp_path / 'large.png')


@pytest.fixture
def shards(folder: Path, tmp_path: Path) -> Path:
    """Return a folder of two shards, of five and seven pictures."""
    pytest.importorskip('webdataset')
    root = tmp_path / 'shards'
    root.mkdir()
    paths = sorted((folder / 'train').rglob('*.png'))
    parts = {'train-0.tar': paths[:5], 'train-1.tar': paths[5:]}
    for name, part in parts.items():
        with tarfile.open(root / name, 'w') as tar:
            for path in part:
                place = f'{paths.index(path):04d}'
                tar.add(path, f'{place}.png')
                label = folder / 'label.txt'
                label.write_text(str(('ant', 'bee', 'cat').index(path.parent.name)))
                tar.add(label, f'{place}.cls')
    part = {
        'name': 'train',
        'num_samples': 12,
        'filenames': list(parts),
        'shard_lengths': [5, 7],
    }
    (root / '_info.json').write_text(json.dumps({'splits': {'train': part}}))
    return root


def stream_of(shards: Path, **options: object) -> TimmStream:
    options = {'transform': dict(input_size=16), **options}
    return TimmStream('wds/shards', str(shards), 'train', **options)


def test_streams_give_every_picture(folder: Path, shards: Path) -> None:
    stream = stream_of(shards)
    assert len(stream) == 12
    plain = TimmDataset(str(folder), 'train', transform=dict(input_size=16))
    for i, item in enumerate(stream):
        assert item['targets'] == plain[i]['targets']
        assert torch.equal(item['inputs'], plain[i]['inputs'])
    assert i == 11


@pytest.mark.parametrize('workers', [2, 5])
def test_streams_count_every_picture_of_an_evaluation(
    shards: Path, workers: int
) -> None:
    stream = stream_of(shards, num_workers=workers)
    loader = torch.utils.data.DataLoader(stream, batch_size=4, num_workers=2)
    assert len(stream) == sum(len(batch['targets']) for batch in loader) == 12


def test_streams_are_not_evaluated_in_shares(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('mmpoolformer.data.stream.get_world_size', lambda: 2)
    with pytest.raises(ValueError, match='by one process only; use type='):
        stream_of(shards)
    stream_of(shards, transform=dict(input_size=16, is_training=True))


def test_streams_and_indexed_sets_are_told_apart(folder: Path) -> None:
    with pytest.raises(ValueError, match='is read by index'):
        TimmStream('', str(folder), 'train')
