"""Image classification: timm's data, augmentation and losses on mmengine's Runner."""

from mmpoolformer.classification.classifier import ImageClassifier, TimmClassifier
from mmpoolformer.classification.dataset import TimmDataset, folder_classes
from mmpoolformer.classification.metric import Accuracy
from mmpoolformer.classification.optimizer import TimmOptimizer
from mmpoolformer.classification.sampler import RepeatedSampler, SeededSampler
from mmpoolformer.classification.schedule import CosineLR
from mmpoolformer.classification.stream import TimmStream

__all__ = [
    'Accuracy',
    'CosineLR',
    'ImageClassifier',
    'RepeatedSampler',
    'SeededSampler',
    'TimmClassifier',
    'TimmDataset',
    'TimmOptimizer',
    'TimmStream',
    'folder_classes',
]
