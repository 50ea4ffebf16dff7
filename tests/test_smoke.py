"""What must hold on every stack of OpenMMLab packages, also the originals."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from random_models import Models

pytestmark = pytest.mark.smoke


@pytest.mark.parametrize('kind', ['detection', 'segmentation'])
def test_a_model_loads_a_file_and_trains_two_iterations(
    kind: str, models: Models, tmp_path: Path
) -> None:
    config = Config.fromfile(models.config(kind))
    for part in ('val', 'test'):
        for key in ('cfg', 'dataloader', 'evaluator'):
            config[f'{part}_{key}'] = None
    config.train_cfg = dict(type='IterBasedTrainLoop', max_iters=2)
    config.param_scheduler = None
    config.work_dir = str(tmp_path)
    config.load_from = str(models.checkpoint(kind))
    config.experiment_name = f'smoke_{kind}'
    runner = Runner.from_cfg(config)
    saved = torch.load(config.load_from, map_location='cpu')['state_dict']
    runner.load_or_resume()
    for name, tensor in runner.model.state_dict().items():
        assert torch.equal(tensor, saved[name]), name
    runner.train()
    assert runner.iter == 2
    trained = dict(runner.model.backbone.named_parameters())
    assert all(torch.isfinite(tensor).all() for tensor in trained.values())
    assert any(
        not torch.equal(tensor, saved[f'backbone.{name}'])
        for name, tensor in trained.items()
    )
