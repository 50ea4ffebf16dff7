"""Training in bfloat16 on a CPU, where mmcv's NMS and RoIAlign take float32 alone."""

from contextlib import nullcontext
from copy import deepcopy

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.structures import InstanceData
from tiny_data import write_data, write_detection_config
from torch import nn

from mmpoolformer.engine.mixed_precision import (
    CpuAmpOptimWrapper,
    prepare_for_bfloat16,
)

pytestmark = pytest.mark.slow
PARTS = ('neck', 'rpn_head.rpn_conv', 'roi_head.bbox_head.fc_cls')


@pytest.fixture(scope='module')
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp('amp')
    write_data(folder / 'data')
    write_detection_config(folder / 'masks.py', folder / 'data', masks=True)
    config = Config.fromfile(folder / 'masks.py')
    config.model.backbone.init_cfg = None
    return config


def step(config: Config, amp: bool) -> tuple[dict, nn.Module, dict]:
    """Return the losses of four pictures, the model, and types of what parts find."""
    torch.manual_seed(0)
    types = {}
    with DefaultScope.overwrite_default_scope(config.default_scope):
        model = MODELS.build(config.model).train()
        data = DATASETS.build(config.train_dataloader.dataset)
        batch = pseudo_collate([data[i] for i in range(4)])
        batch = model.data_preprocessor(batch, training=True)
        for name in PARTS:
            model.get_submodule(name).register_forward_hook(
                lambda _, __, found, name=name: types.update({name: dtype_of(found)})
            )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        wrapper = CpuAmpOptimWrapper(optimizer)
        if amp:
            prepare_for_bfloat16(model)
        torch.manual_seed(1)  # the same proposals are drawn
        with wrapper.optim_context(model) if amp else nullcontext():
            total, values = model.parse_losses(model(**batch, mode='loss'))
    wrapper.update_params(total)
    return values, model, types


def dtype_of(found: torch.Tensor | tuple) -> torch.dtype:
    return found.dtype if isinstance(found, torch.Tensor) else found[0].dtype


def test_mask_rcnn_has_near_the_losses_of_float32(config: Config) -> None:
    low, model, types = step(config, amp=True)
    full, other, _ = step(config, amp=False)
    assert types == dict.fromkeys(PARTS, torch.bfloat16)
    assert {name for name in low if name.startswith('loss')} >= {
        *('loss_rpn_cls', 'loss_rpn_bbox', 'loss_cls', 'loss_bbox', 'loss_mask')
    }
    for name in ('loss_rpn_cls', 'loss_rpn_bbox', 'loss_cls', 'loss_mask'):
        assert low[name].item() == pytest.approx(full[name].item(), rel=0.03)
    # Of what was drawn for it, a proposal or two may be another.
    assert low['loss_bbox'].item() == pytest.approx(full['loss_bbox'].item(), abs=0.05)
    pairs = zip(model.named_parameters(), other.parameters(), strict=True)
    for (name, ours), theirs in pairs:
        assert ours.dtype == torch.float32 and ours.isfinite().all(), name
        assert (ours.grad is None) == (theirs.grad is None), name


def test_a_prepared_model_and_its_copy_predict_as_before(config: Config) -> None:
    """Evaluation is in float32, and mmengine's average of weights is a copy."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        model = MODELS.build(config.model).eval()
        batch = pseudo_collate([DATASETS.build(config.val_dataloader.dataset)[0]])
    with torch.no_grad():
        expected = found_by(model, batch)
        prepare_for_bfloat16(model)
        assert not model.neck.fpn_convs[0].conv.weight.is_contiguous()
        copy = deepcopy(model)
        for parameter in model.parameters():
            parameter.zero_()
        found = found_by(copy, batch)
    assert len(found.scores) > 5
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.bboxes, expected.bboxes, rtol=1e-3, atol=1e-2)


def found_by(model: nn.Module, batch: dict) -> InstanceData:
    return model.test_step(deepcopy(batch))[0].pred_instances
