import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from tool_process import fork, run_here

pytest.importorskip('mmdet')

from mmpoolformer.apps.quickstart import Quickstart, _draw_curves, summary
from mmpoolformer.visual.curves import find_logs, read_curves, read_run

pytestmark = pytest.mark.slow

# Enough that the interruption comes before the end.
EPOCHS = 15
SCENES = ['--train', '12', '--val', '6', '--size', '64']
TINY = [
    'model.backbone.arch.depths=[1,1,1,1]',
    'model.backbone.arch.dims=[8,16,16,16]',
    'model.neck.in_channels=[16,16,16]',
    'model.neck.out_channels=16',
    'model.bbox_head.in_channels=16',
    'model.bbox_head.feat_channels=16',
    'model.bbox_head.stacked_convs=1',
    'model.test_cfg.score_thr=0.0',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False',
    'test_dataloader.num_workers=0',
    'test_dataloader.persistent_workers=False',
    'default_hooks.logger.interval=1',
    f'train_cfg.max_epochs={EPOCHS}',
    f'train_cfg.val_interval={EPOCHS}',
]


COMMAND = ['tools/quickstart.py', '--data', 'data', '--work-dir', 'run', *SCENES]


def run(folder, *more):
    return run_here([*COMMAND, '--cfg-options', *TINY, *more], folder)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder where a quickstart was interrupted after its first checkpoint."""
    folder = tmp_path_factory.mktemp('quickstart')
    process = fork([*COMMAND, '--cfg-options', *TINY], folder)
    latest = folder / 'run' / 'last_checkpoint'
    end = time.monotonic() + 240
    while not latest.is_file() and process.is_alive() and time.monotonic() < end:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    output = (folder / 'output.txt').read_text()
    assert process.exitcode == 130, output
    assert 'The same command goes on from here.' in output
    assert 'Traceback' not in output
    assert not (folder / 'run' / 'results.json').exists()
    return folder


@pytest.fixture(scope='module')
def finished(folder):
    """The same after the command was given again, and what it said."""
    result = run(folder)
    assert result['code'] == 0, result['err']
    return folder, result


def test_interrupted_run_goes_on_and_counts_every_step_once(finished):
    folder, result = finished
    assert 'are there already' in result['out']
    assert 'resumed epoch: ' in (folder / 'run' / 'quickstart.log').read_text()
    assert len(find_logs(folder / 'run')) == 2
    steps_in_epoch = 12 // 2
    loss = read_curves(find_logs(folder / 'run'))['loss']
    assert loss.steps == tuple(range(1, EPOCHS * steps_in_epoch + 1))
    assert read_run(folder / 'run')['loss'].steps == loss.steps
    assert (folder / 'run' / 'curves.png').is_file()


def test_last_lines_are_pictures_and_ap(finished):
    folder, result = finished
    *_, title, predictions, loss, ap, last = result['out'].splitlines()
    assert title == 'Pictures:'
    paths = [Path(line.strip()) for line in (predictions, loss, ap)]
    assert [path.name for path in paths] == ['predictions.png', 'loss.png', 'ap.png']
    for path in paths:
        pixels = np.array(Image.open(folder / path).convert('RGB'))
        assert min(pixels.shape[:2]) > 200
        assert pixels.std() > 5
    metrics = json.loads((folder / 'run' / 'results.json').read_text())['metrics']
    expected = f'{metrics["coco/bbox_mAP"]:.3f}, AP50 {metrics["coco/bbox_mAP_50"]:.3f}'
    assert last == f'Box AP {expected}'


def test_truth_is_drawn_on_the_held_out_scenes(finished):
    folder, _ = finished
    page = np.array(Image.open(folder / 'run' / 'predictions.png'))
    coco = COCO(str(folder / 'data/detection/annotations/val.json'))
    scene = np.array(Image.open(folder / 'data/detection/images/val/000000.jpg'))
    # the first picture: enlarged twice, at the left edge, below title and legend
    top = page.shape[0] - 3 * (128 + 10)
    drawn = page[top : top + 128, 10 : 10 + 128][::2, ::2]
    changed = (drawn != scene).any(-1)
    boxes = [a['bbox'] for a in coco.loadAnns(coco.getAnnIds(0))]
    far = np.ones_like(changed)
    for x, y, width, height in boxes:
        far[max(y - 9, 0) : y + height + 9, :] = False
        left, right = x + 3, x + width - 3
        assert changed[y : y + height, x : x + width].any() or right < left
    assert not changed[far].any()


def test_output_fits_a_terminal_and_is_no_flood(finished):
    _, result = finished
    lines = result['out'].splitlines()
    assert len(lines) < 15
    assert max(map(len, lines)) < 80
    drawn = [part for line in result['err'].split('\n') for part in line.split('\r')]
    assert max(map(len, drawn)) < 80


def test_second_run_does_nothing_and_says_the_same(finished):
    folder, first = finished
    before = {p: p.stat().st_mtime_ns for p in folder.rglob('*.p[nt][gh]')}
    assert len(before) > 3
    again = run(folder)
    assert again['code'] == 0, again['err']
    assert again['out'].count('already') == 3
    assert again['out'].splitlines()[-5:] == first['out'].splitlines()[-5:]
    assert {p: p.stat().st_mtime_ns for p in folder.rglob('*.p[nt][gh]')} == before


def test_work_dir_of_another_config_is_refused(finished):
    folder, _ = finished
    result = run(folder, 'optim_wrapper.optimizer.lr=0.1')
    assert result['code'] == 1
    assert result['err'].startswith('error: run holds a run with another config')
    assert len(result['err'].splitlines()) == 1


def test_mistake_on_the_command_line_is_told_in_one_line(tmp_path):
    result = run(tmp_path, 'modle.x=1')
    assert result['code'] == 2
    assert "error: --cfg-options modle.x: the config has no 'modle'" in result['err']
    assert 'Traceback' not in result['err']


def test_summary_ends_with_ap():
    job = Quickstart(work_dir=Path('w'))
    text = summary(job, {'coco/bbox_mAP': 0.25, 'coco/bbox_mAP_50': 0.5})
    assert text.splitlines() == [
        'Pictures:',
        '   w/predictions.png',
        '   w/loss.png',
        '   w/ap.png',
        'Box AP 0.250, AP50 0.500',
    ]


def test_training_that_finds_nothing_still_gets_its_curves(tmp_path):
    job = Quickstart(work_dir=tmp_path)
    log = tmp_path / '20260101_000000' / 'vis_data' / 'scalars.json'
    log.parent.mkdir(parents=True)
    line = {'loss': 2, 'loss_cls': 1, 'loss_bbox': 1, 'iter': 5, 'step': 5}
    log.write_text(json.dumps(line) + '\n')
    _draw_curves(job, {'coco/bbox_mAP': 0.0, 'coco/bbox_mAP_50': 0.0})
    for name in ('loss', 'ap'):
        assert Image.open(job.pictures[name]).format == 'PNG'
