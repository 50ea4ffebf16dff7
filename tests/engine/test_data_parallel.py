"""Two processes train backbones as one does, without `find_unused_parameters`."""

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS
from tiny_training import Layers, settings
from torch import Tensor, nn
from torch.testing import assert_close
from two_processes import in_two_processes

from mmpoolformer.engine.runner import ToolRunner
from mmpoolformer.models import MetaFormer

NARROW = dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32), image_size=64)
OPTIONS = {
    'everything': {},
    'frozen stages': dict(frozen_stages=2),
    'all frozen but norms': dict(frozen_stages=4),
    'first map alone': dict(out_indices=(0,)),
    'two maps and a frozen stem': dict(out_indices=(1, 2), frozen_stages=0),
    'recomputed': dict(with_cp=True),
    'recomputed, frozen': dict(out_indices=(0, 3), frozen_stages=1, with_cp=True),
}


class Detector(BaseModel):
    """A backbone with a layer on each map."""

    def __init__(self, backbone: MetaFormer) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleList(nn.Conv2d(c, 4, 1) for c in backbone.out_channels)

    def forward(self, inputs: Tensor, mode: str) -> dict:
        maps = zip(self.heads, self.backbone(inputs), strict=True)
        return {
            f'loss_{i}': head(m).square().mean() for i, (head, m) in enumerate(maps)
        }


def _as_one(arch: str, options: dict, rank: int) -> int:
    torch.manual_seed(0)
    row = dict(base=arch, layer_scale_init=0.5, head_dim=8, **NARROW)
    one = Detector(MetaFormer(row, **options)).train()
    before = copy.deepcopy(one.state_dict())
    two = copy.deepcopy(one)
    wrapped = MMDistributedDataParallel(two, broadcast_buffers=False)
    images = torch.randn(3, 4, 3, 64, 64)
    steps = [
        (model, OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)), share)
        for model, share in ((one, slice(4)), (wrapped, slice(rank, 4, 2)))
    ]
    # A second step fails if a parameter had no gradient in the first.
    for batch in images:
        for model, wrapper, share in steps:
            model.train_step({'inputs': batch[share]}, wrapper)
    assert_close(two.state_dict(), one.state_dict(), rtol=1e-4, atol=1e-5)
    moved = [
        name
        for name, old in before.items()
        if not torch.equal(old, one.state_dict()[name])
    ]
    assert any(name.startswith('heads') for name in moved)
    assert any(name.startswith('backbone.norm') for name in moved)
    return 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ('arch', 'options'),
    [
        *(('poolformer_s12', options) for options in OPTIONS),
        ('convformer_s18', 'everything'),
        ('caformer_s18', 'recomputed, frozen'),
        *(
            pytest.param(arch, options, marks=pytest.mark.long)
            for arch in ('convformer_s18', 'caformer_s18')
            for options in OPTIONS
        ),
    ],
)
def test_two_processes_train_as_one(arch: str, options: str, tmp_path: Path) -> None:
    work = partial(_as_one, arch, OPTIONS[options])
    assert in_two_processes(work, tmp_path / 'meet') == [0, 0]


@MODELS.register_module()
class JoinedLayers(Layers):
    """With SyncBN, whose numbers are those of a checkpoint from GPUs."""

    def __init__(self) -> None:
        super().__init__()
        self.net[1] = nn.SyncBatchNorm(150, eps=0.1, momentum=0.3)
        for number, tensor in enumerate(self.net[1].state_dict().values()):
            tensor.fill_(2 + number)


def _with_batch_norm(folder: Path, change: dict, rank: int) -> int:
    config = settings(folder)
    config.launcher = 'pytorch'
    config.merge_from_dict(change)
    joined = JoinedLayers()
    model = ToolRunner.from_cfg(config).model.module
    norm = model.net[1]
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    if 'model.type' in change:
        assert_close(norm.state_dict(), joined.net[1].state_dict())
        assert (norm.eps, norm.momentum) == (0.1, 0.3)
    with torch.no_grad():  # by the images of this process alone
        found = model.train().net[:2](torch.randn(8, 50) + 100 * rank)
    centred = (found - norm.bias).mean(0)
    assert_close(centred, torch.zeros(150), rtol=0, atol=1e-3)
    said = 'SyncBN needs GPUs: on CPUs it is BatchNorm'
    logs = ''.join(p.read_text() for p in folder.glob('*/*.log'))
    assert rank or logs.count(said) == 1
    return 0


@pytest.mark.parametrize(
    'change', [{'model.type': 'JoinedLayers'}, {'sync_bn': 'torch'}]
)
def test_sync_bn_is_batch_norm_on_cpus(change: dict, tmp_path: Path) -> None:
    work = partial(_with_batch_norm, tmp_path / 'run', change)
    assert in_two_processes(work, tmp_path / 'meet') == [0, 0]
