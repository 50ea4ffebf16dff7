"""tools/validate.py and tools/predict.py: models by name, without a config."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import ImageNetInfo, create_transform, resolve_model_data_config
from tiny_data import ROOT, write_classes
from tool_process import run_here, run_many

from mmpoolformer import create_model
from mmpoolformer.analysis.report.parts import MOST_PICTURES

pytestmark = pytest.mark.slow

VALIDATE, PREDICT = 'tools/validate.py', 'tools/predict.py'
CLASSES = ('ant', 'bee', 'cat')
RIGHT = ('train', 'test', 'mine', 'all', 'skip', 'amp')
RIGHT += ('predict', 'predict mine', 'predict skip', 'replace')
RIGHT += ('predict config', 'validate config')

CONFIG = """
_base_ = '{root}/configs/classification/poolformer_s12_8xb128_in1k.py'
model = dict(
    _delete_=True, type='mmpoolformer.TimmClassifier', name='test_resnet',
    num_classes=3)
train_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False,
    dataset=dict(root='{data}', transform=dict(input_size=32)))
val_dataloader = dict(
    batch_size=5, num_workers=0, persistent_workers=False,
    dataset=dict(root='{data}', transform=dict(input_size=32, crop_pct=0.5)))
test_dataloader = val_dataloader
param_scheduler = dict(t_initial=1, warmup_t=0)
train_cfg = dict(max_epochs=1)
"""


class Payload:
    """Makes a marker file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


@pytest.fixture(scope='module')
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data, weights and files that are wrong, each in one way."""
    folder = tmp_path_factory.mktemp('known')
    for split in ('train', 'val'):
        write_classes(folder / 'data' / split, CLASSES)
    write_classes(folder / 'two', CLASSES[:2])
    write_classes(folder / 'bad', CLASSES)
    bad = folder / 'bad' / 'bee' / '2.png'
    bad.write_bytes(bad.read_bytes()[:99])
    (folder / 'empty').mkdir()
    (folder / 'config.py').write_text(CONFIG.format(root=ROOT, data=folder / 'data'))
    torch.manual_seed(0)
    (folder / 'weights').mkdir()
    for name in ('poolformer_s12', 'poolformerv2_s12'):
        model = create_model(name, num_classes=3)
        torch.save(model.state_dict(), folder / 'weights' / f'{name}.pth.tar')
    net = timm.create_model('test_resnet')
    torch.save({'state_dict': net.state_dict()}, folder / 'net.pth')
    torch.save(
        {'state_dict': net.state_dict(), 'more': Payload(folder / 'marker')},
        folder / 'crafted.pth',
    )
    named = {'dataset_meta': {'classes': ('ant', 'bee', 'dog')}}
    net = timm.create_model('test_resnet', num_classes=3)
    torch.save({'meta': named, 'state_dict': net.state_dict()}, folder / 'named.pth')
    (folder / 'old.csv').write_text('kept')
    return folder


def commands() -> dict[str, list]:
    net = ['--model', 'timm/test_resnet', '--checkpoint', 'net.pth']
    named = ['--model', 'timm/test_resnet', '--checkpoint', 'named.pth']
    three = ['--model', 'poolformer_s12', '--checkpoint']
    three += ['weights/poolformer_s12.pth.tar', '--img-size', 64]
    folder = ['--checkpoints', 'weights']
    work = ['--work-dir', 'work']
    epoch = 'work/epoch_1.pth'
    mine = ['--model', 'timm/test_resnet', '--checkpoint', epoch]
    return {
        # right ones
        'train': ['tools/train.py', 'config.py', *work],
        'test': ['tools/test.py', 'config.py', epoch, *work, '--report', 'tested'],
        'mine': [
            *(VALIDATE, *mine, 'data', '--results', 'mine.csv', '--report', 'mine'),
        ],
        'all': [
            *(VALIDATE, '--model', 'all', *folder, 'data'),
            *('--img-size', 64, '--crop-pct', 0.75, '--results', 'tables/all.csv'),
        ],
        'skip': [VALIDATE, *three, 'bad', '--skip-unreadable', '--workers', 1],
        'amp': [VALIDATE, *three, 'data', '--amp'],
        'predict': [
            *(PREDICT, 'data/val/ant', 'data/*/bee/1.png', *net, '--topk', 3),
            *('--csv', 'p.csv', '--json', 'p.json'),
        ],
        'predict mine': [PREDICT, 'data/val/ant/0.png', *mine, '--csv', 'm.csv'],
        'predict config': [
            *(PREDICT, 'data/val/ant/0.png', '--model', 'config.py'),
            *('--checkpoint', epoch),
        ],
        'validate config': [
            *(VALIDATE, '--model', 'config.py', '--checkpoint', epoch, 'data'),
        ],
        'predict skip': [
            *(PREDICT, 'bad', *net, '--skip-unreadable', '--json', 's.json'),
        ],
        'replace': [PREDICT, 'data/val/ant/0.png', *net, '--csv', 'm.csv', '--force'],
        # wrong ones
        'no model': [VALIDATE, '--model', 'poolformer_s1', 'data'],
        'no pattern': [VALIDATE, '--model', 'pool*x', 'data'],
        'no timm': [VALIDATE, '--model', 'timm/nothing', 'data'],
        'no data': [VALIDATE, *three, 'nowhere'],
        'empty data': [VALIDATE, *three, 'empty'],
        'no file': [VALIDATE, *three[:2], '--checkpoint', 'no.pth', 'data'],
        'no config': [PREDICT, 'data', '--model', 'no.py'],
        'config alone': [PREDICT, 'data', '--model', 'config.py'],
        'no folder': [VALIDATE, '--model', 'all', '--checkpoints', 'no', 'data'],
        'no weights': [VALIDATE, '--model', 'all', '--checkpoints', 'empty', 'data'],
        'one missing': [
            *(VALIDATE, '--model', 'poolformer_s12,caformer_s18', *folder, 'data'),
        ],
        'two kinds': [VALIDATE, *three, *folder, 'data'],
        'too many': [VALIDATE, '--model', 'caformer_*', *three[2:], 'data'],
        'other count': [VALIDATE, *three, 'two'],
        'other names': [VALIDATE, *named, 'data'],
        'other model': [VALIDATE, '--model', 'poolformer_s24', *three[2:], 'data'],
        'unreadable': [VALIDATE, *three, 'bad', '--workers', 1, '--results', 'u.csv'],
        'crop': [VALIDATE, *three, 'data', '--crop-pct', 1.5],
        'size': [VALIDATE, *three[:4], 'data', '--img-size', 0],
        'fixed size': [
            *(VALIDATE, '--model', 'timm/test_vit', '--checkpoint', 'vit.pth'),
            *('data', '--img-size', 64),
        ],
        'batch': [VALIDATE, *three, 'data', '--batch-size', 0],
        'workers': [PREDICT, 'data', *net, '--workers', -1],
        'device': [PREDICT, 'data', *net, '--device', 'gpu0'],
        'half': [VALIDATE, *three, 'data', '--dtype', 'float16'],
        'results': [VALIDATE, *three, 'data', '--results', 'old.csv'],
        'reports': [VALIDATE, '--model', 'all', *folder, 'data', '--report', 'r'],
        'csv': [PREDICT, 'data', *net, '--csv', 'old.csv'],
        'topk': [PREDICT, 'data', *net, '--topk', 0],
        'no picture': [PREDICT, 'nowhere/*.jpg', *net],
        'no pictures': [PREDICT, 'empty', *net],
        'bad picture': [PREDICT, 'bad', *net, '--csv', 'b.csv'],
        'only bad': [PREDICT, 'bad/bee/2.png', *net, '--skip-unreadable'],
        'predict no model': [PREDICT, 'data', '--model', 'test_resnet'],
        'crafted': [PREDICT, 'data', *net[:3], 'crafted.pth'],
    }


@pytest.fixture(scope='module')
def outcomes(here: Path) -> dict[str, dict]:
    vit = timm.create_model('test_vit', num_classes=3)
    torch.save(vit.state_dict(), here / 'vit.pth')
    jobs = commands()
    return dict(zip(jobs, run_many(list(jobs.values()), here), strict=True))


def rows(path: Path) -> list[dict]:
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize('job', RIGHT)
def test_right_commands_succeed(job: str, outcomes: dict) -> None:
    assert outcomes[job]['code'] == 0, outcomes[job]['err'] + outcomes[job]['out']


def test_a_training_is_validated_as_by_its_config(here: Path, outcomes: dict) -> None:
    tested = json.loads((here / 'work' / 'results_epoch_1.json').read_text())
    (row,) = rows(here / 'mine.csv')
    assert float(row['top1']) == pytest.approx(
        tested['metrics']['accuracy/top1'], abs=1e-3
    )
    assert (row['pictures'], row['classes']) == ('12', '3')
    assert (row['img_size'], row['crop_pct']) == ('32x32', '0.5')
    assert f'top-1 {float(row["top1"]):.2f} %' in outcomes['mine']['out']


def test_the_report_is_that_of_a_test(here: Path, outcomes: dict) -> None:
    mine, tested = (
        json.loads((here / name / 'report.json').read_text())
        for name in ('mine', 'tested')
    )
    assert (mine['model'], mine['checkpoint'], mine['data']) == (
        *('timm/test_resnet', 'work/epoch_1.pth', 'data'),
    )
    for name in ('metrics', 'per_class', 'confusion'):
        assert mine[name] == tested[name]
    paths = [str(here / path) for path in mine['worst pictures']]
    assert paths == tested['worst pictures']
    assert np.sum(mine['confusion']['counts'], axis=1).tolist() == [4, 4, 4]
    wrong = 12 - np.trace(mine['confusion']['counts'])
    assert len(mine['worst pictures']) == min(wrong, MOST_PICTURES)
    assert (here / 'mine' / 'report.html').is_file()
    assert outcomes['mine']['out'].endswith('report: mine/report.html\n')


def test_a_config_means_the_same_as_the_name_in_it(outcomes: dict) -> None:
    assert outcomes['predict config']['out'] == outcomes['predict mine']['out']
    by_name, by_config = (
        outcomes[job]['out'].partition(': ')[2].rpartition(', ')[0]
        for job in ('mine', 'validate config')
    )
    assert by_config == by_name


def test_all_models_with_a_file_are_in_the_table(here: Path, outcomes: dict) -> None:
    table = rows(here / 'tables' / 'all.csv')
    names = [row['model'] for row in table]
    assert names == ['poolformer_s12', 'poolformerv2_s12']
    assert [row['img_size'] for row in table] == ['64x64', '64x64']
    assert not list((here / 'tables').glob('*.part'))
    # The second one is timm's model too.
    model = timm.create_model('poolformerv2_s12', num_classes=3).eval()
    model.load_state_dict(torch.load(here / 'weights' / f'{names[1]}.pth.tar'))
    settings = resolve_model_data_config(model)
    transform = create_transform(**{**settings, 'input_size': 64, 'crop_pct': 0.75})
    paths = sorted((here / 'data' / 'val').rglob('*.png'))
    images = torch.stack([transform(Image.open(path)) for path in paths])
    labels = torch.tensor([CLASSES.index(path.parent.name) for path in paths])
    with torch.no_grad():
        logits = model(images)
    loss = torch.nn.functional.cross_entropy(logits, labels).item()
    assert float(table[1]['loss']) == pytest.approx(loss, abs=1e-4)
    hits = (logits.argmax(1) == labels).float().mean().item()
    assert float(table[1]['top1']) == pytest.approx(100 * hits, abs=1e-3)
    assert int(table[1]['params']) == sum(p.numel() for p in model.parameters())


def test_unreadable_pictures_are_skipped_and_counted(outcomes: dict) -> None:
    assert '11 pictures of 64x64, 1 unreadable' in outcomes['skip']['out']
    outcome = outcomes['predict skip']
    assert '11 pictures, 1 skipped as unreadable' in outcome['out']
    assert 'skipped bad/bee/2.png: can not be read' in outcome['err']


def test_predictions_have_imagenets_names(here: Path, outcomes: dict) -> None:
    model = timm.create_model('test_resnet').eval()
    model.load_state_dict(torch.load(here / 'net.pth')['state_dict'])
    transform = create_transform(**resolve_model_data_config(model))
    paths = [f'data/val/ant/{i}.png' for i in range(4)]
    paths += ['data/train/bee/1.png', 'data/val/bee/1.png']
    record = json.loads((here / 'p.json').read_text())
    assert [entry['picture'] for entry in record['pictures']] == paths
    assert (record['model'], record['unreadable']) == ('timm/test_resnet', [])
    table = rows(here / 'p.csv')
    assert len(table) == 3 * len(paths)
    info = ImageNetInfo()
    for i, path in enumerate(paths):
        with torch.no_grad():
            scores = model(transform(Image.open(here / path))[None]).softmax(1)[0]
        best = scores.topk(3)
        names = [info.index_to_description(k) for k in best.indices.tolist()]
        entries = record['pictures'][i]['predictions']
        assert [entry['class'] for entry in entries] == best.indices.tolist()
        assert [entry['name'] for entry in entries] == names
        found = [entry['probability'] for entry in entries]
        assert found == pytest.approx(best.values.tolist(), rel=1e-4)
        of_picture = table[3 * i : 3 * i + 3]
        assert [row['rank'] for row in of_picture] == ['1', '2', '3']
        assert [row['name'] for row in of_picture] == names
        assert {row['picture'] for row in of_picture} == {path}
        assert (
            f'{path}\n  {100 * found[0]:6.2f} %  {names[0]}'
            in (outcomes['predict']['out'])
        )


def test_predictions_of_a_training_have_its_names(outcomes: dict) -> None:
    lines = outcomes['predict mine']['out'].splitlines()
    assert lines[0] == 'data/val/ant/0.png'
    assert sorted(line.split()[-1] for line in lines[1:]) == list(CLASSES)
    assert sum(float(line.split()[0]) for line in lines[1:]) == pytest.approx(
        100, abs=0.02
    )


@pytest.mark.parametrize(
    ('mistake', 'code', 'words'),
    [
        ('no model', 2, ["no model 'poolformer_s1'", 'poolformer_s12']),
        ('no pattern', 2, ['--model pool*x: no model']),
        ('no timm', 2, ["'timm/nothing'"]),
        ('no data', 1, ['nowhere: no such folder']),
        ('empty data', 1, ['empty: no picture in class folders']),
        ('no file', 2, ['no.pth: no such checkpoint']),
        ('no config', 2, ['no.py: no such config file']),
        ('config alone', 1, ['names no weights of the whole model']),
        ('no folder', 2, ['--checkpoints no: no such folder']),
        ('no weights', 1, ['empty: no checkpoint poolformer_s12.pth', 'more']),
        ('one missing', 1, ['weights: no checkpoint caformer_s18.pth']),
        ('two kinds', 2, ['--checkpoint and --checkpoints']),
        ('too many', 2, ['--checkpoint: for one model, not 20']),
        ('other count', 1, ['two: 2 classes (ant, bee), but the model has 3']),
        ('other names', 1, ['only in the folder: cat; only in the checkpoint: dog']),
        ('other model', 1, ['poolformer_s12.pth.tar does not fit']),
        ('unreadable', 1, ['bad/bee/2.png: can not', 'or skip', '--skip-unreadable']),
        ('crop', 2, ['--crop-pct 1.5: give']),
        ('size', 2, ['--image-size 0: give']),
        ('fixed size', 1, ['--image-size 64: timm/test_vit takes 160 only']),
        ('batch', 2, ['--batch-size 0: give a number from 1']),
        ('workers', 2, ['--workers -1: give a number from 0']),
        ('device', 2, ['--device gpu0: not here']),
        ('half', 2, ['--dtype fp16: needs a GPU']),
        ('results', 2, ['old.csv: exists', '--force']),
        ('reports', 2, ['--report: for one model, not 2']),
        ('csv', 2, ['old.csv: exists', '--force']),
        ('topk', 2, ['--topk 0: give a number from 1']),
        ('no picture', 1, ['nowhere/*.jpg: no such picture']),
        ('no pictures', 1, ['empty: no picture there']),
        ('bad picture', 1, ['bad/bee/2.png: can not be read']),
        ('predict no model', 2, ["no model 'test_resnet'", 'timm/test_resnet']),
        ('crafted', 1, ['crafted.pth asks for', '--trust']),
    ],
)
def test_a_mistake_is_told_in_one_line(
    mistake: str, code: int, words: list[str], outcomes: dict
) -> None:
    outcome = outcomes[mistake]
    # A progress bar may have been there before.
    line = outcome['err'].splitlines()[-1].rpartition('\r')[2].strip()
    assert line.startswith('error: ')
    assert len(line) < 500
    for word in words:
        assert word in line
    assert outcome['code'] == code
    assert 'Traceback' not in outcome['err'] + outcome['out']


def test_only_unreadable_pictures_are_an_error(outcomes: dict) -> None:
    outcome = outcomes['only bad']
    assert outcome['code'] == 1
    assert 'skipped bad/bee/2.png' in outcome['err']
    assert 'error: none of the 1 pictures can be read' in outcome['err']


def test_mistakes_leave_nothing_behind(here: Path, outcomes: dict) -> None:
    assert outcomes['crafted']['code'] == 1
    assert not (here / 'marker').exists()
    assert (here / 'old.csv').read_text() == 'kept'
    for name in ('u.csv', 'b.csv', 'no'):
        assert not (here / name).exists()


def test_without_a_connection_there_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new('RGB', (40, 40)).save(tmp_path / 'a.png')
    # What HF_HUB_OFFLINE=1 sets in a new process.
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    words = [PREDICT, 'a.png', '--model', 'timm/test_resnet']
    done = run_here(words, tmp_path, MMPOOLFORMER_CACHE=str(tmp_path / 'cache'))
    (line,) = done['err'].splitlines()
    assert line.startswith('error: timm://test_resnet: cannot download')
    assert '--checkpoint FILE' in line
    assert done['code'] == 1


@pytest.mark.parametrize('tool', [VALIDATE, PREDICT])
def test_help_teaches_by_example(tool: str) -> None:
    done = run_here([tool, '--help'], ROOT)
    assert done['code'] == 0
    assert 'examples:' in done['out']
    for option in ('--model', '--checkpoint', '--skip-unreadable', '--device'):
        assert option in done['out']
