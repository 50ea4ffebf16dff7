"""The two halves of a block as single operators, with less memory and fewer passes.

`pool_residual` is the pooling half, `mlp_residual` the half with the MLP; both compute
what the modules in `mmpoolformer.models` do, which decide whether to use them.
"""

from mmpoolformer.ops.activations import star_relu
from mmpoolformer.ops.mlp import mlp_residual
from mmpoolformer.ops.pooling import POOLINGS, pool_residual

__all__ = ['POOLINGS', 'mlp_residual', 'pool_residual', 'star_relu']
