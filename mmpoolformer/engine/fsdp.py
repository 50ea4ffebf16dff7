"""Training whose parameters are sharded over the processes: FSDP.

torch's `fully_shard` (FSDP2) keeps a shard of each parameter, its gradient and what the
optimizer keeps for it in each process, and gathers a block's parameters while it runs.
Checkpoints are those of any other training: whole, in one file, and read by any number
of processes.
"""

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from mmengine.utils import apply_to
from torch import Tensor, nn
from torch.distributed import fsdp
from torch.optim import Optimizer

from mmpoolformer.engine.distributed import on_cpu
from mmpoolformer.engine.optimizers import by_name
from mmpoolformer.models.block import MetaFormerBlock
from mmpoolformer.utils.errors import UserError

# What a config may say in `strategy`, by our names and mmengine's.
STRATEGIES = {
    None: 'ddp',
    'ddp': 'ddp',
    'DDPStrategy': 'ddp',
    'fsdp': 'fsdp',
    'FSDPStrategy': 'fsdp',
}


def strategy_of(config: Config) -> str:
    """Return by our name what several processes do by a config.

    Args:
        config: The config; its `strategy` is a name, or a dict with `type`.

    Raises:
        UserError: If the strategy is unknown, or has options where there are none.
    """
    asked = config.get('strategy')
    name = (
        asked['type'] if isinstance(asked, dict) and set(asked) == {'type'} else asked
    )
    if not isinstance(name, str | None) or name not in STRATEGIES:
        raise UserError(f"strategy={asked!r}: choose 'ddp' or 'fsdp', without options")
    return STRATEGIES[name]


def shards(config: Config) -> bool:
    """Tell whether a config asks to shard the parameters."""
    return strategy_of(config) == 'fsdp'


def shard_model(model: nn.Module) -> None:
    """Shard the parameters of a model, in place; every process must do so.

    Each block of a MetaFormer is gathered when it runs, and so is the rest as one.

    Args:
        model: A model on its device with the same weights in all processes. State
            dicts that are loaded into it afterwards hold whole tensors.

    Raises:
        ValueError: If a parameter can't be sharded (one without dimensions).
    """
    # Not in torch 2.1, which check_sharding has refused.
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh(get_device(), (get_world_size(),))
    for module in model.modules():
        module.register_load_state_dict_pre_hook(_shard_loaded)
    blocks = [m for m in model.modules() if isinstance(m, MetaFormerBlock)]
    for module in (*blocks, model):
        fsdp.fully_shard(module, mesh=mesh, reshard_after_forward=True)
        # gloo takes the sum where it is asked for the average.
        if on_cpu():
            module.set_force_sum_reduction_for_comms(True)


def shard_loaded_steps(wrapper: OptimWrapper | OptimWrapperDict) -> None:
    """Let optimizers of a model that is sharded load unsharded states."""
    for one in by_name(wrapper).values():
        one.optimizer.register_load_state_dict_pre_hook(_shard_steps)


def check_sharding(runner: Runner) -> None:
    """Refuse what does not go with sharded parameters.

    Raises:
        UserError: Naming the setting and the cure.
    """
    module = getattr(fsdp, 'FSDPModule', None)
    if not hasattr(module, 'set_force_sum_reduction_for_comms'):
        raise UserError(
            f'--strategy fsdp: needs a newer torch than {torch.__version__} '
            '(tested with 2.11)'
        )
    if not runner.distributed:
        raise UserError(
            '--strategy fsdp: shards a model over several processes; start them by '
            'tools/dist_train.sh or tools/slurm_train.sh'
        )
    if runner.optim_wrapper.get('type') == 'AmpOptimWrapper':
        raise UserError('--strategy fsdp: not with --amp; leave one of them out')
    if any(isinstance(hook, EMAHook) for hook in runner.hooks):
        raise UserError(
            '--strategy fsdp: not with EMAHook, which copies the whole model; take it '
            'out of custom_hooks, or train without --strategy'
        )


class ShardedState(Hook):
    """Puts whole tensors into checkpoints."""

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self.gathered: dict = {}

    def gather(self, runner: Runner) -> None:
        """Collect model and optimizer in the first process; all must call it."""
        state = {
            'state_dict': runner.model.state_dict(),
            'optimizer': runner.optim_wrapper.state_dict(),
        }
        gathered = apply_to(state, torch.is_tensor, _gathered)
        self.gathered = gathered if is_main_process() else {}

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put what was gathered in place of this process's shards."""
        for part in self.gathered.keys() & checkpoint.keys():
            checkpoint[part] = self.gathered[part]
        self.gathered = {}


def _gathered(tensor: Tensor) -> Tensor:
    """Return a tensor whole in the first process, and nothing in others."""
    found = full_tensor(tensor.detach())
    return found.cpu() if is_main_process() else found.new_empty(0)


def _shard_loaded(module: nn.Module, state_dict: dict, prefix: str, *_: object) -> None:
    """Shard what is loaded into a module's own parameters."""
    for name, parameter in module.named_parameters(prefix.rstrip('.'), recurse=False):
        if name in state_dict:
            state_dict[name] = sharded_like(state_dict[name], parameter)


def _shard_steps(optimizer: Optimizer, state_dict: dict) -> dict:
    """Shard what is loaded of an optimizer's state of each parameter."""
    parameters = [p for group in optimizer.param_groups for p in group['params']]
    numbers = [n for group in state_dict['param_groups'] for n in group['params']]
    like = dict(zip(numbers, parameters, strict=False))
    steps = {
        number: {
            key: sharded_like(value, like[number]) if torch.is_tensor(value) else value
            for key, value in known.items()
        }
        for number, known in state_dict['state'].items()
    }
    return {**state_dict, 'state': steps}


def is_sharded(value: object) -> bool:
    """Tell whether something is a tensor of which a process holds a shard."""
    return isinstance(value, Tensor) and hasattr(value, 'full_tensor')


def full_tensor(tensor: Tensor) -> Tensor:
    """Return a tensor whole, in every process; all must ask."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def own_shard(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def sharded_like(tensor: Tensor, example: Tensor) -> Tensor:
    """Shard a whole tensor as another of its shape is sharded, if it is."""
    wanted = is_sharded(example) and not is_sharded(tensor)
    if not wanted or tensor.shape != example.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    tensor = tensor.to(example.device)
    return distribute_tensor(tensor, example.device_mesh, example.placements)
