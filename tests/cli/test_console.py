"""What a user reads on the console of a training and a test."""

import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from tiny_data import COUNTS
from tool_process import run_here, run_on_terminal

pytestmark = pytest.mark.slow

NOISE = (
    *('OneDL', 'FileClient', 'HardDiskBackend', 'prefix is not set', 'index created'),
    *('loading annotations', 'Evaluating bbox', 'Hooks will be', 'System environment'),
    *('Exp name', 'Saving checkpoint', 'Average Precision', 'Config:', 'UserWarning'),
)


@pytest.fixture(scope='module')
def told(tiny: SimpleNamespace) -> SimpleNamespace:
    """Two epochs of a detector with the console as it is, and one with all of it."""
    work = {name: tiny.folder / f'console_{name}' for name in ('usual', 'verbose')}
    command = ['tools/train.py', tiny.detection, '--work-dir']
    short = '--cfg-options', 'train_cfg.max_epochs=1'
    usual = run_here([*command, work['usual']], tiny.folder)
    verbose = run_here([*command, work['verbose'], '--verbose', *short], tiny.folder)
    for run in (usual, verbose):
        assert run['code'] == 0, run['err'] + run['out'][-2000:]
    return SimpleNamespace(
        work=work['usual'],
        out=usual['out'],
        err=usual['err'],
        lines=usual['out'].splitlines(),
        verbose=verbose['out'],
    )


def fact(lines: list[str], label: str) -> str:
    (line,) = [line for line in lines if line.startswith(f'{label}:')]
    return line.split(maxsplit=len(label.split()))[-1]


def test_a_short_training_fits_a_screen(told: SimpleNamespace) -> None:
    assert len(told.lines) < 40
    for line in told.lines:
        assert len(line) <= 80 or '/' in line, line
    for noise in NOISE:
        assert noise not in told.out + told.err, noise


def test_the_first_lines_say_what_runs(
    tiny: SimpleNamespace, told: SimpleNamespace
) -> None:
    weights = torch.load(told.work / 'epoch_2.pth', weights_only=False)['state_dict']
    millions = sum(weight.numel() for weight in weights.values()) / 1e6
    config = Config.fromfile(tiny.detection)
    rate = config.optim_wrapper.optimizer.lr
    batch = config.train_dataloader.batch_size
    model = f'RetinaNet with PoolFormer, {millions:.2f} million parameters'
    assert fact(told.lines, 'config') == str(tiny.detection)
    assert fact(told.lines, 'model') == model
    images = f'{COUNTS["train"]} for training, {COUNTS["val"]} for evaluation'
    assert fact(told.lines, 'images') == images
    assert fact(told.lines, 'classes') == '2 (square, disc)'
    assert fact(told.lines, 'batch size') == str(batch)
    assert fact(told.lines, 'optimizer') == f'AdamW, learning rate {rate}'
    length = f'2 epochs of {COUNTS["train"] // batch} iterations'
    assert fact(told.lines, 'length').startswith(length)
    assert fact(told.lines, 'device').startswith('CPU')
    assert fact(told.lines, 'work dir') == str(told.work)


def test_a_wrong_batch_size_is_warned_of(told: SimpleNamespace) -> None:
    assert 'warning: A step sees 4 images, the learning rate is for 16' in told.out


def test_each_evaluation_is_a_line(told: SimpleNamespace) -> None:
    entries = json.loads((told.work / 'val_results.json').read_text())
    first, second = (entry['metrics']['coco/bbox_mAP'] for entry in entries)
    best = 2 if second > first else 1
    found = [line for line in told.lines if line.startswith('Epoch(val)')]
    assert found == [
        f'Epoch(val) [1]  coco/bbox_mAP: {first:.4g}, best: epoch_1.pth',
        f'Epoch(val) [2]  coco/bbox_mAP: {second:.4g} ({second - first:+.4g}), '
        f'best: epoch_{best}.pth',
    ]
    path = told.work / f'epoch_{best}.pth'
    assert f'best checkpoint: {path} (coco/bbox_mAP: {max(first, second):.4g})' in (
        told.lines
    )


def test_lines_of_figures_are_those_of_the_log(told: SimpleNamespace) -> None:
    log = Path(fact(told.lines, 'log'))
    pattern = r'Epoch\(train\) .*'
    figures = re.findall(pattern, told.out)
    assert len(figures) == 2 * 4  # one of each iteration
    assert re.findall(pattern, log.read_text()) == figures


def test_the_last_lines_lead_on(tiny: SimpleNamespace, told: SimpleNamespace) -> None:
    for label in ('log', 'curves', 'results'):
        assert Path(fact(told.lines, label)).is_file()
    text = '\n'.join(told.lines).replace('\\\n', ' ')
    *_, test, infer = (shlex.split(line) for line in text.splitlines())
    for command in (test, infer):
        assert command[0] == 'mmpoolformer'
        done = run_here([f'tools/{command[1]}.py', *command[2:]], tiny.folder)
        assert done['code'] == 0, done['err']
    name = f'results_{Path(test[3]).stem}.json'
    results = json.loads((told.work / 'test' / name).read_text())
    entries = json.loads((told.work / 'val_results.json').read_text())
    measured = [entry['metrics']['coco/bbox_mAP'] for entry in entries]
    assert results['metrics']['coco/bbox_mAP'] == max(measured)
    assert list((told.work / 'found').iterdir())


def test_the_log_has_everything(tiny: SimpleNamespace, told: SimpleNamespace) -> None:
    text = Path(fact(told.lines, 'log')).read_text()
    config = (told.work / tiny.detection.name).read_text()
    assert len(config.splitlines()) > 100
    assert f'Config:\n{config}' in text
    for words in ('System environment', 'Hooks will be executed', 'bbox_mAP_50: '):
        assert words in text
    assert text.count(' Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all') == 2


def test_verbose_prints_all_of_it(told: SimpleNamespace) -> None:
    for words in (
        'System environment',
        'Config:',
        'Hooks will be',
        'Saving checkpoint',
    ):
        assert words in told.verbose
    assert re.search(r'Epoch\(val\) \[1\]\[7/7\] +coco/bbox_mAP: ', told.verbose)


def test_a_test_shows_its_metrics(
    tiny: SimpleNamespace, tested: SimpleNamespace
) -> None:
    lines = tested.runs['seg']['out'].splitlines()
    assert fact(lines, 'images') == f'{COUNTS["val"]} for test'
    path = tested.out / 'work_seg' / 'results_iter_4.json'
    metrics = json.loads(path.read_text())['metrics']
    for name, value in metrics.items():
        assert f'{name}: {value:.2f} %' in lines
    assert '|    disc    |' in tested.runs['seg']['out']  # classes, one by one
    for noise in NOISE:
        assert noise not in tested.runs['det']['out'], noise


def test_a_terminal_shows_a_bar(tiny: SimpleNamespace) -> None:
    work = tiny.folder / 'console_terminal'
    command = ['tools/train.py', tiny.detection, '--work-dir', work]
    drawn = re.split(r'[\r\n]+', run_on_terminal(command, tiny.folder))
    lines = [re.sub(r'\x1b\[A', '', line) for line in drawn]
    bars = [line for line in lines if line.startswith('epoch 2/2 ')]
    number = r'\d[\d.e+-]*'
    figures = rf'\d\d:\d\d left, loss {number}, lr 2\.0e-03, {number} img/s'
    assert re.fullmatch(rf'epoch 2/2 \S+ 100 %, {figures}', bars[-1])
    assert any(line.startswith('testing ') for line in lines)
    assert not any('Epoch(train)' in line for line in lines)
    for line in lines:
        assert len(line) < 80 or '/' in line, line
    log = (work / 'train_log.jsonl').read_text().splitlines()
    assert f'loss {json.loads(log[-1])["loss"]:.3g},' in bars[-1]
