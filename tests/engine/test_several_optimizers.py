"""Trainings with an optimizer for each part of the model."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapperDict, build_optim_wrapper
from mmengine.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from tiny_training import Layers, settings, train
from torch import Tensor, nn

from mmpoolformer.engine.config import use_amp
from mmpoolformer.utils.errors import UserError

RATES = {'first': 1e-2, 'last': 3e-3}


@MODELS.register_module()
class TwoParts(Layers):
    def train_step(self, data: dict, optim_wrapper: OptimWrapperDict) -> dict:
        losses = self(**self.data_preprocessor(data, True), mode='loss')
        optim_wrapper['first'].zero_grad()
        optim_wrapper['last'].zero_grad()
        losses['loss'].backward()
        optim_wrapper['first'].step()
        optim_wrapper['last'].step()
        return {'loss': losses['loss'].detach()}


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class OneEach:
    """Builds an optimizer for the first layers and one for the last."""

    def __init__(
        self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None
    ) -> None:
        self.wrapper = optim_wrapper_cfg

    def __call__(self, model: nn.Module) -> OptimWrapperDict:
        parts = {'first': model.net[:-1], 'last': model.net[-1]}
        return OptimWrapperDict(
            **{
                name: build_optim_wrapper(part, self.wrapper[name])
                for name, part in parts.items()
            }
        )


def two_optimizers(folder: Path, steps: int, **wrapper: object) -> Config:
    config = settings(folder, steps)
    config.model.type = 'TwoParts'
    each = {
        name: dict(optimizer=dict(type='AdamW', lr=rate), **wrapper)
        for name, rate in RATES.items()
    }
    config.optim_wrapper = dict(constructor='OneEach', **each)
    config.param_scheduler = []
    return config


def lines(folder: Path) -> list[dict]:
    text = (folder / 'train_log.jsonl').read_text()
    return [json.loads(line) for line in text.splitlines()]


def weights(runner: object) -> dict[str, Tensor]:
    return runner.model.state_dict()


def test_a_training_logs_both_rates_and_resumes_as_if_never_stopped(
    tmp_path: Path,
) -> None:
    whole = train(two_optimizers(tmp_path / 'whole', 8))
    train(two_optimizers(tmp_path / 'parts', 4))
    resumed = train(two_optimizers(tmp_path / 'parts', 8))
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(resumed)[name]), name
    assert lines(tmp_path / 'parts') == lines(tmp_path / 'whole')
    rates = {'first.lr': 1e-2, 'last.lr': 3e-3}
    assert len(lines(tmp_path / 'whole')) == 8
    assert all(line.items() >= rates.items() for line in lines(tmp_path / 'whole'))


def test_a_batch_that_is_not_finite_is_told(tmp_path: Path) -> None:
    config = two_optimizers(tmp_path, 4)
    config.train_dataloader.dataset.bad = tuple(range(24))
    with pytest.raises(UserError, match='iteration 1: the loss is nan'):
        train(config)
    dump = json.loads((tmp_path / 'nonfinite/iter_1_rank0.json').read_text())
    assert (dump['first.lr'], dump['last.lr']) == (1e-2, 3e-3)


def test_accumulated_gradients_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='first: accumulative_counts=2 is only for one'):
        train(two_optimizers(tmp_path, 4, accumulative_counts=2))


def test_mixed_precision_by_an_option_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='--amp: only for one optimizer'):
        use_amp(two_optimizers(tmp_path, 4))
