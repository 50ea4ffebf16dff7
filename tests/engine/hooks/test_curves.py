import importlib
import json
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.registry import VISBACKENDS
from PIL import Image
from tiny_training import settings

from mmpoolformer.engine.console import QuietRunner
from mmpoolformer.engine.hooks import curves as plots
from mmpoolformer.engine.hooks.curves import DrawCurves, use_tensorboard, use_trackers
from mmpoolformer.utils.errors import UserError

LOCAL, BOARD = dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')


def write_run(folder, steps=60):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        dict(epoch=1, iter=i, lr=1e-3 * (1 - i / steps), loss=2 / i, loss_cls=1 / i)
        for i in range(1, steps + 1)
    ]
    (folder / 'train_log.jsonl').write_text('\n'.join(map(json.dumps, lines)) + '\n')
    metrics = {'coco/bbox_mAP': 0.2, 'coco/bbox_mAP_s': 0.1}
    entry = dict(epoch=1, iter=steps, metrics=metrics)
    (folder / 'val_results.json').write_text(json.dumps([entry]))
    return folder


def test_a_picture_is_drawn_at_the_end(tmp_path):
    hook = DrawCurves(write_run(tmp_path / 'run'))
    hook.after_train(None)
    picture = Image.open(tmp_path / 'run' / 'curves.png')
    assert (picture.width, picture.height) == (1020, 873)  # three panels
    assert not list(tmp_path.rglob('*.part'))


def test_drawing_takes_no_more_than_its_share(tmp_path, monkeypatch):
    drawn, now = [], [100.0]

    def draw(*args):
        drawn.append(now[0])
        now[0] += 0.5

    monkeypatch.setattr(plots, 'draw_training', draw)
    monkeypatch.setattr(plots, 'save_figure', lambda *args: None)
    monkeypatch.setattr(plots.time, 'monotonic', lambda: now[0])
    hook = DrawCurves(write_run(tmp_path))
    for _ in range(1000):  # epochs of a tenth of a second
        now[0] += 0.1
        hook.after_train_epoch(None)
        hook.after_val_epoch(None, {})
    assert len(drawn) >= 2
    assert 0.5 * len(drawn) <= 0.03 * (now[0] - 100)
    hook.after_train(None)
    assert drawn[-1] == pytest.approx(now[0] - 0.5)


def test_what_can_not_be_drawn_is_a_warning(tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr(plots, 'warn', warnings.append)
    folder = write_run(tmp_path / 'run')
    (folder / 'curves.png.part').mkdir()  # so the picture can't be written
    DrawCurves(folder).after_train(None)
    (folder / 'train_log.jsonl').write_text('no JSON\n{}\n')
    DrawCurves(folder).after_train(None)
    DrawCurves(tmp_path / 'missing').after_train(None)
    assert len(warnings) == 3
    assert 'not a line of JSON' in warnings[1]
    assert not (folder / 'curves.png').exists()


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        ({}, dict(type='Visualizer', vis_backends=[LOCAL, BOARD])),
        (
            dict(type='DetLocalVisualizer', name='v', vis_backends=[LOCAL]),
            dict(type='DetLocalVisualizer', name='v', vis_backends=[LOCAL, BOARD]),
        ),
        *(
            (dict(type='V', vis_backends=own), dict(type='V', vis_backends=own))
            for own in (
                [LOCAL, dict(type='WandbVisBackend')],
                [dict(type='LocalVisBackend', scalar_save_file='a.json')],
                [BOARD],
                [],
            )
        ),
    ],
)
def test_tensorboard_joins_mmengines_own_files_only(given, expected):
    pytest.importorskip('tensorboard')
    config = Config(dict(visualizer=given) if given else {})
    use_tensorboard(config)
    assert config.visualizer.to_dict() == expected


def test_without_tensorboard_nothing_changes(monkeypatch):
    monkeypatch.setattr(plots, 'find_spec', {'tensorboard': None}.get)
    config = Config(dict(a=1))
    use_tensorboard(config)
    assert 'visualizer' not in config


@pytest.mark.parametrize('name', plots.TRACKERS)
def test_trackers_join_what_the_config_has(name, monkeypatch):
    monkeypatch.setattr(plots, 'find_spec', lambda _: True)
    mlflow = SimpleNamespace(get_tracking_uri=lambda: 'sqlite:///its.db')
    monkeypatch.setitem(sys.modules, 'mlflow', mlflow)
    own = dict(type='LocalVisBackend', scalar_save_file='a.json')
    config = Config(dict(visualizer=dict(type='V', vis_backends=[own])))
    use_trackers(config, [name])
    use_trackers(config, [name])  # once is enough
    kind = config.visualizer.vis_backends[1]['type']
    place = {'tracking_uri': 'sqlite:///its.db'} if name == 'mlflow' else {}
    assert config.visualizer.vis_backends == [own, dict(type=kind, **place)]
    assert kind.lower() == f'{name}visbackend'
    assert VISBACKENDS.get(kind).__module__ == 'mmengine.visualization.vis_backend'


@pytest.mark.parametrize('name', ['wandb', 'mlflow'])
def test_missing_tracker_is_named_with_its_cure(name):
    if find_spec(name):
        pytest.skip(f'{name} is installed')
    with pytest.raises(UserError, match=f'{name} is not installed: .* install {name}$'):
        use_trackers(Config(), [name])


@pytest.mark.parametrize('name', ['wandb', 'mlflow'])
def test_trackers_get_the_losses_without_a_network(name, tmp_path, monkeypatch):
    pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('WANDB_MODE', 'offline')
    monkeypatch.setenv('MLFLOW_TRACKING_URI', f'sqlite:///{tmp_path}/runs.db')
    config = settings(tmp_path / 'work', steps=3)
    use_trackers(config, [name])
    runner = QuietRunner.from_cfg(config)
    runner.train()
    if name == 'mlflow':
        [run] = importlib.import_module(name).search_runs(output_format='list')
        assert run.data.metrics['loss'] > 0
    else:
        [file] = (tmp_path / 'work').rglob('run-*.wandb')
        assert b'loss' in file.read_bytes()
