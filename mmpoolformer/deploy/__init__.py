"""From a trained model to its use."""

from mmpoolformer.deploy.folding import optimize_for_inference

__all__ = ['optimize_for_inference']
