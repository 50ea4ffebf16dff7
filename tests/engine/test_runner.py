import copy
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_training
import torch
from mmengine.config import ConfigDict
from mmengine.dataset import Compose
from mmengine.model import BaseModule
from mmengine.registry import MODELS, TRANSFORMS, DefaultScope
from PIL import Image
from tool_process import ROOT
from torch import nn

from mmpoolformer.checkpoints import filling
from mmpoolformer.checkpoints.filling import fill_model, fill_partly
from mmpoolformer.data.checks.built import (
    SAMPLES,
    check_dataset,
    explain_empty,
)
from mmpoolformer.engine.config import load_config
from mmpoolformer.engine.hooks.logs import DumpSegResults
from mmpoolformer.engine.mixed_precision import CpuAmpOptimWrapper
from mmpoolformer.engine.runner import ToolRunner
from mmpoolformer.engine.tta import use_tta
from mmpoolformer.utils.errors import UserError


class Net(BaseModule):
    """A convolution, a norm and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2)


def test_cpu_amp_computes_in_bfloat16_and_keeps_float32_weights() -> None:
    net = Net()
    wrapper = CpuAmpOptimWrapper(torch.optim.SGD(net.parameters(), lr=1.0))
    x = torch.ones(2, 3, 5, 5)
    with wrapper.optim_context(net):
        out = net.conv(x)
    assert out.dtype == torch.bfloat16
    assert net.conv(x).dtype == torch.float32
    before = net.conv.weight.detach().clone()
    wrapper.update_params(out.float().sum())
    # d(sum of out) / d(weight) is the sum of x over batch and places: 50.
    assert torch.allclose(before - net.conv.weight, torch.full_like(before, 50.0))


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_filling_a_model_copies_everything(prefix: str) -> None:
    source, target = Net(), Net()
    weights = {prefix + k: v for k, v in source.state_dict().items()}
    fill_model(target, {'state_dict': weights, 'meta': {}}, 'x.pth')
    for name, tensor in source.state_dict().items():
        assert torch.equal(tensor, target.state_dict()[name])


def test_filling_a_model_names_what_is_wrong() -> None:
    weights = Net().state_dict()
    fill_model(Net(), {'model': {**weights, 'head.bias': torch.ones(1)}}, 'x.pth')
    lacking = {k: v for k, v in weights.items() if k != 'fc.bias'}
    with pytest.raises(UserError, match=r"lacks 1 of the model's 9 tensors: fc\.bias"):
        fill_model(Net(), {'state_dict': lacking}, 'x.pth')
    reshaped = {**weights, 'fc.bias': torch.ones(3)}
    with pytest.raises(UserError, match=r'shape: fc\.bias \[3\], not \[2\]'):
        fill_model(Net(), reshaped, 'x.pth')


def test_unexpected_tensors_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(filling, 'warn', told.append)
    weights = {**Net().state_dict(), 'head.bias': torch.ones(1)}
    fill_model(Net(), weights, 'x.pth')
    assert told == ['x.pth: 1 tensors that the model has no place for: head.bias']


def test_a_count_of_batches_may_be_missing() -> None:
    weights = Net().state_dict()
    weights.pop('norm.num_batches_tracked')
    fill_model(Net(), weights, 'x.pth')


class Detector(BaseModule):
    """A backbone and a head."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.backbone = Net()
        self.head = nn.Linear(2, classes)


def test_a_head_of_another_class_count_is_new_and_told() -> None:
    source, target = Detector(5), Detector(2)
    kept = target.head.weight.detach().clone()
    weights = {**source.state_dict(), 'neck.bias': torch.ones(1)}
    report = fill_partly(target, {'state_dict': weights}, 'x.pth')
    assert torch.equal(target.backbone.fc.weight, source.backbone.fc.weight)
    assert torch.equal(target.head.weight, kept)
    assert (len(report.loaded), report.new, report.left) == (9, (), ('neck.bias',))
    shapes = ('head.weight [5, 2], not [2, 2]', 'head.bias [5], not [2]')
    assert report.reshaped == shapes
    assert '9 tensors from x.pth' in str(report) and '1 left (neck.bias)' in str(report)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda w: {f'teacher.{k}': w[k] for k in w}, 'no tensor fits the model:'),
        (
            lambda w: {k.replace('backbone.', 'encoder.'): w[k] for k in w},
            "no tensor fits the model's backbone",
        ),
        (
            lambda w: {k: w[k][None] if 'backbone' in k else w[k] for k in w},
            "no tensor fits the model's backbone",
        ),
        # A backbone's own file: its cure is init_cfg.
        (
            lambda w: {k[9:]: w[k] for k in w if k.startswith('backbone.')},
            r'fits the model: 0 tensors.*model\.backbone\.init_cfg',
        ),
    ],
)
def test_weights_that_leave_the_backbone_empty_are_refused(change, message) -> None:
    weights = change(Detector().state_dict())
    with pytest.raises(UserError, match=message):
        fill_partly(Detector(), weights, 'x.pth')


class Images:
    """A data set of paths."""

    ann_file = 'list.txt'

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def get_data_info(self, index: int) -> dict:
        return {'img_path': self.paths[index]}


def test_data_sets_without_files_are_refused(tmp_path) -> None:
    there = tmp_path / 'a.png'
    there.touch()
    check_dataset(Images([str(there)] * 3 + ['s3://bucket/b.png', 's3:/c.png']))
    with pytest.raises(UserError, match=r'Images list\.txt: no image to use'):
        check_dataset(Images([]))
    with pytest.raises(UserError, match=r'gone\.png is missing; check data_root'):
        check_dataset(Images([str(there), str(tmp_path / 'gone.png')]))


class Labelled(Images):
    """Pictures, and labels that are missing, with some transforms."""

    def __init__(self, path: str, *transforms: object) -> None:
        super().__init__([path])
        self.pipeline = SimpleNamespace(transforms=list(transforms))

    def get_data_info(self, index: int) -> dict:
        return {**super().get_data_info(index), 'seg_map_path': 'gone/labels.png'}


class Wrapped(Images):
    def __init__(self, dataset: Images) -> None:
        self.dataset, self.get_data_info = dataset, dataset.get_data_info

    def __len__(self) -> int:
        return len(self.dataset)


@pytest.mark.parametrize('wrap', [lambda dataset: dataset, Wrapped])
def test_labels_are_looked_for_if_a_transform_reads_them(tmp_path, wrap) -> None:
    there = tmp_path / 'a.png'
    there.touch()
    boxes = SimpleNamespace(with_bbox=True, with_mask=True, with_seg=False)
    labels = SimpleNamespace(with_seg=True)
    check_dataset(wrap(Labelled(str(there), boxes)))
    check_dataset(wrap(Labelled(str(there))))
    for transforms in ([boxes, labels], [SimpleNamespace(transforms=[labels])]):
        with pytest.raises(UserError, match=r'labels\.png is missing'):
            check_dataset(wrap(Labelled(str(there), *transforms)))
    with pytest.raises(UserError, match=r'gone\.png is missing'):
        check_dataset(wrap(Labelled('gone.png', boxes)))


@pytest.mark.parametrize(
    ('reader', 'is_read'),
    [
        (dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True), False),
        (dict(type='mmdet.LoadAnnotations', with_seg=True), True),
        (dict(type='mmseg.LoadAnnotations'), True),
        (dict(type='mmseg.LoadBiomedicalAnnotation'), True),
    ],
)
def test_labels_are_read_as_the_transforms_of_mmdet_and_mmseg_do(reader, is_read):
    scope = reader['type'].split('.')[0]
    pytest.importorskip(scope)
    import_module(f'{scope}.datasets')
    there = Labelled(__file__, TRANSFORMS.build(reader))
    if not is_read:
        check_dataset(there)
        return
    with pytest.raises(UserError, match=r'labels\.png is missing'):
        check_dataset(there)


def test_large_data_sets_are_sampled(tmp_path) -> None:
    there = tmp_path / 'a.png'
    there.touch()
    images = Images([str(there)] * (50 * SAMPLES))
    asked = []
    images.get_data_info = lambda i: asked.append(i) or {'img_path': str(there)}
    check_dataset(images)
    assert len(asked) == SAMPLES
    assert asked[0] == 0 and asked[-1] >= 49 * SAMPLES


def test_an_empty_data_set_is_explained_and_other_errors_pass() -> None:
    config = dict(type='RepeatDataset', dataset=dict(type='Coco', ann_file='a.json'))
    with (
        pytest.raises(UserError, match=r'Coco a\.json: no image to use'),
        explain_empty(config),
    ):
        raise ValueError('need at least one array to concatenate')
    several = dict(datasets=[config, dict(type='Voc')])
    with (
        pytest.raises(UserError, match=r'^Coco a\.json or Voc: no image'),
        explain_empty(several),
    ):
        raise ValueError('need at least one array to concatenate')
    with pytest.raises(ValueError, match='other'), explain_empty(config):
        raise ValueError('other')


@pytest.mark.parametrize(
    'wrapper',
    [
        lambda inner: dict(type='RepeatDataset', times=2, dataset=inner),
        lambda inner: dict(type='ConcatDataset', datasets=[inner, inner]),
        lambda inner: dict(
            type='ClassBalancedDataset', oversample_thr=0.1, dataset=inner
        ),
    ],
)
def test_wrappers_of_mmengine_around_other_data_are_refused(wrapper) -> None:
    data = wrapper(dict(type='Numbers'))
    loader = dict(dataset=data, batch_size=2, sampler=dict(type='DefaultSampler'))
    with pytest.raises(UserError, match=rf'^{data["type"]}: .*not for Numbers; '):
        ToolRunner.build_dataloader(loader)


def test_a_test_refuses_the_classes_of_the_weights_in_another_order(tmp_path) -> None:
    for name in ('ant', 'bee'):
        (tmp_path / 'data' / name).mkdir(parents=True)
        Image.new('RGB', (40, 40)).save(tmp_path / 'data' / name / '0.png')
    arch = dict(_delete_=True, depths=(1, 1, 1, 1), dims=(8, 8, 8, 8))
    dataset = dict(root=str(tmp_path / 'data'), split='', transform=dict(input_size=32))
    changes = dict(
        work_dir=str(tmp_path / 'work'),
        load_from=str(tmp_path / 'x.pth'),
        model=dict(backbone=dict(arch=arch, num_classes=2)),
        test_dataloader=dict(dataset=dataset, num_workers=0, persistent_workers=False),
    )
    config = load_config(ROOT / 'configs/classification/poolformer_s12_8xb128_in1k.py')
    config.merge_from_dict(changes)

    def tested(*classes: str) -> dict:
        runner = ToolRunner.from_cfg(copy.deepcopy(config))
        weights = runner.model.state_dict()
        meta = {'dataset_meta': {'classes': classes}}
        torch.save({'state_dict': weights, 'meta': meta}, config.load_from)
        runner.needs_all_weights = True
        runner.prepare_test()
        return runner.test()

    assert 'accuracy/top1' in tested('ant', 'bee')
    with pytest.raises(UserError, match=r'x\.pth: its classes .* bee, ant, but'):
        tested('bee', 'ant')


def test_dumped_label_maps_are_small(tmp_path) -> None:
    dump = DumpSegResults(str(tmp_path / 'x.pkl'))
    for highest, kind in ((149, torch.uint8), (300, torch.int32)):
        labels = torch.tensor([[[0, highest]]])
        sample = dict(
            img_path='a.png',
            ori_shape=(1, 2),
            seg_logits=dict(data=torch.zeros(150, 1, 2)),
            pred_sem_seg=dict(data=labels),
        )
        dump.process({}, [sample])
        kept = dump.results[-1]
        assert set(kept) == {'img_path', 'ori_shape', 'pred_sem_seg'}
        assert kept['pred_sem_seg']['data'].dtype == kind
        assert torch.equal(kept['pred_sem_seg']['data'].long(), labels)


def tta_config(**settings: object) -> ConfigDict:
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]
    inner = dict(type='Inner', pipeline=pipeline)
    return ConfigDict(
        default_scope='mmseg',
        model=dict(type='EncoderDecoder'),
        test_dataloader=dict(dataset=dict(type='Repeat', dataset=inner)),
        **settings,
    )


def test_default_augmentation_starts_with_the_image_as_it_is() -> None:
    config = tta_config()
    use_tta(config)
    assert config.model.type == 'mmseg.SegTTAModel'
    assert config.model.module.type == 'EncoderDecoder'
    load, views = config.test_dataloader.dataset.dataset.pipeline
    assert load.type == 'LoadImageFromFile'
    flips, (pack,) = views.transforms
    assert [flip.prob for flip in flips] == [0.0, 1.0]
    assert pack.type == 'mmseg.PackSegInputs'


def test_each_of_several_data_sets_is_augmented() -> None:
    config = tta_config()
    inner = config.test_dataloader.dataset
    other = dict(type='Other', pipeline=[dict(type='Mine'), dict(type='Pack')])
    config.test_dataloader.dataset = dict(type='Concat', datasets=[inner, other])
    use_tta(config)
    first, second = config.test_dataloader.dataset.datasets
    names = [[s.type for s in d.pipeline] for d in (first.dataset, second)]
    assert names == [['LoadImageFromFile', 'TestTimeAug'], ['Mine', 'TestTimeAug']]


def test_own_augmentation_counts() -> None:
    own = [dict(type='Own')]
    config = tta_config(tta_model=dict(type='Mine'), tta_pipeline=own)
    use_tta(config)
    assert config.model.type == 'Mine'
    assert config.test_dataloader.dataset.dataset.pipeline == own


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_augmentation_of_a_config_without_a_scope(scope: str, tmp_path: Path) -> None:
    kinds = {'mmdet': ('RetinaNet', 'PackDetInputs', 'DetTTAModel')}
    kinds['mmseg'] = ('EncoderDecoder', 'PackSegInputs', 'SegTTAModel')
    model, pack, augmented = kinds[scope]
    config = tta_config()
    config.default_scope = None
    config.model.type = f'{scope}.{model}'
    steps = [dict(type=f'{scope}.LoadImageFromFile'), dict(type=f'{scope}.{pack}')]
    config.test_dataloader.dataset.dataset.pipeline = steps
    use_tta(config)
    assert MODELS.get(config.model.type).__name__ == augmented
    Image.new('RGB', (9, 6)).save(tmp_path / 'a.png')
    with DefaultScope.overwrite_default_scope('mmengine'):
        run = Compose(config.test_dataloader.dataset.dataset.pipeline)
        views = run(dict(img_path=str(tmp_path / 'a.png'), img_id=0))
    assert [view.flip for view in views['data_samples']] == [False, True]
    config = tta_config()
    config.default_scope, config.model.type = None, 'Other'
    with pytest.raises(UserError, match='no default for mmengine'):
        use_tta(config)


def test_no_augmentation_for_other_tasks() -> None:
    config = tta_config()
    config.default_scope = 'mmother'
    with pytest.raises(UserError, match='no default for mmother'):
        use_tta(config)
    assert SimpleNamespace(**config).model.type == 'EncoderDecoder'


def test_a_config_without_a_scope_is_trained(tmp_path) -> None:
    config = tiny_training.settings(tmp_path, 2)
    config.default_scope = None
    assert tiny_training.train(config).iter == 2


def test_early_stopping_of_mmengine_ends_a_run(tmp_path: Path) -> None:
    config = tiny_training.settings(tmp_path)
    no_gain = dict(monitor='error', rule='less', patience=2, min_delta=1e9)
    config.default_hooks.stop = dict(type='EarlyStoppingHook', **no_gain)
    runner = tiny_training.train(config, resume=None)
    assert runner.iter == 3 * tiny_training.VALIDATION < tiny_training.STEPS
