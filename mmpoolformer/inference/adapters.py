"""Models of each task under one interface, for `Predictor`.

Adapters are `KnownClassifier` and `OpenMMLabModel`: dataclasses with `task`, `title`,
`classes`, `colours`, `network` and `unfilled`; `prepare` makes an item of a picture;
items of equal `size_of` may be given to `run` together. They `read` files, and `shown`
makes RGB of that; arrays are taken likewise where the model `takes_bands`.
"""

import os
from collections.abc import Sequence
from dataclasses import replace

from mmengine.config import Config

from mmpoolformer.classification.class_labels import describe_classes
from mmpoolformer.engine.config import task_scope
from mmpoolformer.inference.classifiers import (
    KnownClassifier,
    load_classifier,
    read_config,
)
from mmpoolformer.inference.engines import Engine
from mmpoolformer.inference.openmmlab import OpenMMLabModel, load_openmmlab
from mmpoolformer.utils.errors import UserError
from mmpoolformer.utils.paths import is_config


def load_adapter(
    model: str | os.PathLike | Config,
    checkpoint: str | os.PathLike | Engine | None = None,
    trust: bool = False,
    classes: Sequence[str] = (),
    *,
    size: tuple[int, int] | None = None,
    num_classes: int | None = None,
    may_be_random: bool = False,
) -> KnownClassifier | OpenMMLabModel:
    """Make a model ready.

    Args:
        model: See `Predictor`, as the next three.
        checkpoint: The weights, or an exported file.
        trust: See `read_checkpoint`.
        classes: Names of the classes.
        size: See `load_classifier`, as the next two; for classifiers.
        num_classes: Classes of a named model with random weights.
        may_be_random: Whether a config may leave weights random.

    Raises:
        ValueError: If the name is unknown, or the checkpoint can't be used.
        UserError: If the config can't be used, or the checkpoint does not fill it.
    """
    if not isinstance(model, Config) and is_config(model):
        model = read_config(model)
    if isinstance(model, Config) and task_scope(model) in ('mmdet', 'mmseg'):
        if size:
            raise UserError(
                f'{model.filename}: size={size} is for classifiers; the pipeline of '
                'test_dataloader says what this model sees'
            )
        return load_openmmlab(model, checkpoint, trust, classes, may_be_random)
    known = load_classifier(
        model, checkpoint, trust, classes, size, num_classes, may_be_random
    )
    names = classes or describe_classes(known.classes, known.num_classes)
    return replace(known, classes=tuple(names))
