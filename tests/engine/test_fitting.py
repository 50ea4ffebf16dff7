"""A backbone whose feature maps do not fit what follows is told by its numbers."""

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.hooks import EMAHook
from mmengine.model import BaseModule
from mmengine.registry import DefaultScope
from torch import Tensor, nn

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from mmdet.registry import MODELS as DETECTORS
from mmdet.utils import register_all_modules as register_detectors
from mmseg.registry import MODELS as SEGMENTORS
from mmseg.utils import register_all_modules as register_segmentors

from mmpoolformer.engine.fitting import check_averages, check_fit, check_losses
from mmpoolformer.utils.errors import UserError
from mmpoolformer.utils.paths import config_path, list_configs

TINY = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))


@DETECTORS.register_module()
class Undeclared(BaseModule):
    """A backbone of somebody else's, which does not declare its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList(nn.Conv2d(3, 4 * 2**i, 1) for i in range(3))

    def forward(self, x: Tensor) -> list[Tensor]:
        assert not self.training and not torch.is_grad_enabled()
        return [step(x[..., :: 2**i, :: 2**i]) for i, step in enumerate(self.steps)]


def backbone(**options: object) -> dict:
    return dict(type='mmpoolformer.PoolFormer', arch=TINY, **options)


def detector(changes: dict) -> tuple[nn.Module, ConfigDict]:
    register_detectors(init_default_scope=False)
    config = Config.fromfile(
        config_path('detection/retinanet_poolformer_s12_fpn_1x_coco.py')
    )
    config.model.backbone = backbone()
    config.model.neck.in_channels = [8, 16, 24, 32]
    config.merge_from_dict({f'model.{key}': value for key, value in changes.items()})
    with DefaultScope.overwrite_default_scope('mmdet'):
        return DETECTORS.build(config.model), config.model


def segmentor(changes: dict) -> tuple[nn.Module, ConfigDict]:
    register_segmentors(init_default_scope=False)
    head = dict(
        type='FPNHead',
        in_channels=[16, 16, 16, 16],
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=16,
        num_classes=3,
        loss_decode=dict(type='CrossEntropyLoss'),
    )
    neck = dict(type='FPN', in_channels=[8, 16, 24, 32], out_channels=16, num_outs=4)
    model = dict(type='EncoderDecoder', backbone=backbone(), neck=neck)
    config = Config(
        dict(model=dict(model, decode_head=head, test_cfg=dict(mode='whole')))
    )
    config.merge_from_dict({f'model.{key}': value for key, value in changes.items()})
    with DefaultScope.overwrite_default_scope('mmseg'):
        return SEGMENTORS.build(config.model), config.model


FCN = dict(
    _delete_=True,
    type='FCNHead',
    in_channels=99,
    in_index=3,
    channels=8,
    num_classes=3,
    loss_decode=dict(type='CrossEntropyLoss'),
)
AUXILIARY = {'auxiliary_head': [{**FCN, 'in_index': 2}]}
AUXILIARY['auxiliary_head'][0].pop('_delete_')


@pytest.mark.slow
@pytest.mark.parametrize(
    ('build', 'changes', 'message'),
    [
        (
            detector,
            {'neck.in_channels': [256, 512, 1024, 2048]},
            r'out_channels=\[8, 16, 24, 32\]\), but model\.neck\.in_channels=\[256, '
            r'512, 1024, 2048\] .*set model\.neck\.in_channels=\[8,16,24,32\]',
        ),
        (
            detector,
            {'backbone.out_indices': (1, 2, 3)},
            r'set model\.neck\.in_channels=\[16,24,32\]',
        ),
        (detector, {'neck.num_outs': 4}, '4 maps.*for 5'),
        (detector, {'neck.out_channels': 64}, r'256 is for others.*neck\.out_channels'),
        (detector, {'neck': None}, r'give every map 256 channels by model\.neck,'),
        (
            detector,
            {'backbone': dict(_delete_=True, type='Undeclared')},
            r'set model\.neck\.in_channels=\[4,8,16\]',
        ),
        (
            segmentor,
            {'neck.in_channels': [64, 128, 320, 512]},
            r'set model\.neck\.in_channels=\[8,16,24,32\]',
        ),
        (
            segmentor,
            {'decode_head.in_channels': [8, 16, 16, 16]},
            r'set model\.decode_head\.in_channels=\[16,16,16,16\]',
        ),
        (
            segmentor,
            {'neck': None, 'decode_head': FCN},
            r'out_channels=.*set model\.decode_head\.in_channels=32',
        ),
        (
            segmentor,
            {'neck': None, 'decode_head': dict(FCN, in_channels=32), **AUXILIARY},
            r'set model\.auxiliary_head\.0\.in_channels=24',
        ),
        (
            segmentor,
            {'neck': None, 'decode_head': dict(FCN, in_index=4)},
            r'model\.decode_head\.in_index=4 .*below 4',
        ),
    ],
)
def test_a_misfit_names_the_channels_and_the_setting(build, changes, message) -> None:
    with pytest.raises(UserError, match=message):
        check_fit(*build(changes))


@pytest.mark.parametrize('build', [detector, segmentor])
def test_a_model_that_fits_is_left_as_it_is(build) -> None:
    model, config = build({})
    before = {name: one.clone() for name, one in model.state_dict().items()}
    model.train()
    model.backbone.eval()  # as one that is frozen
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    check_fit(model, config)
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


# One of each shape: RetinaNet, Mask R-CNN, Semantic FPN.
FAMILIES = {
    name.split('/')[1].split('_')[0]: name
    for name in list_configs()
    if name.endswith(('fpn_1x_coco.py', 'fpn_1x_ade20k.py', '40k.py')) and 's12' in name
}


@pytest.mark.parametrize('name', FAMILIES.values())
def test_our_own_configs_fit(name: str) -> None:
    config = Config.fromfile(config_path(name))
    registry = DETECTORS if config.default_scope == 'mmdet' else SEGMENTORS
    register_detectors(init_default_scope=False)
    register_segmentors(init_default_scope=False)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        check_fit(registry.build(config.model), config.model)


def head(**loss: object) -> dict:
    return dict(num_classes=3, loss_cls=dict(type='CrossEntropyLoss', **loss))


def decoder(loss: object, **options: object) -> dict:
    return dict(decode_head=dict(num_classes=3, loss_decode=loss, **options))


ENTROPY = dict(type='mmseg.CrossEntropyLoss')


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        (
            dict(roi_head=dict(bbox_head=[head(class_weight=[1, 1, 1])])),
            r'roi_head\.bbox_head\.0\.loss_cls\.class_weight has 3 .*give 4, the last',
        ),
        (dict(bbox_head=head(class_weight=[1, 1], use_sigmoid=True)), 'give 3$'),
        (
            dict(
                panoptic_head=dict(
                    num_things_classes=2,
                    num_stuff_classes=1,
                    loss_cls=dict(type='CrossEntropyLoss', class_weight=[1.0] * 81),
                )
            ),
            '81 values for 3 classes: give 4',
        ),
        (decoder(dict(ENTROPY, class_weight=(1, 1, 1, 1))), 'give 3$'),
        (
            decoder([dict(type='DiceLoss'), ENTROPY], out_channels=1),
            r'decode\.1\.use_s',
        ),
        (
            decoder(dict(ENTROPY, use_sigmoid=False), out_channels=1),
            r'set model\.decode_head\.loss_decode\.use_sigmoid=True',
        ),
    ],
)
def test_losses_of_other_numbers_of_classes(model: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_losses(model)


@pytest.mark.parametrize(
    'model',
    [
        dict(bbox_head=head(class_weight=[1, 1, 1, 0.1])),
        dict(bbox_head=head(class_weight=1.0)),
        decoder(dict(ENTROPY, class_weight=[1, 2, 3])),
        decoder(dict(ENTROPY, use_sigmoid=True), out_channels=1),
        decoder(dict(ENTROPY, class_weight='weights.npy')),
    ],
)
def test_losses_that_fit(model: dict) -> None:
    check_losses(model)


def test_an_average_without_its_scope_is_named_with_it() -> None:
    register_detectors(init_default_scope=False)
    register_segmentors(init_default_scope=False)
    hook = EMAHook(ema_type='ExpMomentumEMA')
    check_averages([hook, EMAHook()], 'mmdet')
    with pytest.raises(UserError, match=r'not known to mmseg.*mmdet\.ExpMomentumEMA'):
        check_averages([hook], 'mmseg')
    check_averages([EMAHook(ema_type='mmdet.ExpMomentumEMA')], 'mmseg')
