"""Files of strangers run nothing, through whichever tool and option they come in.

Each crafted file would make a folder if it were unpickled by Python itself, which the
last test shows of all of them.
"""

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from tiny_data import ROOT, write_classes, write_data, write_detection_config
from tool_process import run_many

pytestmark = pytest.mark.slow

TRAIN, TEST, CONVERT = 'tools/train.py', 'tools/test.py', 'tools/convert_checkpoint.py'
VALIDATE, PREDICT, CAM = 'tools/validate.py', 'tools/predict.py', 'tools/gradcam.py'
INFER, DEMO, EXPORT = 'tools/infer.py', 'tools/demo.py', 'tools/export.py'
NAME, OWN = 'timm/test_resnet', 'poolformer_s12'
WEIGHTS = ('--checkpoint', 'FILE')

CONFIG = """
_base_ = '{root}/configs/classification/poolformer_s12_8xb128_in1k.py'
model = dict(
    _delete_=True, type='mmpoolformer.TimmClassifier', name='test_resnet',
    num_classes=2)
train_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False,
    dataset=dict(root='{data}', transform=dict(input_size=32)))
val_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False,
    dataset=dict(root='{data}', transform=dict(input_size=32)))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=1)
"""


class Payload:
    """Runs a command of the shell, or calls a function, when it is unpickled."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def nested(payload: object) -> object:
    """Hide it in containers of the kinds that checkpoints hold."""
    return {'cfg': [({'deep': [payload, torch.ones(1)]},)]}


def write_legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def write_second_pickle(content: object, path: Path) -> None:
    """Hide a second pickle of the name that torch reads behind a harmless one."""
    torch.save({'state_dict': {'a': torch.ones(1)}}, path)
    with zipfile.ZipFile(path, 'a') as archive:
        archive.writestr('evil/data.pkl', pickle.dumps(content, 2))
        archive.writestr('evil/version', '3\n')


def write_bare(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, 2))


def crafted(folder: Path) -> dict[str, Path]:
    """Write crafted files; each makes a folder `NAME.ran` when it is unpickled."""
    state = timm.create_model('test_resnet', num_classes=2).state_dict()

    def mark(name: str) -> Path:
        return folder / f'{name}.ran'

    def system(name: str) -> Payload:
        return Payload(os.system, f'mkdir {mark(name)}')

    def mkdir(name: str) -> Payload:
        return Payload(os.mkdir, str(mark(name)))

    good = {'state_dict': state, 'meta': {}, 'optimizer': {}, 'message_hub': {}}
    contents = {
        'system.pth': (torch.save, {**good, 'more': system('system.pth')}),
        'bare.pth': (write_bare, {**good, 'more': system('bare.pth')}),
        'legacy.pth': (write_legacy, {**good, 'more': system('legacy.pth')}),
        'weights.pth': (
            torch.save,
            {'state_dict': {**state, 'x': mkdir('weights.pth')}},
        ),
        'nested.pth': (torch.save, {**good, 'meta': nested(mkdir('nested.pth'))}),
        'optimizer.pth': (
            torch.save,
            {**good, 'optimizer': {'state': {0: {'step': mkdir('optimizer.pth')}}}},
        ),
        'hub.pth': (
            torch.save,
            {**good, 'message_hub': {'log_scalars': {'loss': mkdir('hub.pth')}}},
        ),
        'ema.pth.tar': (write_legacy, {'state_dict_ema': mkdir('ema.pth.tar'), **good}),
        'paddle.pdparams': (
            write_bare,
            {'head.weight': np.ones(2), 'x': system('paddle.pdparams')},
        ),
        'second.pth': (write_second_pickle, mkdir('second.pth')),
        # Another ending does not choose another reader.
        'disguised.safetensors': (torch.save, mkdir('disguised.safetensors')),
    }
    for name, (write, content) in contents.items():
        write(content, folder / name)
    return {name: folder / name for name in contents}


def entries() -> dict[str, list]:
    """Return every way in which a tool takes a checkpoint; `FILE` stands for it."""
    train, set_to = [TRAIN, 'config.py', '--no-check'], '--cfg-options'
    pretrained = "{'type': 'Pretrained', 'checkpoint': 'FILE'}"
    kind = "'type': 'mmpoolformer.TimmClassifier', 'name': 'test_resnet'"
    teacher = "{'teacher': 'test_resnet', 'checkpoint': 'FILE'}"
    own = f"{{'type': 'mmpoolformer.PoolFormer', 'init_cfg': {pretrained}}}"
    detector = [TRAIN, 'detector.py', '--no-check', set_to]
    return {
        'load_from': [*train, set_to, 'load_from=FILE'],
        'load_from URL': [*train, set_to, 'load_from=file://FILE'],
        'load_from a table': [*train, set_to, 'load_from=open-mmlab://evil'],
        'resume': [*train, '--resume', 'FILE'],
        'resume by the config': [*train, set_to, 'load_from=FILE', 'resume=True'],
        'init_cfg': [*train, set_to, f'model.init_cfg={pretrained}'],
        'init_cfg of a backbone': [*detector, f'model.backbone={own}'],
        'init_cfg of a neck': [*detector, f'model.neck.init_cfg={pretrained}'],
        'init_cfg of a head': [*detector, f'model.bbox_head.init_cfg={pretrained}'],
        'checkpoint of timm': [*train, set_to, 'model.checkpoint=FILE'],
        'option of timm': [
            *train,
            set_to,
            "model.model_args={'checkpoint_path':'FILE'}",
        ],
        'teacher': [
            *(*train, set_to),
            f"model={{{kind}, 'num_classes': 2, 'distillation': {teacher}}}",
        ],
        'test': [TEST, 'config.py', 'FILE'],
        'test URL': [TEST, 'config.py', 'file://FILE'],
        'convert': [CONVERT, 'FILE', 'out.pth', '--to', 'timm'],
        'convert to Paddle': [CONVERT, 'FILE', 'out.pdparams', '--to', 'paddle'],
        'validate': [VALIDATE, 'data', '--model', NAME, '--checkpoint', 'FILE'],
        'validate own': [VALIDATE, 'data', '--model', OWN, '--checkpoint', 'FILE'],
        'predict': [PREDICT, 'a.png', '--model', NAME, '--checkpoint', 'FILE'],
        'predict own': [PREDICT, 'a.png', '--model', OWN, '--checkpoint', 'FILE'],
        'gradcam': [CAM, 'a.png', '--model', NAME, '--checkpoint', 'FILE'],
        'gradcam config': [CAM, 'a.png', '--config', 'detector.py', *WEIGHTS],
        'infer': [INFER, 'detector.py', 'FILE', 'a.png', '--out', 'out_found'],
        'infer own': [INFER, OWN, 'FILE', 'a.png', '--out', 'out_classes'],
        'infer timm': [INFER, NAME, 'FILE', 'a.png', '--out', 'out_timm'],
        'demo': [DEMO, 'detector.py:FILE'],
        'demo own': [DEMO, f'{OWN}:FILE'],
        'export': [EXPORT, OWN, *WEIGHTS, '--out', 'out.onnx'],
        'export config': [EXPORT, 'detector.py', *WEIGHTS, '--out', 'out.ts'],
    }


ENTRIES = entries()
FILES = (
    *('system.pth', 'bare.pth', 'legacy.pth', 'weights.pth', 'nested.pth'),
    *('optimizer.pth', 'hub.pth', 'ema.pth.tar', 'paddle.pdparams', 'second.pth'),
    'disguised.safetensors',
)
CASES = [
    *((entry, 'nested.pth') for entry in ENTRIES),
    *((entry, name) for name in FILES for entry in ('convert', 'predict')),
]


@pytest.fixture(scope='module')
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of crafted files, a picture, data and configs."""
    folder = tmp_path_factory.mktemp('strangers')
    for split in ('train', 'val'):
        write_classes(folder / 'data' / split, ('ant', 'bee'), count=2)
    Image.new('RGB', (40, 40)).save(folder / 'a.png')
    text = CONFIG.format(root=ROOT, data=folder / 'data')
    (folder / 'config.py').write_text(text)
    write_data(folder / 'scenes')
    write_detection_config(folder / 'detector.py', folder / 'scenes')
    assert set(crafted(folder)) == set(FILES)
    # A table of names such as mmengine reads.
    table = json.dumps({'evil': str(folder / 'nested.pth')})
    (folder / 'open_mmlab.json').write_text(table)
    return folder


@pytest.fixture(scope='module')
def outcomes(here: Path) -> dict[tuple, dict]:
    """What each tool did with each file."""
    jobs = [
        [str(word).replace('FILE', str(here / name)) for word in ENTRIES[entry]]
        for entry, name in CASES
    ]
    patch = pytest.MonkeyPatch()
    patch.setenv('MMENGINE_HOME', str(here))
    runs = run_many(jobs, here)
    patch.undo()
    return dict(zip(CASES, runs, strict=True))


@pytest.mark.parametrize(('entry', 'name'), CASES)
def test_a_crafted_file_is_refused_in_one_line(
    entry: str, name: str, here: Path, outcomes: dict
) -> None:
    outcome = outcomes[entry, name]
    assert outcome['code'] == 1, outcome['err'][-2000:]
    line = outcome['err'].splitlines()[-1]
    assert line.startswith('error: ')
    assert name in line
    assert len(line) < 700
    assert 'Traceback' not in outcome['err'] + outcome['out']
    assert not (here / f'{name}.ran').exists()


def test_nothing_was_made_of_them(here: Path, outcomes: dict) -> None:
    assert not [path.name for path in here.iterdir() if path.name.startswith('out')]
    assert not list(here.rglob('*.ran'))
    assert not list((here / 'work_dirs').rglob('*.pth'))


def test_each_file_would_have_run(here: Path, outcomes: dict) -> None:
    for name in FILES:
        path = here / name
        if name == 'second.pth':
            with zipfile.ZipFile(path) as archive:
                pickle.loads(archive.read('evil/data.pkl'))
        elif name in ('bare.pth', 'paddle.pdparams'):
            pickle.loads(path.read_bytes())
        else:
            torch.load(path, weights_only=False)
        assert (here / f'{name}.ran').is_dir(), name
