"""tools/infer.py, whose files are read by others' programs, and tools/demo.py."""

import csv
import json
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.mask import decode
from random_models import Models, make_models
from tiny_data import ROOT
from tool_process import environment, free_port, run_here, run_many

from mmpoolformer.inference.videos import Video
from mmpoolformer.visual.drawing import INK

pytestmark = pytest.mark.slow

INFER, DEMO = 'tools/infer.py', 'tools/demo.py'
FRAMES, FPS = 7, 10


def write_inputs(models: Models, here: Path) -> None:
    """Write pictures with equal names, a broken one, and videos."""
    (here / 'in' / 'sub').mkdir(parents=True)
    for i, path in enumerate(models.pictures):
        picture = Image.open(path)
        picture.save(here / 'in' / f'{i}.png')
        picture.save(here / 'in' / 'sub' / f'{i}.PNG')
    (here / 'bad').mkdir()
    Image.open(models.pictures[0]).save(here / 'bad' / 'good.png')
    Image.open(models.pictures[0]).save(here / 'bad' / 'half.avif')
    half = (here / 'bad' / 'half.avif').read_bytes()
    (here / 'bad' / 'half.avif').write_bytes(half[: len(half) * 2 // 3])
    (here / 'bad' / 'text.jpg').write_text('no picture')
    (here / 'bad' / 'text.mp4').write_text('no video')
    (here / 'empty').mkdir()
    (here / 'full').mkdir()
    (here / 'full' / 'kept.txt').write_text('kept')
    code = cv2.VideoWriter_fourcc(*'MJPG')
    video = cv2.VideoWriter(str(here / 'clip.avi'), code, FPS, (80, 48))
    for i in range(FRAMES):
        frame = np.full((48, 80, 3), (30, 30, 30), np.uint8)
        frame[10:30, 5 + 6 * i : 30 + 6 * i] = (20, 160, 250)  # BGR: orange
        video.write(frame)
    video.release()
    whole = (here / 'clip.avi').read_bytes()
    (here / 'cut.avi').write_bytes(whole[: len(whole) * 2 // 3])


def demo_mistakes(models: Models, port: int) -> dict[str, list]:
    config, weights = models.config('detection'), models.checkpoint('detection')
    return {
        'nothing to show': [DEMO],
        'no weights': [DEMO, config],
        'both weights': [DEMO, f'{config}:{weights}', '--checkpoint', weights],
        'no such config': [DEMO, f'no.py:{weights}'],
        'no such checkpoint': [DEMO, f'{config}:no.pth'],
        'no model': [DEMO, f':{weights}'],
        'no name': [DEMO, f'poolformer_s1:{weights}'],
        'not its weights': [DEMO, f'{models.config("masks")}:{weights}'],
        'port taken': [DEMO, f'{config}:{weights}', '--port', port],
        'no port': [DEMO, '--port', 99999],
        'no size': [DEMO, '--max-megapixels', 0],
    }


def commands(models: Models) -> dict[str, list]:
    def model(name: str) -> list:
        return [INFER, models.config(name), models.checkpoint(name)]

    detection, weights = model('detection'), models.checkpoint('detection')
    return {
        'boxes': [*detection, 'in', 'clip.avi', '--out', 'boxes', '--score-thr', 0.7],
        'all': [*detection, 'in/*.png', '--out', 'all', '--score-thr', 0],
        'masks': [
            *(INFER, models.config('masks'), 'in/0.png', 'in/1.png'),
            *('--checkpoint', models.checkpoint('masks'), '--out', 'masks'),
        ],
        'labels': [
            *(*model('segmentation'), 'in/0.png', 'in/3.png', 'clip.avi'),
            *('--out', 'labels', '--batch-size', 3),
        ],
        'classes': [
            *(*model('classification'), 'in', '--out', 'classes', '--topk', 2),
            *('--batch-size', 3),
        ],
        'again': [*model('classification'), 'in', '--out', 'in/results'],
        'once more': [*model('classification'), 'in', '--out', 'in/results', '--force'],
        'some bad': [*detection, 'bad', 'cut.avi', '--out', 'some'],
        # mistakes
        'all bad': [*detection, 'bad/text.jpg', '--out', 'none'],
        'no config': [INFER, 'no.py', weights, 'in', '--out', 'none'],
        'no checkpoint': [INFER, models.config('masks'), 'no.pth', 'in', '--out', 'x'],
        'other model': [INFER, models.config('masks'), weights, 'in', '--out', 'none'],
        'no weights here': [*detection[:2], 'in', '--out', 'none'],
        'no input': [*detection, 'nothere', '--out', 'none'],
        'no picture': [*detection, 'empty', '--out', 'none'],
        'full': [*detection, 'in', '--out', 'full'],
        'file': [*detection, 'in', '--out', 'clip.avi'],
        'threshold': [*detection, 'in', '--out', 'none', '--score-thr', 2],
        'batch': [*detection, 'in', '--out', 'none', '--batch-size', 0],
        'device': [*detection, 'in', '--out', 'none', '--device', 'cuda:77'],
    }


@pytest.fixture(scope='module')
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return make_models(tmp_path_factory.mktemp('models'))


@pytest.fixture(scope='module')
def here(models: Models) -> Path:
    folder = models.folder / 'work'
    write_inputs(models, folder)
    return folder


@pytest.fixture(scope='module')
def outcomes(models: Models, here: Path) -> dict[str, dict]:
    with socket.socket() as server:  # takes a port
        server.bind(('127.0.0.1', 0))
        server.listen()
        taken = server.getsockname()[1]
        jobs = commands(models) | demo_mistakes(models, taken)
        runs = run_many(list(jobs.values()), here)
    return dict(zip(jobs, runs, strict=True))


RIGHT = ('boxes', 'all', 'masks', 'labels', 'classes', 'again', 'once more')


@pytest.mark.parametrize('name', RIGHT)
def test_ends_well(outcomes: dict, name: str) -> None:
    assert outcomes[name]['code'] == 0, outcomes[name]['err']
    assert 'Traceback' not in outcomes[name]['err']


def load_results(folder: Path) -> tuple[COCO, COCO]:
    data = COCO(folder / 'images.json')
    return data, data.loadRes(str(folder / 'predictions.json'))


def test_boxes_are_read_by_pycocotools(
    models: Models, here: Path, outcomes: dict
) -> None:
    data, results = load_results(here / 'all')
    predictor = models.predictor('detection')
    assert [c['name'] for c in data.loadCats([1, 2])] == ['square', 'disc']
    assert len(data.imgs) == 4
    for image in data.imgs.values():
        found = predictor(here / image['file_name']).found
        size = Image.open(here / image['file_name']).size
        assert (image['width'], image['height']) == size
        entries = results.loadAnns(results.getAnnIds(imgIds=[image['id']]))
        assert len(entries) == len(found.scores) > 20
        for entry, box, label, score in zip(
            entries, found.boxes, found.labels, found.scores, strict=True
        ):
            left, top, width, height = entry['bbox']
            corners = (left, top, left + width, top + height)
            assert corners == pytest.approx(box.tolist(), abs=2e-3)
            assert entry['category_id'] == label + 1
            assert entry['score'] == pytest.approx(score, abs=1e-6)


def test_thresholds_hold_for_files_too(here: Path, outcomes: dict) -> None:
    some = json.loads((here / 'boxes' / 'predictions.json').read_text())
    everything = json.loads((here / 'all' / 'predictions.json').read_text())
    assert some
    assert min(entry['score'] for entry in some) >= 0.7
    assert min(entry['score'] for entry in everything) < 0.7


def test_masks_are_run_length_encoded(
    models: Models, here: Path, outcomes: dict
) -> None:
    data, results = load_results(here / 'masks')
    predictor = models.predictor('masks')
    for image in data.imgs.values():
        found = predictor(here / image['file_name']).found.above(0.3)
        entries = results.loadAnns(results.getAnnIds(imgIds=[image['id']]))
        assert len(entries) == len(found.masks) > 5
        for entry, mask in zip(entries, found.masks, strict=True):
            np.testing.assert_array_equal(results.annToMask(entry), mask)
            assert decode(entry['segmentation']).shape == mask.shape


def test_label_maps_are_palette_pictures(
    models: Models, here: Path, outcomes: dict
) -> None:
    predictor = models.predictor('segmentation')
    for name in ('0', '3'):
        with Image.open(here / 'labels' / 'masks' / f'{name}.png') as picture:
            assert picture.mode == 'P'
            assert picture.getpalette()[:9] == [230, 40, 40, 40, 60, 230, 99, 99, 99]
            labels = np.asarray(picture)
        expected = predictor(here / 'in' / f'{name}.png').found.labels
        np.testing.assert_array_equal(labels, expected)
    rows = list(csv.DictReader((here / 'labels' / 'classes.csv').open()))
    assert [row['name'] for row in rows] == ['square', 'disc', 'background']
    assert list(rows[1].values()) == ['1', 'disc', '40', '60', '230']
    assert len(list((here / 'labels' / 'masks' / 'clip').iterdir())) == FRAMES


def test_classes_are_a_table(models: Models, here: Path, outcomes: dict) -> None:
    rows = list(csv.DictReader((here / 'classes' / 'predictions.csv').open()))
    assert len(rows) == 8 * 2
    predictor = models.predictor('classification')
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        found = predictor(here / first['picture']).found
        assert (first['rank'], second['rank']) == ('1', '2')
        assert int(first['class']) == found.labels[0]
        assert first['name'] == predictor.classes[found.labels[0]]
        assert float(second['probability']) == pytest.approx(found.scores[1], abs=1e-5)


def test_equal_names_are_kept_apart(here: Path, outcomes: dict) -> None:
    drawn = sorted(path.name for path in (here / 'boxes' / 'pictures').iterdir())
    assert drawn == sorted(f'{i}{end}.jpg' for i in range(4) for end in ('', '_2'))


def test_drawings_show_the_picture_and_boxes(here: Path, outcomes: dict) -> None:
    before = np.asarray(Image.open(here / 'in' / '1.png')).astype(int)
    after = np.asarray(Image.open(here / 'boxes' / 'pictures' / '1.jpg')).astype(int)
    assert after.shape == before.shape
    unlike = np.abs(after - before).max(-1) > 60
    assert 0.02 < unlike.mean() < 0.9
    captioned = Image.open(here / 'classes' / 'pictures' / '1.jpg')
    assert captioned.size == (before.shape[1], before.shape[0] + 2 * 22)
    assert np.asarray(captioned)[before.shape[0] :].min() < max(INK) + 60


def test_videos_are_drawn_frame_by_frame(here: Path, outcomes: dict) -> None:
    capture = cv2.VideoCapture(str(here / 'labels' / 'videos' / 'clip.mp4'))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == FRAMES
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(FPS)
    there, frame = capture.read()
    assert there
    assert frame.shape == (48, 80, 3)
    images = json.loads((here / 'boxes' / 'images.json').read_text())['images']
    names = [image['file_name'] for image in images]
    assert names[-FRAMES:] == [f'clip.avi#{i:06d}' for i in range(FRAMES)]


def test_frames_of_videos_have_their_colours(here: Path) -> None:
    frames = list(Video(here / 'clip.avi'))
    assert len(frames) == FRAMES
    assert np.abs(frames[2][20, 30].astype(int) - (250, 160, 20)).max() < 40


def test_results_are_no_inputs(here: Path, outcomes: dict) -> None:
    for name in ('again', 'once more'):
        assert '8 inputs' in outcomes[name]['out']
    rows = list(csv.DictReader((here / 'in' / 'results' / 'predictions.csv').open()))
    assert len({row['picture'] for row in rows}) == 8


def test_broken_inputs_are_named_and_the_others_done(
    here: Path, outcomes: dict
) -> None:
    outcome = outcomes['some bad']
    assert outcome['code'] == 1
    lines = outcome['err'].splitlines()
    assert lines[-1].startswith('error: 4 of 5 inputs could not be read')
    named = ('half.avif', 'text.jpg', 'text.mp4')
    for words in (*(f'{name}: can not be' for name in named), 'cut.avi: only'):
        assert sum(words in line for line in lines) == 1
    data, _ = load_results(here / 'some')
    names = [image['file_name'] for image in data.imgs.values()]
    assert names[0] == 'bad/good.png'
    kept = [name for name in names if name.startswith('cut.avi#')]
    assert 0 < len(kept) < FRAMES
    capture = cv2.VideoCapture(str(here / 'some' / 'videos' / 'cut.mp4'))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == len(kept)


@pytest.mark.parametrize(
    ('mistake', 'code', 'words'),
    [
        ('all bad', 1, 'none of the 1 inputs can be read'),
        ('no config', 2, 'no.py: no such config file'),
        ('no checkpoint', 2, 'no.pth: no such checkpoint'),
        ('other model', 1, 'detection.pth: tensors of another shape'),
        ('no weights here', 1, 'names no weights of the whole model'),
        ('no input', 1, 'nothere: no such picture or folder'),
        ('no picture', 1, 'empty: no picture there'),
        ('full', 2, '--out full: is not empty'),
        ('file', 2, '--out clip.avi: is no folder'),
        ('threshold', 2, '--score-thr 2.0: must be from 0 to 1'),
        ('batch', 2, '--batch-size 0: give a number from 1'),
        ('device', 2, '--device cuda:77: not here'),
        ('nothing to show', 1, 'run `make quickstart`'),
        ('no weights', 1, 'names no weights of the whole model (load_from): give'),
        ('both weights', 2, '--checkpoint: give it or MODEL_OR_CONFIG:CKPT'),
        ('no such config', 2, 'no.py: no such config file'),
        ('no such checkpoint', 2, 'no.pth: no such checkpoint'),
        ('no model', 2, 'write MODEL_OR_CONFIG:CKPT'),
        ('no name', 1, "no model 'poolformer_s1': did you mean"),
        ('not its weights', 1, 'tensors of another shape'),
        ('port taken', 1, 'port'),
        ('no port', 2, '--port 99999: must be from 1 to 65535'),
        ('no size', 2, 'must be above 0'),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    here: Path, outcomes: dict, mistake: str, code: int, words: str
) -> None:
    outcome = outcomes[mistake]
    assert outcome['code'] == code, outcome['err']
    assert outcome['err'].splitlines()[-1].startswith('error: ')
    assert words in outcome['err'].splitlines()[-1]
    assert 'Traceback' not in outcome['err']
    assert not (here / 'none').exists()
    assert [p.name for p in (here / 'full').iterdir()] == ['kept.txt']


def test_nothing_unfinished_is_left(here: Path, outcomes: dict) -> None:
    assert any(here.rglob('*.json'))
    assert not list(here.rglob('*.part*'))


# tests/test_commands.py interrupts another page.
@pytest.mark.long
@pytest.mark.parametrize('end', ['SIGINT', 'SIGTERM'])
def test_what_the_quickstart_trained_is_shown_until_the_end(
    models: Models, tmp_path: Path, end: str
) -> None:
    folder = tmp_path / 'work_dirs' / 'quickstart'
    folder.mkdir(parents=True)
    config = models.config('detection').read_text()
    (folder / 'demo_retinanet_poolformer_s12.py').write_text(config)
    weights = models.checkpoint('detection').read_bytes()
    (folder / 'epoch_5.pth').write_bytes(weights)
    (folder / 'last_checkpoint').write_text('elsewhere/epoch_5.pth')
    (tmp_path / 'temporary').mkdir()
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, ROOT / DEMO, '--port', str(port)],
        cwd=tmp_path,
        env={**environment(), 'TMPDIR': str(tmp_path / 'temporary')},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        address = next(line for line in process.stdout if line.startswith('http'))
        assert address.startswith(f'http://127.0.0.1:{port}/')
        address = address.split()[0]
        with urllib.request.urlopen(address, timeout=20) as page:
            assert b'demo_retinanet_poolformer_s12' in page.read()
        files = {'files': ('a.png', Path(models.pictures[0]).read_bytes())}
        given = httpx.post(f'{address}gradio_api/upload', files=files, trust_env=False)
        assert Path(given.json()[0]).is_relative_to(tmp_path / 'temporary')
        assert Path(given.json()[0]).is_file()
        process.send_signal(signal.Signals[end])
        process.send_signal(signal.Signals[end])  # the impatient
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert 'Traceback' not in errors
    assert not list((tmp_path / 'temporary').glob('mmpoolformer-demo-*'))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *('temporary', 'work_dirs')
    ]


@pytest.mark.parametrize(
    ('tool', 'words'),
    [
        (INFER, ('--score-thr', '--batch-size', 'predictions.json')),
        (DEMO, ('--host', '--port', 'poolformer_s12')),
    ],
)
def test_help_teaches_by_example(tool: str, words: tuple[str, ...]) -> None:
    done = run_here([tool, '--help'], ROOT)
    assert done['code'] == 0
    for word in ('examples:', *words):
        assert word in done['out']
