"""`mmpoolformer infer --ids`: results that are measured against one's own file."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tiny_data import COUNTS
from tool_process import run_here

from mmpoolformer.data.coco_ids import read_coco_ids

INFER = 'tools/infer.py'


@pytest.fixture(scope='module')
def own(tiny: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures, some of equal names, and `own.json` with ids of its own."""
    folder = tmp_path_factory.mktemp('own')
    content = json.loads((tiny.data / 'val.json').read_text())
    for image in content['images']:
        old, number = image['file_name'], image['id']
        image['file_name'] = f'{"ab"[number % 2]}/{number // 2}.png'
        image['id'] = 1000 - 7 * number
        path = folder / 'photos' / image['file_name']
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tiny.data / 'images' / 'validation' / old, path)
    categories = {1: 90, 2: 5}
    for one in content['annotations']:
        one['image_id'] = 1000 - 7 * one['image_id']
        one['category_id'] = categories[one['category_id']]
    for one in content['categories']:
        one['id'] = categories[one['id']]
    content['categories'].insert(0, dict(id=1, name='never seen'))
    (folder / 'own.json').write_text(json.dumps(content))
    return folder


@pytest.mark.slow
def test_pycocotools_measures_what_test_does(
    tiny: SimpleNamespace, trained: SimpleNamespace, tested: SimpleNamespace, own: Path
) -> None:
    words = [tiny.detection, trained.det_checkpoint, 'photos', '--out', 'found']
    words += ['--score-thr', 0, '--ids', 'own.json']
    done = run_here([INFER, *words], own)
    assert done['code'] == 0, done['err']
    truth = COCO(own / 'own.json')
    found = truth.loadRes(str(own / 'found' / 'predictions.json'))
    evaluation = COCOeval(truth, found, 'bbox')
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    results = tested.out / 'work_det' / 'results_epoch_10.json'
    metrics = json.loads(results.read_text())['metrics']
    assert metrics['coco/bbox_mAP'] > 0.1  # else equality would say little
    # mmdet rounds to three digits.
    for name, value in zip(('mAP', 'mAP_50', 'mAP_75'), evaluation.stats, strict=False):
        assert metrics[f'coco/bbox_{name}'] == pytest.approx(value, abs=6e-4)
    images = COCO(own / 'found' / 'images.json')
    assert len(images.imgs) == COUNTS['val']
    for number, image in images.imgs.items():
        name = str(Path(image['file_name']).relative_to('photos'))
        assert truth.imgs[number]['file_name'] == name
    assert {c['name']: c['id'] for c in images.cats.values()} == {
        **dict(square=90, disc=5)
    }


@pytest.mark.slow
def test_mistakes_are_told_before_the_run(
    tiny: SimpleNamespace, trained: SimpleNamespace, own: Path
) -> None:
    detector = tiny.detection, trained.det_checkpoint, 'photos'
    segmentor = tiny.segmentation, trained.seg_checkpoint, 'photos'
    (own / 'list.json').write_text('[]')
    jobs = {
        'no such file': (*detector, '--ids', 'no.json'),
        'has no "categories"': (*detector, '--ids', 'list.json'),
        '--ids: for detectors': (*segmentor, '--ids', 'own.json'),
    }
    for message, words in jobs.items():
        done = run_here([INFER, *words, '--out', 'none'], own)
        assert done['code'] in (1, 2)
        assert done['err'].splitlines()[-1].startswith('error: ')
        assert message in done['err'].splitlines()[-1]
        assert not (own / 'none').exists()


def write(folder: Path, names: list[str], **changes: object) -> Path:
    images = [dict(id=i, file_name=name) for i, name in enumerate(names, 10)]
    content = dict(images=images, categories=[dict(id=4, name='cat')], **changes)
    (folder / 'some.json').write_text(json.dumps(content))
    return folder / 'some.json'


@pytest.mark.parametrize(
    ('names', 'paths', 'ids'),
    [
        (['x.png', 'a/x.png'], ['v/a/x.png', 'v/x.png'], [11, 10]),
        (['a/x.png', './b/x.png'], ['b/x.png'], [11]),
        (['train/x.png'], ['elsewhere/x.png'], [10]),
        (['/data/x.png', 'x.jpg'], ['/data/x.png'], [10]),
    ],
)
def test_the_longest_end_of_a_path_counts(
    tmp_path: Path, names: list[str], paths: list[str], ids: list[int]
) -> None:
    found = read_coco_ids(write(tmp_path, names), paths, ['cat'])
    assert found.images == dict(zip(paths, ids, strict=True))
    assert found.categories == (4,)


@pytest.mark.parametrize(
    ('names', 'paths', 'words'),
    [
        (['a/x.png'], ['y.png'], 'no image is y.png'),
        (['a/x.png', 'b/x.png'], ['c/x.png'], 'images 10, 11 may all be c/x.png'),
        (['a/x.png', 'a/x.png'], ['a/x.png'], 'images 10, 11 may all be a/x.png'),
        (['x.png'], ['a/x.png', 'b/x.png'], 'image 10 may be a/x.png or b/x.png'),
    ],
)
def test_what_is_not_certain_is_an_error(
    tmp_path: Path, names: list[str], paths: list[str], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        read_coco_ids(write(tmp_path, names), paths, ['cat'])


def test_classes_and_ids_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no classes \['dog'\].*; it has cat"):
        read_coco_ids(write(tmp_path, ['x.png']), ['x.png'], ['cat', 'dog'])
    path = write(tmp_path, ['x.png'])
    path.write_text(path.read_text().replace('"file_name"', '"file"'))
    with pytest.raises(ValueError, match=r'need ids, and images a "file_name"'):
        read_coco_ids(path, ['x.png'], ['cat'])
