"""From a trained model to its use."""

from mmpoolformer.models.folding import optimize_for_inference

__all__ = ['optimize_for_inference']
