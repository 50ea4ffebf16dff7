"""timm's optimizers and its rules for weight decay and layer-wise learning rates."""

from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from timm.optim import create_optimizer_v2
from torch import nn

from mmpoolformer.registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class TimmOptimizer:
    """Build optimizer and wrapper by `timm.optim.create_optimizer_v2`.

    In a config: `optim_wrapper=dict(constructor='mmpoolformer.TimmOptimizer',
    optimizer=dict(type='lamb', lr=8e-3, weight_decay=0.05))`. Weight decay leaves out
    biases, norms and scales (all parameters of one dimension) and what the model's
    `no_weight_decay()` names.

    Args:
        optim_wrapper_cfg: Settings of the wrapper; `optimizer` has timm's name as
            `type`, in any case of letters, and timm's options.
        paramwise_cfg: `layer_decay` (0 to 1): the learning rate of a layer is that of
            the next one times this.

    Raises:
        ValueError: If an option is unknown.
    """

    def __init__(
        self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None
    ) -> None:
        self.wrapper = {'type': 'OptimWrapper', **optim_wrapper_cfg}
        self.optimizer = dict(self.wrapper.pop('optimizer'))
        self.name = str(self.optimizer.pop('type')).lower()
        self.rules = dict(paramwise_cfg or {})
        unknown = sorted(set(self.rules) - {'layer_decay'})
        if unknown:
            raise ValueError(
                f'paramwise_cfg has {", ".join(unknown)}: TimmOptimizer knows '
                'layer_decay only'
            )

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the wrapper for a model's parameters."""
        if is_model_wrapper(model):
            model = model.module
        # timm's rules ask the network itself, not the model around it.
        network = getattr(model, 'backbone', model)
        outside = [
            name
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and not name.startswith('backbone.')
        ]
        if network is not model and outside:
            raise ValueError(f'parameters outside of the backbone: {outside[:4]}')
        optimizer = create_optimizer_v2(
            network, opt=self.name, **self.rules, **self.optimizer
        )
        return OPTIM_WRAPPERS.build(self.wrapper, default_args={'optimizer': optimizer})
