"""tools/check_data.py, and the same check before tools/train.py and test.py start."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from tiny_data import ROOT, write_data, write_detection_config
from tiny_data import write_segmentation_config as write_segmentation
from tool_process import free_port, run_here, run_many, start

pytestmark = pytest.mark.slow

CHECK, TRAIN, TEST = 'tools/check_data.py', 'tools/train.py', 'tools/test.py'
# The faults of `bad_seg.py` lie in what it trains on.
TEST_BAD = (
    *(TEST, 'bad_seg.py', 'kept/iter_2.pth', '--cfg-options'),
    'test_dataloader.dataset.data_prefix.img_path=images/training',
    'test_dataloader.dataset.data_prefix.seg_map_path=annotations/training',
)
CLASSIFICATION = """
default_scope = 'mmengine'
model = dict(type='mmpoolformer.TimmClassifier', name='test_resnet', num_classes=2)
train_dataloader = dict(dataset=dict(
    type='mmpoolformer.TimmDataset', root='classes', split='train'))
val_dataloader = dict(dataset=dict(
    type='mmpoolformer.TimmDataset', root='classes', split='val'))
test_dataloader = val_dataloader
"""


@pytest.fixture(scope='module')
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound data of three tasks, and data with a fault each."""
    folder = tmp_path_factory.mktemp('check')
    write_data(folder / 'data')
    write_detection_config(folder / 'det.py', folder / 'data')
    write_segmentation(folder / 'seg.py', folder / 'data')
    (folder / 'cls.py').write_text(CLASSIFICATION)
    for split in ('train', 'val'):
        for i, name in enumerate(('ant', 'bee')):
            (folder / 'classes' / split / name).mkdir(parents=True)
            picture = Image.new('RGB', (32 + i, 32))
            picture.save(folder / 'classes' / split / name / 'a.png')
    shutil.copytree(folder / 'data', folder / 'bad')
    write_detection_config(folder / 'bad_det.py', folder / 'bad')
    write_segmentation(folder / 'bad_seg.py', folder / 'bad')
    spoil(folder / 'bad')
    (folder / 'kept').mkdir()
    (folder / 'kept' / 'iter_2.pth').write_text('a checkpoint')
    (folder / 'kept' / 'last_checkpoint').write_text(str(folder / 'kept/iter_2.pth'))
    (folder / 'bare.py').write_text("model = dict(type='X')\n")
    return folder


def spoil(data: Path) -> None:
    """Put a fault of every kind into data of `write_data`."""
    content = json.loads((data / 'train.json').read_text())
    content['annotations'][0]['bbox'] = [1, 1, float('nan'), 5]
    content['annotations'][2]['bbox'] = [1, 1, 0, 5]
    content['images'][5]['width'] = 65
    (data / 'train.json').write_text(json.dumps(content))
    picture = data / 'images' / 'training' / '003.png'
    picture.write_bytes(picture.read_bytes()[:500])
    labels = Image.open(data / 'annotations' / 'training' / '004.png').convert('I')
    labels.point(lambda v: v * 300).save(data / 'annotations' / 'training' / '004.png')


JOBS = {
    'detection': [CHECK, 'det.py'],
    'segmentation': [CHECK, 'seg.py'],
    'classification': [CHECK, 'cls.py'],
    'again': [CHECK, 'det.py'],
    'anew': [CHECK, 'det.py', '--anew', '--decode', '--workers', 1],
    'bad detection': [CHECK, 'bad_det.py'],
    'bad segmentation': [CHECK, 'bad_seg.py'],
    'train': [TRAIN, 'bad_det.py'],
    'train segmentation': [TRAIN, 'bad_seg.py', '--resume', '--work-dir', 'kept'],
    'check only': [TRAIN, 'seg.py', '--check-only', '--work-dir', 'only'],
    'check only bad': [TRAIN, 'bad_det.py', '--check-only', '--work-dir', 'only_bad'],
    'train all the same': [
        *(TRAIN, 'det.py', '--no-check', '--work-dir', 'unchecked', '--cfg-options'),
        *("train_dataloader.dataset.metainfo.classes=['disc','square']",),
        *('train_cfg.max_epochs=1', 'default_hooks.checkpoint=None'),
    ],
    'train sound': [
        *(TRAIN, 'seg.py', '--work-dir', 'sound', '--cfg-options'),
        *('train_cfg.max_iters=1', 'val_cfg=None', 'val_dataloader=None'),
        'val_evaluator=None',
    ],
    'test': [*TEST_BAD],
    'test all the same': [*TEST_BAD, '--no-check', '--work-dir', 'unchecked'],
    'no loader': [CHECK, 'bare.py'],
    'no config': [CHECK, 'nothere.py'],
    'no model': [CHECK, 'empty.py'],
    'workers': [CHECK, 'det.py', '--workers', 0],
    'key': [CHECK, 'det.py', '--cfg-options', 'trian_dataloader.x=1'],
}


@pytest.fixture(scope='module')
def outcomes(here: Path) -> dict[str, dict]:
    (here / 'empty.py').write_text('x = 1\n')
    return dict(zip(JOBS, run_many(list(JOBS.values()), here), strict=True))


@pytest.mark.parametrize('job', ['detection', 'segmentation', 'classification'])
def test_sound_data_is_summed_up(job: str, outcomes: dict, here: Path) -> None:
    outcome = outcomes[job]
    assert outcome['code'] == 0, outcome['err']
    assert outcome['out'].splitlines()[-1].endswith('s, errors: 0, warnings: 0')
    assert (here / 'work_dirs' / Path(JOBS[job][1]).stem / 'data_check.json').is_file()


def test_the_summary_says_what_there_is(outcomes: dict) -> None:
    lines = outcomes['detection']['out'].splitlines()
    assert 'train_dataloader: CocoDataset train.json' in lines
    assert '  16 pictures, 32 boxes of 2 classes' in lines
    assert '  7 pictures, 14 boxes of 2 classes' in lines
    # Pictures and annotation files of both; test_dataloader is val_dataloader.
    assert 'data: 25 files in' in lines[-1]
    assert '  7 pictures, labels of 3 of 3 classes, 0 % of the pixels ignored' in (
        outcomes['segmentation']['out'].splitlines()
    )
    assert '  2 pictures of 2 classes' in outcomes['classification']['out']


def test_both_ways_find_the_same(outcomes: dict) -> None:
    # Two lines of each data set; above them a library may say what it could not import.
    found = [
        outcomes[job]['out'].splitlines()[-5:-1]
        for job in ('detection', 'again', 'anew')
    ]
    assert [outcomes[job]['code'] for job in ('again', 'anew')] == [0, 0]
    assert found[0] == found[1] == found[2]
    assert found[0][0] == 'train_dataloader: CocoDataset train.json'


@pytest.mark.parametrize('job', ['bad detection', 'train'])
def test_bad_annotations_are_listed(job: str, outcomes: dict, here: Path) -> None:
    out = ' '.join(outcomes[job]['out'].split())
    assert 'error: boxes that are not four finite numbers: 1 (annotation 1 of' in out
    assert 'warning: boxes or areas of less than a pixel, which are left out: 1' in out
    assert 'error: unreadable pictures: 1 (' in out
    assert '005.png is 64x64, not 65x64' in out
    assert 'errors: 3, warnings: 1' in out


@pytest.mark.parametrize('job', ['bad segmentation', 'train segmentation', 'test'])
def test_bad_labels_are_listed(job: str, outcomes: dict) -> None:
    out = ' '.join(outcomes[job]['out'].split())
    assert 'values beyond 8 bits, of which mmseg would keep the lowest 8: 1 (' in out
    assert '004.png: 300 would become 44' in out
    assert 'error: unreadable pictures: 1 (' in out


@pytest.mark.parametrize(
    ('job', 'code', 'words'),
    [
        ('bad detection', 1, ['train.json: boxes that', 'other errors: 2, see above']),
        ('bad segmentation', 1, ['unreadable pictures: 1', 'other errors: 1']),
        ('train', 1, ['other errors: 2', '(--no-check trains all the same)']),
        ('train segmentation', 1, ['(--no-check trains all the same)']),
        ('test', 1, ['unreadable pictures: 1', '(--no-check tests all the same)']),
        ('test all the same', 1, ['kept/iter_2.pth is no checkpoint']),
        ('no loader', 1, ['bare.py: has none of train_dataloader, val_d']),
        ('no config', 2, ['nothere.py: no such config file']),
        ('no model', 1, ['empty.py: has no model']),
        ('workers', 2, ['--workers 0: give a number from 1']),
        ('key', 2, ["no 'trian_dataloader'; did you mean train_dataloader?"]),
    ],
)
def test_mistakes_are_one_line(
    job: str, code: int, words: list[str], outcomes: dict
) -> None:
    outcome = outcomes[job]
    (line,) = outcome['err'].splitlines()
    assert line.startswith('error: ')
    assert len(line) < 600
    for word in words:
        assert word in line
    assert outcome['code'] == code
    for line in outcome['out'].splitlines():
        assert len(line) < 80 or '/' in line


def test_errors_leave_nothing_behind(here: Path, outcomes: dict) -> None:
    assert outcomes['train']['code'] == 1
    made = {path.name for path in (here / 'work_dirs').iterdir()}
    assert made == {'det', 'seg', 'cls'}


def test_errors_take_nothing_away(here: Path, outcomes: dict) -> None:
    assert outcomes['train segmentation']['code'] == 1
    kept = {path.name for path in (here / 'kept').iterdir()}
    assert kept == {'iter_2.pth', 'last_checkpoint'}
    assert (here / 'kept' / 'iter_2.pth').read_text() == 'a checkpoint'


def test_who_insists_may_train(here: Path, outcomes: dict) -> None:
    assert outcomes['train all the same']['code'] == 0
    assert not (here / 'unchecked' / 'data_check.json').exists()
    assert 'errors:' not in outcomes['train all the same']['out']


def test_a_training_on_sound_data_says_so_in_a_line(here: Path, outcomes: dict) -> None:
    assert outcomes['train sound']['code'] == 0, outcomes['train sound']['err']
    lines = outcomes['train sound']['out'].splitlines()
    assert sum(line.startswith('data: 32 files in') for line in lines) == 1
    assert (here / 'sound' / 'data_check.json').is_file()


def test_checking_only_trains_nothing(here: Path, outcomes: dict) -> None:
    sound, bad = outcomes['check only'], outcomes['check only bad']
    assert sound['code'] == 0, sound['err']
    assert sound['out'].splitlines()[-1].startswith('data: 46 files in')
    assert [path.name for path in (here / 'only').iterdir()] == ['data_check.json']
    assert bad['code'] == 1
    assert 'error: train_dataloader: CocoDataset train.json' in bad['err']
    assert not (here / 'only_bad').exists()


@pytest.mark.long
def test_the_first_process_of_a_job_speaks_for_all(here: Path, tmp_path: Path) -> None:
    process = start(
        *('tools/dist_train.sh', here / 'bad_det.py', 2, '--work-dir', tmp_path / 'x'),
        PORT=free_port(),
    )
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert output.count('error: train_dataloader: CocoDataset train.json') == 1
    assert output.count('errors: 3, warnings: 1') == 1
    assert 'Traceback (most' not in output
    assert not (tmp_path / 'x').exists()


def test_help_teaches_by_example() -> None:
    done = run_here([CHECK, '--help'], ROOT)
    assert done['code'] == 0
    assert 'examples:' in done['out']
    for option in ('--decode', '--workers', '--anew', '--cfg-options', '--work-dir'):
        assert option in done['out']
