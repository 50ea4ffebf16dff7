import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_data import ROOT
from tool_process import environment, run_many

pytestmark = pytest.mark.slow

TRAIN = 'tools/train.py'
TEST = 'tools/test.py'


class Payload:
    """Makes a marker file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


def write_files(tiny: SimpleNamespace, trained: SimpleNamespace, here: Path) -> None:
    """Write configs and checkpoints that are wrong, each in one way."""
    files = {
        'syntax.py': 'model = dict(\n',
        'empty.py': 'x = 1\n',
        'scope.py': f"_base_ = '{tiny.detection}'\ndefault_scope = 'mmnothere'\n",
        'bug_hook.py': 'from mmengine.hooks import Hook\n'
        'from mmengine.registry import HOOKS\n'
        '@HOOKS.register_module()\n'
        'class BugHook(Hook):\n'
        '    def before_train_iter(self, runner, batch_idx, data_batch=None):\n'
        '        return {}["bug"]\n',
        'bug.py': f"_base_ = '{tiny.detection}'\n"
        "custom_imports = dict(imports=['bug_hook'])\n"
        "custom_hooks = [dict(type='BugHook')]\n",
        'damaged.pth': '',
    }
    for name, text in files.items():
        (here / name).write_text(text)
    good = torch.load(trained.det_checkpoint, weights_only=False)
    torch.save({**good, 'more': Payload(here / 'marker')}, here / 'crafted.pth')
    torch.save({**good, 'more': Payload(here / 'own')}, here / 'own.pth')
    torch.save({'state_dict': good['state_dict']}, here / 'weights.pth')
    lacking = dict(good['state_dict'])
    lacking.pop('backbone.stem.conv.weight')
    torch.save({**good, 'state_dict': lacking}, here / 'lacking.pth')
    half = trained.det_checkpoint.read_bytes()[:20000]
    (here / 'damaged.pth').write_bytes(half)


def commands(tiny: SimpleNamespace, trained: SimpleNamespace) -> dict[str, list]:
    """One mistake each, with the folder of `write_files` as current folder."""
    det, seg, checkpoint = tiny.detection, tiny.segmentation, trained.det_checkpoint
    options = '--cfg-options'
    train_set = 'train_dataloader.dataset'
    return {
        'no config': [TRAIN, 'nothere.py'],
        'syntax error': [TRAIN, 'syntax.py'],
        'no model': [TRAIN, 'empty.py'],
        'no package': [TRAIN, 'scope.py'],
        'no equals sign': [TRAIN, det, options, 'model.backbone'],
        'odd key': [TRAIN, det, options, 'model..backbone=1'],
        'unknown key': [TRAIN, det, options, 'modle.backbone=1'],
        'index too high': [TRAIN, seg, options, 'visualizer.vis_backends.7.type=x'],
        'open bracket': [TRAIN, det, options, 'model.neck.in_channels=[1,2'],
        'backbone option': [TRAIN, det, options, 'model.backbone.arhc=s12'],
        'backbone value': [TRAIN, det, options, 'model.backbone.frozen_stages=9'],
        'no annotations': [TRAIN, det, options, f'{train_set}.ann_file=no.json'],
        'no val annotations': [TRAIN, det, options, 'val_evaluator.ann_file=no.json'],
        'no images': [TRAIN, det, options, f'{train_set}.data_prefix.img=no'],
        'no images seg': [TRAIN, seg, options, f'{train_set}.data_prefix.img_path=no'],
        'no class': [TRAIN, det, options, f"{train_set}.metainfo.classes=['cat']"],
        'no pretrained': [TRAIN, det, options, 'load_from=no.pth'],
        'no init': [
            *(TRAIN, det, options),
            "model.backbone.init_cfg={'type': 'Pretrained', 'checkpoint': 'no.pth'}",
        ],
        'no resume': [TRAIN, det, '--resume', 'no.pth'],
        'resume weights': [TRAIN, det, '--resume', 'weights.pth'],
        'resume crafted': [TRAIN, det, '--resume', 'crafted.pth'],
        'no base batch': [
            *(TRAIN, det, '--auto-scale-lr', options),
            'auto_scale_lr.base_batch_size=None',
        ],
        'no ranks': [TRAIN, det, '--launcher', 'pytorch'],
        'no checkpoint': [TEST, det, 'no.pth'],
        'other model': [TEST, seg, checkpoint],
        'lacking key': [TEST, det, 'lacking.pth'],
        'damaged': [TEST, det, 'damaged.pth'],
        'crafted': [TEST, det, 'crafted.pth'],
        'out name': [TEST, det, checkpoint, '--out', 'x.json'],
        'no screen': [TEST, det, checkpoint, '--show'],
        'tta with masks': [TEST, tiny.masks, checkpoint, '--tta'],
        'bug': [TRAIN, 'bug.py'],
        'traceback': [TRAIN, 'nothere.py', '--traceback'],
        # The last one: trust lasts as long as the process.
        'trusted': [TEST, det, 'own.pth', '--trust-checkpoint'],
    }


@pytest.fixture(scope='module')
def outcomes(tiny: SimpleNamespace, trained: SimpleNamespace) -> dict[str, dict]:
    """Exit code and output of each command, and whether the crafted file ran."""
    here = tiny.folder / 'mistakes'
    here.mkdir()
    write_files(tiny, trained, here)
    jobs = commands(tiny, trained)
    patch = pytest.MonkeyPatch()
    for name in ('DISPLAY', 'WAYLAND_DISPLAY', 'RANK', 'MASTER_ADDR'):
        patch.delenv(name, raising=False)
    patch.syspath_prepend(here)
    runs = run_many(list(jobs.values()), here)
    patch.undo()
    return {**dict(zip(jobs, runs, strict=True)), 'here': here}


@pytest.mark.parametrize(
    ('mistake', 'code', 'words'),
    [
        ('no config', 2, ['nothere.py: no such config file']),
        ('syntax error', 1, ['syntax.py: syntax error in line 1']),
        ('no model', 1, ['empty.py: has no model, train_dataloader']),
        ('no package', 1, ['needs mmnothere, which is not installed']),
        ('no equals sign', 2, ["'model.backbone': write key=value"]),
        ('odd key', 2, ["'model..backbone=1': write key=value"]),
        ('unknown key', 2, ["no 'modle'; did you mean model?"]),
        ('index too high', 2, ['visualizer.vis_backends.7.type=x', 'index']),
        ('open bracket', 2, ['model.neck.in_channels=[1,2', 'bracket']),
        ('backbone option', 1, ['MetaFormer', "argument 'arhc'"]),
        ('backbone value', 1, ['frozen_stages=9: choose from']),
        ('no annotations', 1, ['no.json: no such file']),
        ('no val annotations', 1, ['no.json: no such file']),
        ('no images', 1, ['CocoDataset', 'not there: 16', 'no/000.png']),
        ('no images seg', 1, ['no: no such folder of pictures']),
        ('no class', 1, ["(with 'square', 'disc') does not name: 1 (cat)"]),
        ('no pretrained', 1, ['load_from=no.pth: no such file']),
        ('no init', 1, ['model.backbone.init_cfg.checkpoint=no.pth: no such file']),
        ('no resume', 1, ['--resume no.pth: no such file']),
        ('resume weights', 1, ['weights.pth', 'has no meta, message_hub, optimizer']),
        ('resume crafted', 1, ['crafted.pth', 'mkdir', 'trust']),
        ('no base batch', 1, ['no auto_scale_lr.base_batch_size']),
        ('no ranks', 2, ['RANK', 'not set', 'dist_train.sh']),
        ('no checkpoint', 2, ['no.pth: no such checkpoint']),
        ('other model', 1, ['epoch_10.pth', 'another shape: neck.lateral', ', not [']),
        ('lacking key', 1, ['lacks 1 of', 'backbone.stem.conv.weight']),
        ('damaged', 1, ['damaged.pth', 'damaged or truncated']),
        ('crafted', 1, ['crafted.pth', 'mkdir', 'trust']),
        ('out name', 2, ['x.json: must end on .pkl']),
        ('no screen', 2, ['no screen', '--show-dir']),
        ('tta with masks', 1, ['masks of several views']),
    ],
)
def test_a_mistake_is_one_line(
    outcomes: dict, mistake: str, code: int, words: list[str]
) -> None:
    outcome = outcomes[mistake]
    (line,) = outcome['err'].splitlines()
    assert line.startswith('error: ')
    assert len(line) < 500
    for word in words:
        assert word.lower() in line.lower()
    assert outcome['code'] == code
    assert 'Traceback' not in outcome['out']


def test_crafted_checkpoints_run_nothing(outcomes: dict) -> None:
    here = outcomes['here']
    assert not (here / 'marker').exists()
    torch.load(here / 'crafted.pth', weights_only=False)
    assert (here / 'marker').exists()  # so the file would have run


def test_a_trusted_checkpoint_is_loaded_whole(outcomes: dict) -> None:
    assert outcomes['trusted']['code'] == 0, outcomes['trusted']['err']
    assert (outcomes['here'] / 'own').exists()


def test_faults_and_wishes_show_a_traceback(outcomes: dict) -> None:
    assert outcomes['bug']['code'] == 'crash'
    assert 'Traceback' in outcomes['bug']['err']
    assert 'KeyError' in outcomes['bug']['err']
    assert outcomes['traceback']['code'] == 'crash'
    assert 'UsageError' in outcomes['traceback']['err']


@pytest.mark.parametrize(('tool', 'rest'), [('train.py', []), ('test.py', ['x.pth'])])
def test_a_mistake_ends_the_process_with_its_code(
    tool: str, rest: list[str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / 'tools' / tool, 'nothere.py', *rest],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == 'error: nothere.py: no such config file\n'
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize('tool', ['train.py', 'test.py'])
def test_help_teaches_by_example(tool: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / 'tools' / tool, '--help'],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert 'examples:' in done.stdout
    for option in ('--work-dir', '--cfg-options', '--launcher', '--trust-checkpoint'):
        assert option in done.stdout
