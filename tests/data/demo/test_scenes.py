import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tool_process import run_here

from mmpoolformer.data.demo import scenes as demo_data
from mmpoolformer.data.demo.scenes import (
    SEGMENTATION_CLASSES,
    SPLITS,
    DemoSettings,
    make_demo_data,
)
from mmpoolformer.data.demo.shapes import CLASSES, draw_scene

ROOT = Path(__file__).resolve().parents[3]
TOOL = ROOT / 'tools' / 'make_demo_data.py'
SETTINGS = DemoSettings(train=18, val=8, size=192, seed=3)
FLAGS = ['--train', '18', '--val', '8', '--size', '192', '--seed', '3']


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


def run_tool(*args):
    return run_here(['tools/make_demo_data.py', *args], ROOT)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp('demo') / 'data'
    assert make_demo_data(out, SETTINGS, workers=1, progress=False)
    return out


@pytest.fixture(scope='module', params=SPLITS)
def split(request):
    return request.param


@pytest.fixture
def coco(data, split):
    return COCO(str(data / 'detection' / 'annotations' / f'{split}.json'))


def test_second_process_with_more_workers_writes_the_same_bytes(data, tmp_path):
    result = run_tool('--out', tmp_path / 'again', *FLAGS, '--workers', 2)
    assert result['code'] == 0, result['err']
    assert digests(tmp_path / 'again') == digests(data)


def test_more_scenes_leave_the_first_ones_as_they_are(data, tmp_path):
    more = DemoSettings(train=20, val=9, size=192, seed=3)
    make_demo_data(tmp_path / 'more', more, workers=1, progress=False)
    before, after = digests(data), digests(tmp_path / 'more')
    pictures = [name for name in before if not name.endswith('.json')]
    assert {name: after.get(name) for name in pictures} == {
        name: before[name] for name in pictures
    }
    assert len(after) > len(before)


def test_another_seed_gives_other_pictures(data, tmp_path):
    other = DemoSettings(train=6, val=6, size=192, seed=4)
    make_demo_data(tmp_path / 'other', other, workers=1, progress=False)
    name = 'detection/images/train/000000.jpg'
    assert digests(tmp_path / 'other')[name] != digests(data)[name]


def test_splits_share_no_scene(data):
    pictures = digests(data / 'detection' / 'images')
    assert len(set(pictures.values())) == len(pictures) == SETTINGS.train + SETTINGS.val


def test_coco_lists_every_picture_at_its_size(data, split, coco):
    assert len(coco.imgs) == getattr(SETTINGS, split)
    for image in coco.imgs.values():
        file = data / 'detection' / 'images' / split / image['file_name']
        with Image.open(file) as picture:
            assert picture.size == (image['width'], image['height']) == (192, 192)
            assert picture.mode == 'RGB'
    assert [c['name'] for c in coco.dataset['categories']] == list(CLASSES)
    assert [c['id'] for c in coco.dataset['categories']] == [1, 2, 3, 4, 5, 6]


def test_areas_and_boxes_are_those_of_the_decoded_masks(coco):
    assert coco.anns
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation)
        encoded = coco_mask.encode(np.asfortranarray(mask))
        assert annotation['area'] == coco_mask.area(encoded) == mask.sum()
        assert annotation['bbox'] == coco_mask.toBbox(encoded).tolist()


def test_masks_are_what_was_drawn(coco, split):
    number = list(SPLITS).index(split)
    for image_id in coco.imgs:
        scene = draw_scene(SETTINGS.seed, number, image_id, SETTINGS.size)
        annotations = coco.loadAnns(coco.getAnnIds(image_id))
        for annotation, instance in zip(annotations, scene.instances, strict=True):
            assert annotation['category_id'] == instance.label + 1
            assert np.array_equal(coco.annToMask(annotation), instance.mask)


@pytest.mark.parametrize('kind', ['bbox', 'segm'])
def test_truth_against_itself_scores_one(coco, kind):
    predictions = [
        {
            'image_id': a['image_id'],
            'category_id': a['category_id'],
            'score': 1.0,
            'bbox': a['bbox'],
            'segmentation': coco.annToRLE(a),
        }
        for a in coco.anns.values()
    ]
    evaluation = COCOeval(coco, coco.loadRes(predictions), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == evaluation.stats[1] == 1


def test_segmentation_agrees_with_the_masks_pixel_by_pixel(data, split, coco):
    ade = data / 'segmentation'
    for image_id, image in coco.imgs.items():
        stem = Path(image['file_name']).stem
        labels = np.array(
            Image.open(ade / 'annotations' / SPLITS[split] / f'{stem}.png')
        )
        expected = np.ones_like(labels)
        for annotation in coco.loadAnns(coco.getAnnIds(image_id)):
            name = CLASSES[annotation['category_id'] - 1]
            # ADE20K counts its classes from 1
            label = SEGMENTATION_CLASSES.index(name) + 1
            expected[coco.annToMask(annotation) == 1] = label
        number = list(SPLITS).index(split)
        scene = draw_scene(SETTINGS.seed, number, image_id, SETTINGS.size)
        expected[scene.leftovers] = 0
        assert labels.dtype == np.uint8
        assert np.array_equal(labels, expected)


def test_pictures_of_detection_and_segmentation_are_the_same(data, split):
    detection = digests(data / 'detection' / 'images' / split)
    assert digests(data / 'segmentation' / 'images' / SPLITS[split]) == detection


def test_what_is_too_hidden_is_unlabelled_and_in_no_mask():
    index = next(i for i in range(500) if draw_scene(0, 0, i, size=128).leftovers.any())
    scene = draw_scene(0, 0, index, size=128)
    labels = demo_data.segmentation_map(scene)
    assert np.array_equal(labels == 0, scene.leftovers)


def test_classification_pictures_show_their_class(data, split, coco):
    folder = data / 'classification' / split
    assert sorted(p.name for p in folder.iterdir()) == sorted(CLASSES)
    for name in CLASSES:
        files = list((folder / name).iterdir())
        assert files
        for file in files:
            image_id, place = map(int, file.stem.split('_'))
            annotation = coco.loadAnns(coco.getAnnIds(image_id))[place]
            assert CLASSES[annotation['category_id'] - 1] == name
            with Image.open(file) as crop:
                assert min(crop.size) >= demo_data.CROP_SIDE


def test_smallest_data_set_shows_every_class(tmp_path):
    make_demo_data(
        tmp_path / 'least', DemoSettings(6, 6, 64), workers=1, progress=False
    )
    folders = list((tmp_path / 'least' / 'classification').glob('*/*'))
    assert len(folders) == 2 * len(CLASSES)
    assert all(any(folder.iterdir()) for folder in folders)


def test_mask_that_starts_at_the_first_pixel_is_encoded_right():
    mask = np.zeros((4, 5), dtype=bool)
    mask[:2, :2] = True
    mask[3, 4] = True
    runs = demo_data._run_lengths(mask)
    decoded = coco_mask.decode(coco_mask.frPyObjects(runs, 4, 5))
    assert np.array_equal(decoded, mask)


def test_complete_folder_is_used_again(data):
    before = {path: path.stat().st_mtime_ns for path in data.rglob('*')}
    assert not make_demo_data(data, SETTINGS, workers=1, progress=False)
    assert {path: path.stat().st_mtime_ns for path in data.rglob('*')} == before


def test_other_settings_are_refused_unless_forced(tmp_path):
    out = tmp_path / 'data'
    make_demo_data(out, DemoSettings(6, 6, 64), workers=1, progress=False)
    with pytest.raises(ValueError, match=r'size=64, not 80.*--force'):
        make_demo_data(out, DemoSettings(6, 6, 80), workers=1)
    made = make_demo_data(
        out, DemoSettings(6, 6, 80), workers=1, force=True, progress=False
    )
    assert made
    assert Image.open(out / 'detection/images/train/000000.jpg').size == (80, 80)
    assert os.listdir(tmp_path) == ['data']


@pytest.mark.parametrize('force', [False, True])
@pytest.mark.parametrize('content', ['', '[1]', '{"a": 1}'])
def test_foreign_folder_is_never_touched(tmp_path, force, content):
    (tmp_path / 'settings.json').write_text(content)
    with pytest.raises(ValueError, match='not a demonstration data set'):
        make_demo_data(tmp_path, SETTINGS, force=force)
    assert (tmp_path / 'settings.json').read_text() == content


def test_failure_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError('disk full')

    monkeypatch.setattr(demo_data, '_write_split', fail)
    with pytest.raises(OSError, match='disk full'):
        make_demo_data(tmp_path / 'data', SETTINGS, workers=1, progress=False)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'train': 5}, 'train=5: give a whole number from 6, so that every class'),
        ({'val': 0}, 'val=0: give a whole number from 6'),
        ({'size': 63}, 'size=63: give a whole number from 64'),
        ({'seed': -1}, 'seed=-1: give a whole number from 0'),
        ({'train': 10.5}, r'train=10\.5'),
        ({'size': True}, 'size=True'),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DemoSettings(**options)


def test_number_of_workers_is_checked(tmp_path):
    with pytest.raises(ValueError, match='workers=0'):
        make_demo_data(tmp_path / 'data', SETTINGS, workers=0)


def test_tool_tells_a_mistake_in_one_line(tmp_path):
    result = run_tool('--out', tmp_path / 'data', '--size', 10)
    assert result['code'] == 2
    assert result['err'] == 'error: --size=10: give a whole number from 64\n'
    assert os.listdir(tmp_path) == []


def test_tool_says_when_there_is_nothing_to_do(data):
    result = run_tool('--out', data, *FLAGS)
    assert (result['code'], result['err']) == (0, '')
    assert result['out'] == f'{data}: is there already, nothing to do\n'
    assert json.loads((data / 'settings.json').read_text())['seed'] == 3
