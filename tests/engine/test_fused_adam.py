import pytest
import torch
from mmengine.optim import build_optim_wrapper

from mmpoolformer.engine import optimizers
from mmpoolformer.engine.optimizers import keep_layouts, with_fused_adam


def config(**optimizer: object) -> dict:
    return {'type': 'OptimWrapper', 'optimizer': optimizer}


def trained(wrapper: dict) -> tuple[torch.nn.Module, dict]:
    """Take five steps on fixed data; return the model and the optimizer's settings."""
    torch.manual_seed(0)
    model = torch.nn.Linear(7, 3)
    optim = build_optim_wrapper(model, wrapper)
    images, wanted = torch.randn(5, 4, 7), torch.randn(5, 4, 3)
    for x, y in zip(images, wanted, strict=True):
        optim.update_params((model(x) - y).square().sum())
    return model, optim.optimizer.defaults


@pytest.mark.parametrize('name', ['Adam', 'AdamW'])
def test_steps_are_those_of_the_plain_optimizer(name: str) -> None:
    wrapper = config(type=name, lr=0.01, weight_decay=0.05)
    plain, settings = trained(wrapper)
    assert not settings['fused']
    fused, settings = trained(with_fused_adam(wrapper))
    assert settings['fused']
    assert 'fused' not in wrapper['optimizer']
    torch.testing.assert_close(fused.weight, plain.weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    'optimizer',
    [
        dict(type='SGD', lr=0.01),
        dict(type='AdamW', lr=0.01, foreach=True),
        dict(type='AdamW', lr=0.01, fused=False),
    ],
)
def test_other_optimizers_and_own_choices_stay(optimizer: dict) -> None:
    wrapper = config(**optimizer)
    assert with_fused_adam(wrapper) is wrapper


def test_older_torch_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, 'FUSED_ADAM_SINCE', '99.0')
    wrapper = config(type='AdamW', lr=0.01)
    assert with_fused_adam(wrapper) is wrapper


@pytest.mark.parametrize('saved', [torch.contiguous_format, torch.channels_last])
def test_what_is_resumed_takes_the_layout_of_the_weights(
    saved: torch.memory_format,
) -> None:
    """torch walks through both by memory: other strides are other numbers."""
    results = []
    for fused in (True, False):
        torch.manual_seed(0)
        model = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        wrapper = config(type='AdamW', lr=0.1, fused=fused)
        optim = build_optim_wrapper(model, wrapper)
        keep_layouts(optim)
        x = torch.randn(4, 3, 8, 8)
        optim.update_params(model(x).square().sum())
        state = optim.state_dict()
        for known in state['state'].values():
            for name, value in known.items():
                if value.dim() == 4:
                    known[name] = value.contiguous(memory_format=saved)
        optim.load_state_dict(state)
        optim.update_params(model(x).sin().sum())
        results.append(model.weight.detach())
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)
