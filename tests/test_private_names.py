"""The private names of other packages that we use are there.

Their makers may change them in any release. Where one is gone after an upgrade, this
says which, and which file of ours needs another way.
"""

import ast
import inspect
import re
from importlib import import_module

import pytest
import torch
from tool_process import ROOT

PACKAGE = ROOT / 'mmpoolformer'
# Module, class or function in it (may be empty), name there, and the file of ours.
PRIVATE = [
    ('mmengine.config', 'Config', '_get_cfg_path', 'engine/bases.py'),
    ('mmengine.config', 'DictAction', '_parse_int_float_bool', 'engine/config.py'),
    ('mmengine.config', 'DictAction', '_parse_iterable', 'engine/config.py'),
    ('mmengine.dataset', 'BaseDataset', '_join_prefix', 'data/checks/preflight.py'),
    ('mmengine.dataset', 'BaseDataset', '_metainfo', 'data/coco_folder.py'),
    (
        'mmengine.hooks',
        'CheckpointHook',
        '_save_best_checkpoint',
        'engine/hooks/checkpoint.py',
    ),
    (
        'mmengine.hooks',
        'CheckpointHook',
        '_save_checkpoint_with_step',
        'engine/hooks/checkpoint.py',
    ),
    ('mmengine.logging', 'HistoryBuffer', '_count_history', 'engine/resumed_state.py'),
    ('mmengine.logging', 'HistoryBuffer', '_log_history', 'engine/resumed_state.py'),
    ('mmengine.model', 'BaseModule', '_is_init', 'models/base.py'),
    (
        'mmengine.model',
        'ImgDataPreprocessor',
        '_channel_conversion',
        'inference/openmmlab.py',
    ),
    ('mmengine.optim', 'OptimWrapper', '_accumulative_counts', 'engine/runner.py'),
    (
        'mmengine.optim.scheduler.param_scheduler',
        '',
        '_ParamScheduler',
        'classification/optim.py',
    ),
    (
        'mmengine.optim.scheduler.param_scheduler',
        'OneCycleParamScheduler',
        '_annealing_cos',
        'checkpoints/pickle_check.py',
    ),
    (
        'mmengine.optim.scheduler.param_scheduler',
        'OneCycleParamScheduler',
        '_annealing_linear',
        'checkpoints/pickle_check.py',
    ),
    ('mmengine.runner', 'CheckpointLoader', '_schemes', 'checkpoints/loaders.py'),
    (
        'mmengine.runner',
        'EpochBasedTrainLoop',
        '_decide_current_val_interval',
        'engine/loops.py',
    ),
    ('mmengine.runner', 'EpochBasedTrainLoop', '_epoch', 'engine/loops.py'),
    ('mmengine.runner', 'EpochBasedTrainLoop', '_max_epochs', 'engine/loops.py'),
    (
        'mmengine.runner',
        'IterBasedTrainLoop',
        '_decide_current_val_interval',
        'engine/loops.py',
    ),
    ('mmengine.runner', 'IterBasedTrainLoop', '_iter', 'engine/loops.py'),
    ('mmengine.runner', 'IterBasedTrainLoop', '_max_iters', 'engine/loops.py'),
    ('mmengine.runner', 'Runner', '_has_loaded', 'engine/runner.py'),
    ('mmengine.runner', 'Runner', '_init_model_weights', 'engine/runner.py'),
    ('mmengine.runner', 'Runner', '_load_from', 'engine/runner.py'),
    ('mmengine.runner', 'Runner', '_resume', 'engine/runner.py'),
    ('mmdet.evaluation', 'CocoMetric', '_coco_api', 'engine/evaluation.py'),
    ('mmdet.evaluation', 'LVISMetric', '_lvis_api', 'engine/evaluation.py'),
    ('mmdet.models', 'StandardRoIHead', '_mask_forward', 'export/graphs.py'),
    ('timm.scheduler.scheduler', 'Scheduler', '_get_lr', 'classification/optim.py'),
    ('torch', '', '_dynamo', 'ops/products.py'),
    ('torch', '', '_foreach_norm', 'engine/hooks/finite.py'),
    ('torch._C._functorch', '', 'peek_interpreter_stack', 'ops/products.py'),
    ('torch._tensor', '', '_rebuild_from_type_v2', 'checkpoints/pickle_check.py'),
    ('torch._utils', '', '_rebuild_parameter', 'checkpoints/pickle_check.py'),
    ('torch._utils', '', '_rebuild_tensor_v2', 'checkpoints/pickle_check.py'),
    ('torch.autograd.forward_ad', '', '_current_level', 'ops/products.py'),
    ('torch.nn', 'Module', '_backward_hooks', 'models/block.py'),
    ('torch.nn', 'Module', '_backward_pre_hooks', 'models/block.py'),
    ('torch.nn', 'Module', '_forward_hooks', 'models/block.py'),
    ('torch.nn', 'Module', '_forward_pre_hooks', 'models/block.py'),
    ('torch.nn', 'Module', '_modules', 'models/folding.py'),
    ('torch.nn', 'Module', '_parameters', 'models/neck_and_heads.py'),
    (
        'torch.nn',
        'Module',
        '_register_load_state_dict_pre_hook',
        'models/base.py',
    ),
    ('torch.nn.modules.batchnorm', '', '_BatchNorm', 'models/folding.py'),
    ('torch.nn.modules.module', '', '_global_backward_hooks', 'models/block.py'),
    ('torch.nn.modules.module', '', '_global_backward_pre_hooks', 'models/block.py'),
    ('torch.nn.modules.module', '', '_global_forward_hooks', 'models/block.py'),
    ('torch.nn.modules.module', '', '_global_forward_pre_hooks', 'models/block.py'),
    ('torch.ops', 'mkldnn', '_is_mkldnn_bf16_supported', 'ops/products.py'),
    ('torch.ops', 'mkldnn', '_linear_pointwise', 'ops/products.py'),
    ('torch.ops', 'mkldnn', '_reorder_linear_weight', 'ops/products.py'),
    ('torch.utils._python_dispatch', '', 'TorchDispatchMode', 'analysis/benchmark.py'),
    (
        'torch.utils._python_dispatch',
        '',
        '_get_current_dispatch_mode',
        'ops/products.py',
    ),
    ('torch.utils.data', 'DataLoader', '_get_iterator', 'engine/hooks/stop.py'),
    ('torch.utils.data', 'DataLoader', '_iterator', 'engine/loops.py'),
]
# Python's own, and parts of the way to a name above.
OTHERS = {'_ActionsContainer', '_C', '_Unpickler', '_exit', '_functorch', '_schema'}


def has(owner: object, name: str) -> bool:
    """Tell whether an object has a name, or its source gives it to its instances."""
    if hasattr(owner, name):
        return True
    return inspect.isclass(owner) and any(
        re.search(rf'\b{name}\b', inspect.getsource(base))
        for base in owner.__mro__
        if base is not object
    )


@pytest.mark.parametrize(
    ('module', 'owner', 'name', 'user'), PRIVATE, ids=lambda part: part or '-'
)
def test_private_name_is_there(module: str, owner: str, name: str, user: str) -> None:
    pytest.importorskip(module.split('.')[0])
    place = torch.ops if module == 'torch.ops' else import_module(module)
    for part in filter(None, [owner]):
        place = getattr(place, part)
    told = '.'.join(filter(None, [module, owner, name]))
    assert has(place, name), f'{told} is gone: mmpoolformer/{user} needs another way'
    source = (PACKAGE / user).read_text()
    assert re.search(rf'\b{name}\b', source), f'{user} no longer uses {told}'


def test_all_private_names_are_listed() -> None:
    trees = {file: ast.parse(file.read_text()) for file in PACKAGE.rglob('*.py')}
    nodes = [(file, node) for file, tree in trees.items() for node in ast.walk(tree)]
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    own = {n.name for _, n in nodes if isinstance(n, functions)}
    own |= {n.attr for _, n in nodes if is_set(n)}
    known = own | OTHERS | {name for _, _, name, _ in PRIVATE}
    used = {(name, str(file)) for file, node in nodes for name in private_names(node)}
    assert not {(name, file) for name, file in used if name not in known}


def is_set(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)


def private_names(node: ast.AST) -> list[str]:
    """Return the private names that a part of a file reads or imports."""
    if isinstance(node, ast.Attribute):
        return [node.attr] if re.match('_[^_]', node.attr) else []
    if not isinstance(node, ast.ImportFrom) or node.module.startswith('mmpoolformer'):
        return []
    names = [alias.name for alias in node.names]
    whole = re.search(r'(^|\.)_[^_]', node.module)
    return [name for name in names if whole or re.match('_[^_]', name)]
