"""Image classification: timm's data, augmentation and losses on mmengine's Runner."""

from mmpoolformer.classification.classifier import ImageClassifier, TimmClassifier
from mmpoolformer.data.classification import TimmDataset, folder_classes
from mmpoolformer.classification.evaluation import (
    Evaluation,
    Placement,
    evaluate,
    evaluation_data,
)
from mmpoolformer.inference.classifiers import KnownClassifier, load_classifier
from mmpoolformer.classification.metric import Accuracy
from mmpoolformer.classification.optimizer import TimmOptimizer
from mmpoolformer.classification.prediction import (
    Prediction,
    find_pictures,
    predict_pictures,
)
from mmpoolformer.data.samplers import RepeatedSampler, SeededSampler
from mmpoolformer.classification.schedule import CosineLR
from mmpoolformer.data.stream import TimmStream

__all__ = [
    'Accuracy',
    'CosineLR',
    'Evaluation',
    'ImageClassifier',
    'KnownClassifier',
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
    'load_classifier',
    'predict_pictures',
]
