"""Testing with a model that was made faster."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmpoolformer.checkpoints.filling import is_wrapper
from mmpoolformer.models.folding import DTYPES, optimize_for_inference
from mmpoolformer.utils.errors import as_user_error


class OptimizeModel(Hook):
    """Replace the model by one for inference once its weights are loaded.

    Args:
        dtype: A name in `mmpoolformer.models.folding.DTYPES`.
    """

    def __init__(self, dtype: str) -> None:
        self.dtype = DTYPES[dtype]

    def before_test(self, runner: Runner) -> None:
        """Replace the model, inside the wrappers that it may have.

        Raises:
            UserError: If it holds no model of this family.
        """
        holder, name = runner, 'model'
        while is_wrapper(getattr(holder, name)):
            holder, name = getattr(holder, name), 'module'
        with as_user_error('--optimize'):
            faster = optimize_for_inference(getattr(holder, name), self.dtype)
        setattr(holder, name, faster)
