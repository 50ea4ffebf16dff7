import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_data import (
    ROOT,
    write_data,
    write_detection_config,
    write_segmentation_config,
)
from tool_process import run_many

from mmpoolformer.analysis.browsing import open_data
from mmpoolformer.data.demo.scenes import DemoSettings, make_demo_data
from mmpoolformer.utils.errors import UserError

pytestmark = pytest.mark.slow

CLASSIFICATION = """
_base_ = '{root}/configs/classification/demo_poolformer_s12.py'
train_dataloader = dict(num_workers=0, dataset=dict(root='{data}/classification'))
"""


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp('browse')
    data = folder / 'data'
    write_data(data)
    write_detection_config(folder / 'detection.py', data)
    write_detection_config(folder / 'masks.py', data, masks=True)
    write_segmentation_config(folder / 'segmentation.py', data)
    make_demo_data(folder / 'demo', DemoSettings(train=6, val=6, size=128), 1)
    (folder / 'classification.py').write_text(
        CLASSIFICATION.format(root=ROOT, data=folder / 'demo')
    )
    return folder


def opened(path: Path, split: str = 'train', **changes):
    from mmengine.config import Config

    config = Config.fromfile(path)
    config.merge_from_dict(changes)
    return open_data(config, split)


def first_step(path: Path, **changes):
    """Return a config's first training picture, and that of the file."""
    data = opened(path, **changes)
    return data, next(data.pictures(1, 0))


def test_boxes_and_masks_lie_on_what_they_mark(tiny):
    pytest.importorskip('mmdet')
    data = opened(tiny / 'masks.py')
    assert data.classes == ('square', 'disc')
    pictures = list(data.pictures(16, 0))
    assert len(pictures) == 16
    # The tiny data's squares are red and its discs blue.
    for picture in pictures:
        boxes = picture.boxes
        assert len(boxes.labels) > 0
        for mask, label in zip(boxes.masks, boxes.labels, strict=True):
            red, _, blue = picture.pixels[mask].mean(0)
            assert (red > blue) == (label == 0)


def test_boxes_read_after_resizing_are_brought_to_size(tiny):
    pytest.importorskip('mmdet')
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(128, 128), keep_ratio=True),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(
            type='PackDetInputs',
            meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
        ),
    ]
    change = {'train_dataloader.dataset.pipeline': pipeline}
    _, plain = first_step(tiny / 'detection.py')
    _, large = first_step(tiny / 'detection.py', **change)
    assert plain.name == large.name
    assert large.pixels.shape == (128, 128, 3)
    np.testing.assert_allclose(large.boxes.boxes, 2 * plain.boxes.boxes)


def test_segmentation_shows_what_is_fed(tiny):
    pytest.importorskip('mmseg')
    data, picture = first_step(tiny / 'segmentation.py')
    assert data.colours.tolist() == [[230, 40, 40], [40, 60, 230], [99, 99, 99]]
    source = next((tiny / 'data' / 'images').rglob(f'training/{picture.name}'))
    np.testing.assert_allclose(
        picture.pixels.astype(int), np.array(Image.open(source)).astype(int), atol=1
    )
    truth = tiny / 'data' / 'annotations' / 'training' / picture.name
    np.testing.assert_array_equal(
        picture.labels, np.array(Image.open(truth)).astype(np.uint8) - np.uint8(1)
    )


def test_classification_undoes_the_normalisation(tiny):
    change = {
        'train_dataloader.dataset.transform': dict(
            _delete_=True, input_size=64, is_training=False, crop_pct=1.0
        )
    }
    data, picture = first_step(tiny / 'classification.py', **change)
    assert picture.pixels.shape == (64, 64, 3)
    name = data.classes[picture.category]
    folder = tiny / 'demo' / 'classification' / 'train' / name
    source = Image.open(folder / picture.name).convert('RGB')
    mean = np.asarray(source, float).mean((0, 1))
    np.testing.assert_allclose(picture.pixels.mean((0, 1)), mean, atol=6)


def test_augmentation_is_the_same_for_a_seed(tiny):
    data = opened(tiny / 'classification.py')
    one, other, third = (
        [picture.pixels for picture in data.pictures(3, seed)] for seed in (1, 1, 2)
    )
    assert all((a == b).all() for a, b in zip(one, other, strict=True))
    assert any(
        a.shape != b.shape or (a != b).any() for a, b in zip(one, third, strict=True)
    )


def test_what_is_not_there_is_told(tiny):
    with pytest.raises(ValueError, match='no test data in the config'):
        opened(tiny / 'detection.py', 'test', test_dataloader=None)
    root = tiny / 'demo' / 'classification'
    with pytest.raises((UserError, ValueError), match='nowhere'):
        opened(
            tiny / 'classification.py',
            **{'train_dataloader.dataset.root': str(root / 'nowhere')},
        )


@pytest.fixture(scope='module')
def runs(tiny):
    for name, end in (('a', 2.0), ('b', 1.0)):
        lines = [
            dict(epoch=1, iter=i, lr=0.1, loss=9.0 - i * (9 - end) / 30)
            for i in range(1, 31)
        ]
        folder = tiny / 'runs' / name
        folder.mkdir(parents=True)
        (folder / 'train_log.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    tools = ('tools/browse_data.py', 'tools/plot_curves.py')
    browse, curves = tools
    commands = [
        [browse, 'masks.py', '--out', 'page', '--number', 3, '--columns', 2],
        [browse, 'segmentation.py', '--out', 'single', '--single', '--number', 2],
        [browse, 'missing.py', '--out', 'x'],
        [browse, 'masks.py', '--out', 'x', '--number', 0],
        [curves, 'runs/a', 'runs/b'],
        [curves, 'runs/a', 'runs/b', '--keys', 'loss', 'lr', '--out', 'two.png'],
        [curves, 'runs/a', '--keys', 'mIoU', '--out', 'x.png'],
        [curves, 'runs/none', '--out', 'x.png'],
        [curves, 'runs/a', '--list'],
        [curves, 'runs/a', '--names', 'one', 'two'],
    ]
    return run_many(commands, tiny)


def test_the_tools_draw(runs, tiny):
    for done in (*runs[:2], *runs[4:6], runs[8]):
        assert done['code'] in (0, None), done['err']
    page = Image.open(tiny / 'page' / 'train.png')
    assert page.width == 2 * 320 + 30
    assert len(list((tiny / 'single').glob('*.png'))) == 2
    two, one = Image.open(tiny / 'two.png'), Image.open(tiny / 'curves.png')
    assert two.height == 2 * one.height  # a panel for each key
    assert runs[8]['out'].split() == ['loss', 'lr']


def test_mistakes_are_one_line(runs, tiny):
    expected = {
        2: (2, 'missing.py: no such config file'),
        3: (2, '--number and --columns from 1'),
        6: (1, 'no run has mIoU: choose from loss, lr'),
        7: (1, 'runs/none: no such work dir or log'),
        9: (2, '2 names for 1 runs'),
    }
    for place, (code, text) in expected.items():
        assert runs[place]['code'] == code
        assert runs[place]['err'].startswith('error: ')
        assert text in runs[place]['err']
        assert len(runs[place]['err'].splitlines()) == 1
    assert not (tiny / 'x').exists()
    assert not (tiny / 'x.png').exists()
