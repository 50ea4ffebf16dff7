"""The tools on classification: train, stop, resume, test, and pretrain a detector."""

import json
import multiprocessing
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tool_process import ROOT, finish, fork, free_port, run_many, start

pytestmark = pytest.mark.slow

EPOCHS, STEPS = 5, 6
STOPS = (4, 8, 15, 26)  # steps after which the run is killed: in epochs 1, 2, 3, 5

CONFIG = """
_base_ = '{root}/configs/classification/poolformer_s12_8xb128_in1k.py'
transform = dict(
    input_size=32,
    is_training=True,
    auto_augment='rand-m9-mstd0.5-inc1',
    re_prob=0.25,
    re_mode='pixel',
)
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpoolformer.MetaFormerClassifier',
        arch=dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), layer_scale_init=0.5),
        num_classes=3,
        drop_path_rate=0.3,
        drop_rate=0.2,
    )
)
train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    dataset=dict(root='{data}', transform=transform),
)
val_dataloader = dict(
    batch_size=5,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(root='{data}', transform=dict(input_size=32)),
)
test_dataloader = val_dataloader
optim_wrapper = dict(accumulative_counts=2)
param_scheduler = dict(t_initial=4, warmup_t=1)
train_cfg = dict(max_epochs={epochs})
custom_hooks = [
    dict(type='EMAHook', ema_type='ExponentialMovingAverage', momentum=0.1)
]
default_hooks = dict(logger=dict(interval=1))
"""


@pytest.fixture(scope='session')
def pictures(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A folder of three classes that differ in brightness, and a config for it."""
    folder = tmp_path_factory.mktemp('classification')
    generator = np.random.default_rng(0)
    # 26 pictures: an epoch's last, incomplete batch is left out.
    for split, counts in (('train', (9, 9, 8)), ('val', (4, 4, 3))):
        for label, count in enumerate(counts):
            place = folder / 'data' / split / f'class_{label}'
            place.mkdir(parents=True)
            for i in range(count):
                noise = generator.integers(0, 60, (40, 36, 3))
                pixels = (noise + 80 * label).astype(np.uint8)
                Image.fromarray(pixels).save(place / f'{i}.png')
    config = folder / 'config.py'
    text = CONFIG.format(root=ROOT, data=folder / 'data', epochs=EPOCHS)
    config.write_text(text)
    return SimpleNamespace(folder=folder, config=config, data=folder / 'data')


def steps_done(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.is_file() else 0


def training(pictures: SimpleNamespace, name: str, *options: str) -> list[object]:
    command = ['tools/train.py', pictures.config, '--work-dir', pictures.folder / name]
    return [*command, '--amp', *options, '--cfg-options', 'randomness.seed=11']


@pytest.fixture(scope='session')
def runs(pictures: SimpleNamespace, long_mode: bool) -> SimpleNamespace:
    """Work dirs of a run that never stopped and of one that was killed."""
    stopped = training(pictures, 'stopped', '--resume')
    log = pictures.folder / 'stopped' / 'train_log.jsonl'
    for stop in STOPS if long_mode else STOPS[1:2]:
        process = fork(stopped, pictures.folder)
        while steps_done(log) < stop:
            assert process.is_alive()
            time.sleep(0.02)
        process.kill()
        process.join()
    done = run_many([stopped, training(pictures, 'whole')], pictures.folder)
    assert [one['code'] for one in done] == [0, 0], done
    return SimpleNamespace(
        whole=pictures.folder / 'whole',
        stopped=pictures.folder / 'stopped',
        out=done[0]['out'],
    )


def test_readers_end_with_their_run(runs: SimpleNamespace) -> None:
    # Those of the last run; garbage collection would wait for them.
    assert multiprocessing.active_children() == []


def lines(work_dir: Path) -> list[dict]:
    text = (work_dir / 'train_log.jsonl').read_text()
    return [json.loads(line) for line in text.splitlines()]


def load(work_dir: Path) -> dict:
    return torch.load(work_dir / f'epoch_{EPOCHS}.pth', weights_only=False)


def test_a_killed_run_ends_like_one_that_was_not(
    runs: SimpleNamespace,
) -> None:
    whole, stopped = lines(runs.whole), lines(runs.stopped)
    assert [line['iter'] for line in whole] == list(range(1, EPOCHS * STEPS + 1))
    assert stopped == whole  # losses and rates, to the last bit
    one, other = load(runs.whole), load(runs.stopped)
    for part in ('state_dict', 'ema_state_dict'):
        assert one[part].keys() == other[part].keys()
        for key, tensor in one[part].items():
            assert torch.equal(tensor, other[part][key]), key
    assert str(one['param_schedulers']) == str(other['param_schedulers'])
    states = zip(
        one['optimizer']['state'].values(),
        other['optimizer']['state'].values(),
        strict=True,
    )
    for first, second in states:
        assert torch.equal(first['exp_avg_sq'], second['exp_avg_sq'])


def test_curves_are_drawn_through_all_resuming(runs: SimpleNamespace) -> None:
    for work_dir in (runs.whole, runs.stopped):
        with Image.open(work_dir / 'curves.png') as picture:
            assert picture.height > 0.8 * picture.width  # loss, accuracy, rate


def test_results_of_validations_have_no_gap(runs: SimpleNamespace) -> None:
    whole, stopped = (
        json.loads((work_dir / 'val_results.json').read_text())
        for work_dir in (runs.whole, runs.stopped)
    )
    assert [entry['epoch'] for entry in stopped] == list(range(1, EPOCHS + 1))
    for one, other in zip(whole, stopped, strict=True):
        for name in ('accuracy/top1', 'accuracy/top5'):
            assert one['metrics'][name] == other['metrics'][name]


def test_the_checkpoint_says_what_it_is(
    runs: SimpleNamespace, pictures: SimpleNamespace
) -> None:
    meta = load(runs.whole)['meta']
    assert meta['dataset_meta'] == {'classes': ('class_0', 'class_1', 'class_2')}
    assert meta['seed'] == 11
    assert 'drop_path_rate=0.3' in meta['cfg']
    assert list(runs.whole.glob('best_accuracy_top1_epoch_*.pth'))
    assert (runs.whole / 'last_checkpoint').read_text().endswith(f'_{EPOCHS}.pth')


def test_averaged_weights_start_a_detector(runs: SimpleNamespace) -> None:
    from mmpoolformer import PoolFormer

    arch = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))
    checkpoint = runs.whole / f'epoch_{EPOCHS}.pth'
    backbone = PoolFormer(
        arch, init_cfg=dict(type='Pretrained', checkpoint=str(checkpoint))
    )
    backbone.init_weights()
    averaged = load(runs.whole)['state_dict']
    plain = load(runs.whole)['ema_state_dict']
    name = 'stages.3.blocks.0.mlp.fc2.weight'
    found = backbone.state_dict()[name]
    assert torch.equal(found, averaged[f'backbone.{name}'])
    assert not torch.equal(found, plain[f'module.backbone.{name}'])


@pytest.fixture(scope='session')
def commands(
    pictures: SimpleNamespace, runs: SimpleNamespace
) -> dict[str, SimpleNamespace]:
    """What further command lines print, by name."""
    checkpoint = runs.whole / f'epoch_{EPOCHS}.pth'
    test = ['tools/test.py', pictures.config, checkpoint, '--work-dir']
    train = ['tools/train.py', pictures.config, '--work-dir']
    work = pictures.folder
    wrong = work / 'wrong'
    for name in ('empty', 'split', 'torn'):
        for split in ('train', 'val'):
            for label in range(3):
                place = wrong / name / split / f'class_{label}'
                place.mkdir(parents=True)
                for i in range(8):
                    Image.new('RGB', (33, 33)).save(place / f'{i}.png')
    for path in (wrong / 'empty/train/class_1').iterdir():
        path.unlink()
    (wrong / 'split' / 'val').rename(wrong / 'split' / 'rest')
    torn = wrong / 'torn/train/class_2/3.png'
    torn.write_bytes(torn.read_bytes()[:60])
    options = ['--cfg-options']
    data = 'train_dataloader.dataset.root'
    one_epoch = 'train_cfg.max_epochs=1'
    jobs = {
        'test': [*test, work / 't0', '--out', work / 'predictions.pkl'],
        'tta': [*test, work / 't1', '--show-dir', work / 'pictures'],
        'classes': [
            *train,
            work / 't2',
            *options,
            'model.backbone.num_classes=4',
        ],
        'batch': [
            *train,
            work / 't3',
            *options,
            'train_dataloader.batch_size=3',
        ],
        'empty': [*train, work / 't4', *options, f'{data}={wrong / "empty"}'],
        'split': [
            *train,
            work / 't5',
            *options,
            f'val_dataloader.dataset.root={wrong / "split"}',
        ],
        'torn': [*train, work / 't6', *options, f'{data}={wrong / "torn"}'],
        'skip': [
            *train,
            work / 't7',
            '--auto-scale-lr',
            *options,
            f'{data}={wrong / "torn"}',
            'train_dataloader.dataset.on_error=skip',
            one_epoch,
        ],
    }
    results = run_many(list(jobs.values()), work)
    return {
        name: SimpleNamespace(**result)
        for name, result in zip(jobs, results, strict=True)
    }


def test_test_prints_both_accuracies(
    commands: dict, runs: SimpleNamespace, pictures: SimpleNamespace
) -> None:
    assert commands['test'].code == 0, commands['test'].err
    assert 'accuracy/top1' in commands['test'].out
    found = json.loads((pictures.folder / 't0/results_epoch_5.json').read_text())
    trained = json.loads((runs.whole / 'val_results.json').read_text())[-1]['metrics']
    for name in ('accuracy/top1', 'accuracy/top5'):
        assert found['metrics'][name] == trained[name]
    rows = found['per_class']['pictures']
    assert [row['class'] for row in rows] == ['class_0', 'class_1', 'class_2']
    counts = [row['pictures'] for row in rows]
    right = sum(row['top1'] * row['pictures'] for row in rows) / sum(counts)
    assert right == pytest.approx(found['metrics']['accuracy/top1'])


@pytest.mark.parametrize(
    ('name', 'code', 'message'),
    [
        ('tta', 2, '--show-dir: draws detections and segmentations'),
        ('classes', 1, 'the model has 4 classes, the data 3'),
        ('batch', 1, 'a batch of 3, but Mixup and CutMix mix pairs'),
        ('empty', 1, 'no picture in class_1'),
        ('split', 1, "no folder for the split 'val'"),
        ('torn', 1, 'class_2/3.png: image file is truncated'),
    ],
)
def test_mistakes_are_one_line(
    commands: dict, name: str, code: int, message: str
) -> None:
    found = commands[name]
    errors = [line for line in found.err.splitlines() if line.startswith('error:')]
    assert found.code == code, found.err[-2000:]
    assert len(errors) == 1
    assert message in errors[0]
    assert 'Traceback' not in found.err


def test_unreadable_pictures_are_skipped_and_counted_when_asked(
    commands: dict,
) -> None:
    found = commands['skip']
    assert found.code == 0, found.err[-2000:]
    assert '1 unreadable picture was skipped' in found.out
    assert 'class_2/3.png' in found.out


@pytest.mark.long
def test_two_processes_train_as_one(pictures: SimpleNamespace) -> None:
    options = [
        '--cfg-options',
        'randomness.seed=5',
        'model.mixup=None',
        'model.backbone.drop_path_rate=0.0',
        'model.backbone.drop_rate=0.0',
        'optim_wrapper.accumulative_counts=1',
        "optim_wrapper.optimizer={'_delete_':True,'type':'sgd','lr':0.1}",
        'train_cfg.max_epochs=2',
        'param_scheduler.warmup_t=0',
    ]
    two = start(
        'tools/dist_train.sh',
        pictures.config,
        2,
        *('--work-dir', pictures.folder / 'two'),
        *options,
        'train_dataloader.batch_size=2',
        PORT=free_port(),
    )
    alone = ['tools/train.py', pictures.config, '--work-dir', pictures.folder / 'one']
    (one,) = run_many(
        [[*alone, *options, 'train_dataloader.batch_size=4']], pictures.folder
    )
    assert one['code'] == 0, one['err']
    finish(two)
    weights, expected = (
        torch.load(pictures.folder / name / 'epoch_2.pth', weights_only=False)
        for name in ('two', 'one')
    )
    for key, tensor in expected['state_dict'].items():
        torch.testing.assert_close(
            weights['state_dict'][key], tensor, rtol=1e-3, atol=1e-5
        )
    accuracies = [
        json.loads((pictures.folder / name / 'val_results.json').read_text())
        for name in ('one', 'two')
    ]
    for one_epoch, other in zip(*accuracies, strict=True):
        for name in ('accuracy/top1', 'accuracy/top5'):
            assert one_epoch['metrics'][name] == other['metrics'][name]
