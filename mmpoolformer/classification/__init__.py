"""Image classification: timm's data, augmentation and losses on mmengine's Runner."""

from mmpoolformer.classification.classifier import ImageClassifier, TimmClassifier
from mmpoolformer.classification.evaluation import (
    Evaluation,
    Placement,
    evaluate,
    evaluation_data,
)
from mmpoolformer.classification.metric import Accuracy
from mmpoolformer.classification.optim import CosineLR, TimmOptimizer
from mmpoolformer.classification.prediction import Prediction, predict_pictures
from mmpoolformer.data.classification import TimmDataset, folder_classes
from mmpoolformer.data.samplers import RepeatedSampler, SeededSampler
from mmpoolformer.data.stream import TimmStream
from mmpoolformer.utils.images import find_pictures

__all__ = [
    'Accuracy',
    'CosineLR',
    'Evaluation',
    'ImageClassifier',
    'Placement',
    'Prediction',
    'RepeatedSampler',
    'SeededSampler',
    'TimmClassifier',
    'TimmDataset',
    'TimmOptimizer',
    'TimmStream',
    'evaluate',
    'evaluation_data',
    'find_pictures',
    'folder_classes',
    'predict_pictures',
]
