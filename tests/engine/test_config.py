import logging
from pathlib import Path

import pytest
from mmdet.models import RetinaNet
from mmengine.config import Config
from mmengine.config import config as config_module
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.logging import MMLogger, print_log
from mmseg.models import EncoderDecoder
from tiny_data import ROOT
from yapf.yapflib import yapf_api

from mmpoolformer.engine import config as settings
from mmpoolformer.engine import launch
from mmpoolformer.engine.config import (
    check_weights,
    formatted_once,
    load_config,
    merge_options,
    parse_value,
    task_scope,
    use_amp,
    use_auto_scale_lr,
    use_resume,
)
from mmpoolformer.models.from_config import build_from_config
from mmpoolformer.utils.errors import UsageError, UserError

RETINANET = ROOT / 'configs/detection/retinanet_poolformer_s12_fpn_1x_coco.py'


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('1', 1),
        ('1e-4', 1e-4),
        ('None', None),
        ('true', True),
        ('s24', 's24'),
        ('', ''),
        ('a,b', ['a', 'b']),
        ('[1,2]', [1, 2]),
        ('[(1,2),(3,4)]', [(1, 2), (3, 4)]),
        ('/data/my images/a', '/data/my images/a'),
        ("'a,b'", 'a,b'),
        ("{'type': 'SGD', 'lr': 0.1}", {'type': 'SGD', 'lr': 0.1}),
        ("[{'type': 'A', 'end': [1, 2]}]", [{'type': 'A', 'end': [1, 2]}]),
        ("[[{'type': 'A'}], ['b, c']]", [[{'type': 'A'}], ['b, c']]),
        ("({'type': 'A'},)", ({'type': 'A'},)),
        ('[a,b]', ['a', 'b']),
        ('[true,None]', [True, None]),
    ],
)
def test_values_of_options(text: str, value: object) -> None:
    assert parse_value(text) == value


def test_init_cfg_none_trains_from_scratch() -> None:
    given = load_config(RETINANET, ['model'])
    assert given.model.backbone.init_cfg.checkpoint == 'zoo://poolformer_s12'
    scratch = load_config(
        RETINANET, ['model'], overrides=['model.backbone.init_cfg=None']
    )
    assert scratch.model.backbone.init_cfg is None


def test_work_dir_is_the_option_or_the_config_or_its_name(tmp_path: Path) -> None:
    assert load_config(RETINANET, []).work_dir == (
        'work_dirs/retinanet_poolformer_s12_fpn_1x_coco'
    )
    own = tmp_path / 'own.py'
    own.write_text("work_dir = 'mine'")
    assert load_config(own, []).work_dir == 'mine'
    assert load_config(own, [], work_dir='given').work_dir == 'given'


def test_options_reach_lists_and_new_settings_of_the_runner() -> None:
    config = Config(dict(model=dict(a=1), param_scheduler=[dict(end=9)]))
    merge_options(
        config, ['param_scheduler.0.end=3', 'randomness.seed=7', 'sync_bn=torch']
    )
    assert config.param_scheduler[0].end == 3
    assert config.randomness.seed == 7
    assert config.sync_bn == 'torch'


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('model', 'write key=value'),
        ('=1', 'write key=value'),
        ('optim_wraper.lr=1', "no 'optim_wraper'; did you mean optim_wrapper"),
        ('model.a.b=1', 'model.a.b=1'),
        ("model.a={'x'", 'not a Python literal'),
        ("model.a=[{'x': 1}, {y}]", 'not a Python literal'),
    ],
)
def test_wrong_options(option: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        merge_options(Config(dict(model=dict(a=1))), [option])


def test_a_variable_of_the_file_is_changed_with_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = []
    monkeypatch.setattr(settings, 'warn', told.append)
    config = Config(dict(data_root='old', model={}))
    merge_options(config, ['data_root=new'])
    assert config.data_root == 'new'
    assert 'data_root is a variable of the config file' in told[0]


def test_variables_of_the_environment_are_read_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / 'config.py'
    path.write_text("root = '{{$ITS_ROOT:data}}'")
    monkeypatch.setenv('ITS_ROOT', 'elsewhere')
    said, handler = [], logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    monkeypatch.setattr(MMLogger.get_current_instance(), 'handlers', [handler])
    assert load_config(path).root == 'elsewhere'
    print_log('a note', logger='current')
    assert said == ['a note']  # what follows is heard again


def test_a_text_is_formatted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    formatted = []

    def format_code(text: str, **_: object) -> tuple[str, bool]:
        formatted.append(text)
        return f'{text}# done', True

    place = config_module if hasattr(config_module, 'FormatCode') else yapf_api
    monkeypatch.setattr(place, 'FormatCode', format_code)
    config = Config(dict(a=1))
    with formatted_once():
        texts = {config.pretty_text for _ in range(3)}
        config.a = 2
        other = config.pretty_text
    assert len(texts) == 1 and texts != {other}
    assert [text.strip() for text in formatted] == ['a=1', 'a=2']
    assert place.FormatCode is format_code


def test_resume_finds_the_latest_checkpoint_or_starts(tmp_path: Path) -> None:
    config = Config(dict(work_dir=str(tmp_path), load_from='pretrained.pth'))
    use_resume(config, 'auto')
    assert (config.resume, config.load_from) == (False, 'pretrained.pth')
    latest = tmp_path / 'epoch_3.pth'
    latest.touch()
    (tmp_path / 'last_checkpoint').write_text(str(latest))
    use_resume(config, 'auto')
    assert (config.resume, config.load_from) == (True, str(latest))


def test_resume_set_in_the_config_counts_too(tmp_path: Path) -> None:
    config = Config(dict(work_dir=str(tmp_path), resume=True))
    use_resume(config, None)
    assert config.resume is False
    latest = tmp_path / 'iter_3.pth'
    latest.touch()
    (tmp_path / 'last_checkpoint').write_text(str(latest))
    config.resume = True
    use_resume(config, None)
    assert (config.resume, config.load_from) == (True, str(latest))


def test_resume_of_a_deleted_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'gone.pth'))
    config = Config(dict(work_dir=str(tmp_path)))
    with pytest.raises(UserError, match=r'gone\.pth: no such file .*last_checkpoint'):
        use_resume(config, 'auto')


def test_missing_weights_are_found_anywhere_in_the_model(tmp_path: Path) -> None:
    there = tmp_path / 'there.pth'
    there.touch()
    parts = [
        dict(init_cfg=dict(type='Pretrained', checkpoint=str(there))),
        dict(init_cfg=dict(type='Pretrained', checkpoint='zoo://poolformer_s12')),
        dict(
            init_cfg=[dict(type='Constant'), dict(type='Pretrained', checkpoint='no')]
        ),
    ]
    check_weights(Config(dict(model=dict(parts=parts[:2]))))
    with pytest.raises(UserError, match=r'model\.parts\.2\.init_cfg\.1\.checkpoint=no'):
        check_weights(Config(dict(model=dict(parts=parts))))


def test_auto_scale_lr_needs_the_batch_that_the_rate_is_for() -> None:
    config = Config(dict(auto_scale_lr=dict(base_batch_size=16, enable=False)))
    use_auto_scale_lr(config)
    assert config.auto_scale_lr.enable is True
    with pytest.raises(UserError, match='base_batch_size'):
        use_auto_scale_lr(Config(dict()))


def test_amp_keeps_what_the_config_says() -> None:
    config = Config(dict(optim_wrapper=dict(loss_scale=512.0)))
    use_amp(config)
    assert config.optim_wrapper == dict(type='AmpOptimWrapper', loss_scale=512.0)
    with pytest.raises(UserError, match='ApexOptimWrapper'):
        use_amp(Config(dict(optim_wrapper=dict(type='ApexOptimWrapper'))))


class OwnDetector(RetinaNet):
    """Stands for a detector in a file of the user's."""


@pytest.mark.parametrize(
    ('scope', 'kind', 'expected'),
    [
        ('mmseg', 'mmdet.RetinaNet', 'mmseg'),
        ('mmengine', 'mmpoolformer.ImageClassifier', 'mmengine'),
        (None, 'RetinaNet', 'mmengine'),
        (None, 'mmdetached.RetinaNet', 'mmengine'),
        (None, 'mmdet.RetinaNet', 'mmdet'),
        ('mmengine', 'mmseg.EncoderDecoder', 'mmseg'),
        (None, OwnDetector, 'mmdet'),
        (None, EncoderDecoder, 'mmseg'),
    ],
)
def test_the_task_is_that_of_the_scope_or_else_of_the_model(
    scope: str | None, kind: str | type, expected: str
) -> None:
    config = Config(dict(default_scope=scope, model=dict(type=kind)))
    assert task_scope(config) == expected
    job = launch.Testing(
        config='c.py', checkpoint='c.pth', show_dir='pictures', out='x.txt'
    )
    message = 'must end on' if expected in ('mmdet', 'mmseg') else 'draws detections'
    with pytest.raises(UsageError, match=message):
        launch._check_outputs(job, task_scope(config))


def test_the_task_of_a_config_without_model_or_scope_is_mmengines() -> None:
    assert task_scope(Config({})) == 'mmengine'


def test_a_list_of_dicts_becomes_settings() -> None:
    config = Config(dict(param_scheduler=dict(type='PolyLR', end=9)))
    merge_options(config, ["param_scheduler=[{'type': 'LinearLR', 'end': 3}]"])
    (schedule,) = config.param_scheduler
    assert (schedule.type, schedule.end) == ('LinearLR', 3)


@pytest.mark.parametrize('place', ['dataset', 'dataset=dict(dataset'])
def test_class_names_that_are_one_text_are_refused(tmp_path: Path, place: str) -> None:
    file = tmp_path / 'own.py'
    end = ')' * place.count('(')

    def write(classes: str) -> None:
        own = f'dict(metainfo=dict(classes={classes}))'
        file.write_text(f'train_dataloader = dict({place}={own}{end})')

    write("('box')")
    with pytest.raises(UserError, match=r"metainfo\.classes='box'.*classes=\('box',\)"):
        load_config(file)
    write("('box',)")
    load_config(file)
    (tmp_path / 'names.txt').write_text('box\n')
    write(repr(str(tmp_path / 'names.txt')))  # which mmengine reads
    load_config(file)


def test_class_names_under_the_old_key_are_refused(tmp_path: Path) -> None:
    path = tmp_path / 'a.py'
    path.write_text("data = dict(metainfo=dict(CLASSES=('box', 'disc')))")
    with pytest.raises(UserError, match=r'data\.metainfo\.CLASSES is not read: write'):
        load_config(path)


@pytest.mark.parametrize(
    ('base', 'model', 'scope'),
    [
        # Its own base is mmdet's.
        ('mmpoolformer::detection/retinanet_poolformer_s12_fpn_1x_coco', 'R', 'mmdet'),
        ('mmpoolformer::segmentation/fpn_poolformer_s12_ade20k_40k.py', 'E', None),
        ('mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py', 'E', 'mmseg'),
        ('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', 'R', 'mmdet'),
    ],
)
def test_bases_by_the_name_of_a_package(
    tmp_path: Path, base: str, model: str, scope: str | None
) -> None:
    names = {'R': 'RetinaNet', 'E': 'EncoderDecoder'}
    pytest.importorskip('mmdet' if model == 'R' else 'mmseg')
    before, find = dict(MODULE2PACKAGE), Config._get_cfg_path
    file = tmp_path / 'own.py'
    file.write_text(f'_base_ = {base!r}\nmodel = dict(backbone=dict(init_cfg=None))')
    config = load_config(file, ['model'])
    assert config.model.type == names[model]
    assert config.model.get('_scope_') == scope
    assert config.model.backbone.init_cfg is None
    assert (before, find) == (MODULE2PACKAGE, Config._get_cfg_path)


def test_a_base_that_is_not_ours_is_told_with_near_ones(tmp_path: Path) -> None:
    file = tmp_path / 'own.py'
    file.write_text("_base_ = 'mmpoolformer::detection/retinanet_poolformer_s13.py'")
    with pytest.raises(UserError, match=r"no config 'detection/.*retinanet_poolform"):
        load_config(file)


def test_a_config_without_a_scope_is_loaded_and_built(tmp_path: Path) -> None:
    own = tmp_path / 'own.py'
    own.write_text(
        "custom_imports = dict(imports=['mmpoolformer'])\n"
        "default_scope = None\nmodel = dict(type='mmpoolformer.PoolFormer')\n"
    )
    model = build_from_config(load_config(own, ['model']))
    assert type(model).__name__ == 'PoolFormer'


def test_a_segmentor_is_built_without_warnings(
    recwarn: pytest.WarningsRecorder,
) -> None:
    file = Path(__file__).parents[2] / 'configs/segmentation/demo_fpn_poolformer_s12.py'
    build_from_config(load_config(file, ['model']))
    assert [str(one.message) for one in recwarn] == []
