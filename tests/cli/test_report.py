"""`mmpoolformer test --report`: numbers by a count of their own, pages without net."""

import csv
import json
import pickle
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from tool_process import run_here

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from random_models import NAMES

if TYPE_CHECKING:
    from random_models import Models

pytestmark = pytest.mark.slow

SERIAL = 'test_dataloader.num_workers=0', 'test_dataloader.persistent_workers=False'
FIGURES = {
    'masks': [
        f'{kind}_{name}'
        for kind in ('box', 'mask')
        for name in ('precision_at_50', 'precision_mean', 'errors', 'confusion')
    ],
    'segmentation': ['IoU_per_class', 'confusion'],
    'classification': ['top1_per_class', 'confusion', 'calibration'],
}


@pytest.fixture(scope='module')
def reports(models: 'Models', tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Folders of reports by task, each with `predictions.pkl`."""
    rng = np.random.default_rng(0)
    for i in range(9):
        place = models.folder / 'val' / NAMES['classification'][i % 3]
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f'{i}.png')
    here = tmp_path_factory.mktemp('reports')
    for task in FIGURES:
        out = here / task
        words = [models.config(task), models.checkpoint(task), '--report', out]
        words += ['--out', out / 'predictions.pkl', '--work-dir', here / 'work']
        words += ['--cfg-options', *SERIAL]
        done = run_here(['tools/test.py', *words], here)
        assert done['code'] == 0, done['err'] + done['out'][-2000:]
        assert f'report: {out}/report.html' in done['out']
    return {task: here / task for task in FIGURES}


def numbers(folder: Path) -> dict:
    return json.loads((folder / 'report.json').read_text())


def predictions(folder: Path) -> list[dict]:
    with (folder / 'predictions.pkl').open('rb') as file:
        return pickle.load(file)


@pytest.mark.parametrize('task', FIGURES)
def test_page_is_one_file_with_all_that_was_found(reports: dict, task: str) -> None:
    page = (reports[task] / 'report.html').read_text()
    assert not re.search(r'(src|href)="(?!data:image/)', page)
    assert 'http' not in re.sub(r'base64,[^"]*', '', page)
    for name in FIGURES[task]:
        with Image.open(reports[task] / f'{name}.png') as figure:
            assert min(figure.size) > 100
    with (reports[task] / 'per_class.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [row['class'] for row in rows] == list(NAMES[task])
    for row in rows:
        assert f'>{row["class"]}</td>' in page


@pytest.mark.parametrize('task', FIGURES)
def test_classes_are_those_of_the_results(reports: dict, task: str) -> None:
    results = reports[task].parent / 'work' / f'results_{task}.json'
    measured = json.loads(results.read_text())
    found = numbers(reports[task])
    assert found['metrics'] == measured['metrics']
    for kind, rows in measured['per_class'].items():
        start = {'bbox': 'box ', 'segm': 'mask '}.get(kind, '')
        for row, shown in zip(rows, found['per_class'], strict=True):
            for name, value in row.items():
                is_shared = name in ('class', 'objects')
                assert shown[name if is_shared else f'{start}{name}'] == value


def test_detections_are_all_accounted_for(reports: dict) -> None:
    found = numbers(reports['masks'])
    for kind, part in (('box', 'scores'), ('mask', 'masks')):
        counts = np.array(found[kind]['confusion']['counts'])
        assert counts[:-1].sum(axis=1).tolist() == [7, 7]  # a square and a disc each
        scores = np.concatenate(
            [
                np.array(one['pred_instances']['scores'])
                for one in predictions(reports['masks'])
                if len(one['pred_instances'][part])
            ]
        )
        shown = (scores >= found[kind]['threshold']).sum()
        assert counts[:, :-1].sum() == shown > 0
        rows = found[kind]['calibration']['rows']
        assert sum(row['count'] for row in rows) == len(scores)


def test_confusion_of_pixels_is_a_count(reports: dict) -> None:
    counts = np.zeros((3, 3), dtype=int)
    for sample in predictions(reports['segmentation']):
        path = sample['img_path'].replace('images', 'annotations')
        truth = np.asarray(Image.open(path)).astype(int) - 1
        np.add.at(counts, (truth, sample['pred_sem_seg']['data'].numpy()[0]), 1)
    found = numbers(reports['segmentation'])
    np.testing.assert_array_equal(found['confusion']['counts'], counts)
    assert len(found['worst pictures']) == 7


def test_confusion_of_pictures_is_a_count(reports: dict) -> None:
    counts, gaps = np.zeros((3, 3), dtype=int), {}
    for sample in predictions(reports['classification']):
        scores = sample['pred_scores'].numpy()
        label = scores.argmax()
        counts[sample['gt_label'], label] += 1
        part = gaps.setdefault(int(10 * scores[label]), [])
        part.append(float(scores[label]) - (label == sample['gt_label']))
    found = numbers(reports['classification'])
    np.testing.assert_array_equal(found['confusion']['counts'], counts)
    error = sum(abs(sum(part)) for part in gaps.values()) / 9
    assert found['calibration']['error'] == pytest.approx(error, abs=1e-6)
    assert len(found['worst pictures']) == min(8, 9 - np.trace(counts))


def test_another_report_is_set_beside(reports: dict, models: 'Models') -> None:
    here = reports['segmentation'].parent
    other = numbers(reports['segmentation'])
    other['per_class'][0]['IoU'] -= 1.5
    del other['per_class'][1]
    (here / 'other.json').write_text(json.dumps(other))
    task, out = 'segmentation', here / 'compared'
    words = [models.config(task), models.checkpoint(task), '--report', out]
    words += ['--against', here / 'other.json', '--work-dir', here / 'work']
    done = run_here(['tools/test.py', *words], here)
    assert done['code'] == 0, done['err']
    changes = [row['Δ IoU'] for row in numbers(out)['per_class']]
    assert changes == [1.5, None, 0]
    assert '>+1.50<' in (out / 'report.html').read_text()


def test_saved_detections_give_the_same_report(
    reports: dict, models: 'Models', tmp_path: Path
) -> None:
    config, truth = models.config('masks'), models.folder / 'data' / 'val.json'
    words = [config, models.checkpoint('masks'), '--score-thr', 0, '--ids', truth]
    words += [models.folder / 'data' / 'images' / 'validation', '--out', 'found']
    done = run_here(['tools/infer.py', *words], tmp_path)
    assert done['code'] == 0, done['err']
    words = [config, 'found/predictions.json', '--report', 'saved', '--show-dir', 'p']
    done = run_here(['tools/test.py', *words], tmp_path)
    assert done['code'] == 0, done['err'] + done['out'][-2000:]
    found, expected = numbers(tmp_path / 'saved'), numbers(reports['masks'])
    assert found['checkpoint'] == 'found/predictions.json'
    for name in ('metrics', 'per_class'):
        assert found[name] == expected[name]
    for kind in ('box', 'mask'):
        for name in ('confusion', 'errors'):
            assert found[kind][name] == expected[kind][name]
        error = expected[kind]['calibration']['error']
        assert found[kind]['calibration']['error'] == pytest.approx(error, abs=1e-5)
    assert len(list((tmp_path / 'p').iterdir())) == 7
    entries = json.loads((tmp_path / 'found' / 'predictions.json').read_text())
    some = [one for one in entries if one['image_id'] == entries[0]['image_id']]
    (tmp_path / 'some.json').write_text(json.dumps(some))
    done = run_here(['tools/test.py', config, 'some.json'], tmp_path)
    assert 'boxes in 1 of the 7 pictures' in ' '.join(done['out'].split())
    wrong = {
        'bad.json: image_id 77: not in the test data': dict(image_id=77),
        'bad.json: category_id x: not in the test data': dict(category_id='x'),
        'bad.json: unhashable': dict(image_id=[]),
        'bad.json: a "bbox" is [left, top, width, height]': dict(bbox=[1, 2, 3]),
        'bad.json: could not convert string to float': dict(score='high'),
        'mask in image 0': dict(segmentation=[[0, 0, 5, 0, 5, 5]]),
        'mask in image 0: [9, 9], the image': dict(
            segmentation={'size': [9, 9], 'counts': '0'}
        ),
    }
    for message, change in wrong.items():
        bad = json.dumps([{**entries[0], **change}, *entries[1:]])
        (tmp_path / 'bad.json').write_text(bad)
        done = run_here(['tools/test.py', config, 'bad.json'], tmp_path)
        assert done['code'] == 1, done['err']
        assert f'error: {message}' in done['err']
    for words, message in {
        (config, 'no.json'): 'no.json: no such checkpoint',
        (config, 'saved/report.json'): 'report.json: not a list of results',
        (config, 'bad.json', '--tta'): '--tta: bad.json is no model',
        (models.config('segmentation'), 'bad.json'): 'bad.json: saved detections are',
    }.items():
        done = run_here(['tools/test.py', *words], tmp_path)
        assert done['code'] in (1, 2), done['err']
        assert message in done['err']
        assert done['err'].count('error:') == 1


@pytest.mark.parametrize(
    ('section', 'key', 'message'),
    [
        ('images', 'file_name', 'image {id} is {second}, but {first} in the test data'),
        ('categories', 'name', 'class {id} is {second}, but {first} in the test data'),
    ],
)
def test_ids_of_other_pictures_or_classes_are_refused(
    models: 'Models', tmp_path: Path, section: str, key: str, message: str
) -> None:
    about = json.loads((models.folder / 'data' / 'val.json').read_text())
    first, second = about[section][:2]
    image, category = about['images'][0]['id'], about['categories'][0]['id']
    found = dict(image_id=image, category_id=category, bbox=[1, 2, 3, 4], score=0.5)
    (tmp_path / 'found.json').write_text(json.dumps([found]))
    test = ['tools/test.py', models.config('detection'), 'found.json']
    (tmp_path / 'images.json').write_text(json.dumps(about))
    done = run_here(test, tmp_path)
    assert done['code'] == 0, done['err']
    names = {'id': first['id'], 'first': first[key], 'second': second[key]}
    first[key], second[key] = second[key], first[key]
    (tmp_path / 'images.json').write_text(json.dumps(about))
    done = run_here(test, tmp_path)
    assert done['code'] == 1, done['err']
    assert f'error: images.json: {message.format(**names)}' in done['err']
    assert 'mmpoolformer infer --ids' in done['err']


def test_saved_label_maps_give_the_same_report(
    reports: dict, models: 'Models', tmp_path: Path
) -> None:
    config = models.config('segmentation')
    pictures = models.folder / 'data' / 'images' / 'validation'
    words = [config, models.checkpoint('segmentation'), pictures, '--out', 'found']
    done = run_here(['tools/infer.py', *words], tmp_path)
    assert done['code'] == 0, done['err']
    test = ['tools/test.py', config, 'found/masks']
    done = run_here([*test, '--report', 'saved'], tmp_path)
    assert done['code'] == 0, done['err'] + done['out'][-2000:]
    found, expected = numbers(tmp_path / 'saved'), numbers(reports['segmentation'])
    for name in ('metrics', 'per_class', 'confusion'):
        assert found[name] == expected[name]
    table = tmp_path / 'found' / 'classes.csv'
    text = table.read_text()
    head, *lines = text.splitlines()
    names = [line.split(',')[1] for line in lines]
    lines[0] = lines[0].replace(names[0], names[1])
    lines[1] = lines[1].replace(names[1], names[0])
    table.write_text('\n'.join([head, *lines]))
    done = run_here(test, tmp_path)
    assert done['code'] == 1, done['err']
    order = f'{names[1]}, {names[0]}'
    assert f'found/classes.csv: its classes are in the order {order}' in done['err']
    table.write_text(text)
    maps = sorted((tmp_path / 'found' / 'masks').glob('*.png'))
    labels = np.array(Image.open(maps[0]))
    for change, message in (
        (labels[1:], f'{maps[0].name}: of shape ({len(labels) - 1}, '),
        (np.full_like(labels, 77), f'{maps[0].name}: the number 77, of 3 classes'),
        (None, 'found/masks: no map of 1 of 7 pictures: ' + maps[0].name),
    ):
        maps[0].unlink()
        if change is not None:
            Image.fromarray(change).save(maps[0])
        done = run_here(test, tmp_path)
        assert done['code'] == 1, done['err']
        assert message in done['err']
    shutil.copytree(models.folder / 'data', tmp_path / 'data')
    for kind in ('images', 'annotations'):
        place = tmp_path / 'data' / kind / 'validation'
        first = min(place.iterdir())
        (place / 'again').mkdir()
        shutil.copy(first, place / 'again')
    data = f'test_dataloader.dataset.data_root={tmp_path}/data'
    done = run_here([*test, '--cfg-options', data], tmp_path)
    assert done['code'] == 1, done['err']
    assert 'would share a map: ' + maps[0].name in done['err']
    detector = ['tools/test.py', models.config('masks'), 'found/masks']
    done = run_here(detector, tmp_path)
    assert 'error: found/masks: label maps are for segmentors' in done['err']


def test_a_detector_that_finds_nothing(models: 'Models', tmp_path: Path) -> None:
    task = 'detection'
    words = [models.config(task), models.checkpoint(task), '--report', 'empty']
    words += ['--cfg-options', 'model.test_cfg.score_thr=1.1']
    done = run_here(['tools/test.py', *words], tmp_path)
    assert done['code'] == 0, done['err']
    found = numbers(tmp_path / 'empty')
    assert found['box']['confusion']['counts'] == [[0, 0, 7], [0, 0, 7], [0, 0, 0]]
    missed = found['box']['errors'][-1]
    assert (missed['error'], missed['count']) == ('missed', 14)
    assert [row['box AP'] for row in found['per_class']] == [0, 0]


def test_mistakes_are_one_line(reports: dict, models: 'Models', tmp_path: Path) -> None:
    task = 'classification'
    config, checkpoint = models.config(task), models.checkpoint(task)
    (tmp_path / 'no_class.json').write_text('{"per_class": [{"AP": 1}]}')
    jobs = {
        'no_class.json: not a report.json': [
            *('--report', 'r', '--against', 'no_class.json')
        ],
        '--against: goes with --report': ['--against', 'x.json'],
        'x.json: not a report.json': ['--report', 'r', '--against', 'x.json'],
        '--report: explains what Accuracy measures, test_evaluator has only DumpRes': [
            *('--report', 'r', '--cfg-options', 'test_evaluator._delete_=True'),
            'test_evaluator.type=DumpResults',
            'test_evaluator.out_file_path=x.pkl',
        ],
    }
    for message, words in jobs.items():
        done = run_here(['tools/test.py', config, checkpoint, *words], tmp_path)
        assert done['code'] in (1, 2)
        assert done['err'].count('error:') == 1
        assert message in done['err']
