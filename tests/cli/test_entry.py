"""`--entry NAME` and `FILE#NAME`: one of several models in a file, for every tool."""

import csv
import json
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from random_weights import randomised
from tiny_data import CLASSIFICATION, ROOT, write_classes
from tool_process import run_here

from mmpoolformer.cli import demo, gradcam, run
from mmpoolformer.models.from_config import build_from_config

NAMES = ('moth', 'wasp')
MODEL = ['--model', 'config.py', '--checkpoint']


def rows(path: Path) -> list:
    """Read a table without where the weights were from."""
    with path.open() as file:
        table = list(csv.DictReader(file))
    # Nor how long it took.
    left_out = {'checkpoint', 'pictures_per_second'}
    return [{k: v for k, v in row.items() if k not in left_out} for row in table]


def metrics(path: Path) -> list:
    return json.loads(path.read_text())['metrics']


def logits(path: Path) -> list:
    picture = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
    return torch.jit.load(path)(picture)[0].tolist()


def weights(path: Path) -> list:
    state = torch.load(path, weights_only=False)['state_dict']
    return [tensor.tolist() for tensor in state.values()]


# The command with OUT and WEIGHTS, and what reads its result.
TOOLS = {
    'predict': (['data/val', '--csv', 'OUT/a.csv', *MODEL, 'WEIGHTS'], 'a.csv', rows),
    'validate': (['data', '--results', 'OUT/a.csv', *MODEL, 'WEIGHTS'], 'a.csv', rows),
    'infer': (
        ['config.py', 'WEIGHTS', 'data/val', '--out', 'OUT'],
        'predictions.csv',
        rows,
    ),
    'export': (
        ['config.py', '--checkpoint', 'WEIGHTS', '--out', 'OUT/a.ts'],
        'a.ts',
        logits,
    ),
    'test': (['config.py', 'WEIGHTS', '--work-dir', 'OUT'], 'results_*.json', metrics),
    'train': (
        [
            *('config.py', '--work-dir', 'OUT', '--no-check', '--cfg-options'),
            *('load_from=WEIGHTS', 'train_cfg.max_epochs=1'),
        ],
        'epoch_1.pth',
        weights,
    ),
}


@pytest.fixture(scope='module')
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a config, data, a file with two models, and each of them alone."""
    folder = tmp_path_factory.mktemp('entry')
    for split in ('train', 'val'):
        write_classes(folder / 'data' / split, NAMES, count=4)
    text = CLASSIFICATION.format(root=ROOT, data=folder / 'data')
    (folder / 'config.py').write_text(text)
    config = Config.fromfile(folder / 'config.py')
    meta = {'dataset_meta': {'classes': NAMES}}
    both = {
        name: randomised(build_from_config(config), seed).state_dict()
        for seed, name in enumerate(('student', 'teacher'))
    }
    torch.save({**both, 'meta': meta}, folder / 'both.pth')
    for name, state in both.items():
        torch.save({'state_dict': state, 'meta': meta}, folder / f'{name}.pth')
    (folder / 'weights').mkdir()
    (folder / 'weights' / 'config.pth').symlink_to(folder / 'both.pth')
    return folder


def ran(here: Path, name: str, source: str, *more: str) -> dict:
    """Run a tool on some weights; its results are in the folder `out`."""
    out = here / name / re.sub('[^a-z]+', '_', ' '.join([source, *more]))
    out.mkdir(parents=True)
    words = [word.replace('WEIGHTS', source) for word in TOOLS[name][0]]
    words = [word.replace('OUT', str(out)) for word in words]
    return {**run_here([f'tools/{name}.py', *words, *more], here), 'out': out}


def result(here: Path, name: str, *words: str) -> list:
    """Return what a tool that must succeed makes of some weights."""
    done = ran(here, name, *words)
    assert done['code'] == 0, done['err'][-2000:]
    _, pattern, read = TOOLS[name]
    [path] = done['out'].rglob(pattern)
    return read(path)


@pytest.mark.slow
@pytest.mark.parametrize('name', TOOLS)
def test_an_entry_is_as_its_file_alone(name: str, here: Path) -> None:
    refused = ran(here, name, 'both.pth')
    assert refused['code'] == 1
    line = refused['err'].splitlines()[-1]
    assert line.startswith('error: both.pth holds weights in several entries')
    assert '(student, teacher): choose one by --entry student ' in line
    assert line.endswith("Python: 'FILE#student')")
    option = ['both.pth', '--entry', 'teacher'], ['both.pth#teacher']
    found = result(here, name, *option[name == 'train'])
    assert found == result(here, name, 'teacher.pth')
    assert found != result(here, name, 'student.pth')
    if name in ('predict', 'infer'):  # the file's names of the classes
        assert set(NAMES) <= {value for row in found for value in row.values()}


def test_results_of_entries_lie_side_by_side(here: Path) -> None:
    for entry in ('student', 'teacher'):
        words = ['config.py', f'both.pth#{entry}', '--work-dir', 'beside']
        assert run_here(['tools/test.py', *words], here)['code'] == 0
    names = {path.name for path in (here / 'beside').glob('results_*.json')}
    assert names == {'results_both_student.json', 'results_both_teacher.json'}


def test_an_entry_of_each_file_in_a_folder(here: Path) -> None:
    words = ['data', '--model', 'config.py', '--checkpoints', 'weights']
    more = ['--entry', 'teacher', '--results', 'folder.csv']
    assert run_here(['tools/validate.py', *words, *more], here)['code'] == 0
    [row] = rows(here / 'folder.csv')
    words = ['data', '--model', 'config.py', '--checkpoint', 'teacher.pth']
    run_here(['tools/validate.py', *words, '--results', 'teacher.csv'], here)
    assert [row] == rows(here / 'teacher.csv')


def test_commands_of_several_models_take_it_for_each(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    choice = ['--checkpoint', 'both.pth', 'both.pth', '--entry', 'teacher']
    names = ['config.py', 'timm/test_resnet']
    found = gradcam.parse(['data/val/moth/0.png', '--model', *names, *choice])
    assert found.checkpoint == ['both.pth#teacher'] * 2
    expected = list(zip(names, ['both.pth#teacher'] * 2, strict=True))
    assert demo.parse([*names, *choice]).models == expected
    pairs = [f'{name}:both.pth' for name in names]
    assert demo.parse([*pairs, *choice[3:]]).models == expected


@pytest.mark.parametrize(
    'words',
    [
        'predict a.png --model poolformer_s12',
        'predict a.png --model poolformer_s12 --checkpoint random',
        'infer config.py a.png --out x',
        'export poolformer_s12 --checkpoint random --out a.ts',
        'validate data --model poolformer_s12,poolformer_s24',
        'gradcam config.py --model a b --checkpoint both.pth random',
        'demo',
        'demo poolformer_s12 config.py:both.pth',
    ],
)
def test_an_entry_of_no_file_is_a_mistake(
    words: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(here)
    command, *options = words.split()
    assert run(command, [*options, '--entry', 'net']) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith('error: --entry net: goes with weights of your own')


def test_an_entry_that_is_not_there(here: Path) -> None:
    words = ['data', '--model', 'config.py', '--checkpoint', 'both.pth']
    found = run_here(['tools/predict.py', *words, '--entry', 'net'], here)
    assert found['code'] == 1
    [line] = found['err'].splitlines()
    assert line.endswith("has no weights in an entry 'net', only in student, teacher")
