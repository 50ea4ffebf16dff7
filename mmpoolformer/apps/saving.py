"""From a checkpoint and its config or name to a folder for the Hugging Face hub."""

import json
from os import PathLike
from pathlib import Path

from mmengine.config import Config

from mmpoolformer.classification.class_labels import recorded_classes
from mmpoolformer.classification.classifier import ImageClassifier
from mmpoolformer.classification.preprocessing import filled_settings
from mmpoolformer.inference.classifiers import load_classifier, read_config
from mmpoolformer.inference.weights import fill_from_config
from mmpoolformer.models.base import PretrainedModule
from mmpoolformer.models.from_config import build_from_config
from mmpoolformer.models.hub import UNKNOWN, save_pretrained
from mmpoolformer.utils.errors import UserError
from mmpoolformer.utils.paths import is_config
from mmpoolformer.utils.text import type_name


def save_folder(
    model: str | PathLike,
    checkpoint: str,
    folder: str | PathLike,
    trust: bool = False,
    data: str | None = None,
    results: str | PathLike | None = None,
    license: str | None = None,
    force: bool = False,
) -> None:
    """Save a trained model by `save_pretrained`, with what its training says of it.

    Args:
        model: A config file, or a name of `mmpoolformer.list_models()`.
        checkpoint: Weights of the whole model, see `read_source`.
        folder: The folder to make.
        trust: See `read_checkpoint`.
        data: What it was trained on; by default the name of the config's data set.
        results: A file of results that `mmpoolformer test` has written.
        license: Of the weights, see `save_pretrained`.
        force: Whether the folder may have files already.

    Raises:
        ValueError: If the model and the checkpoint do not fit each other.
        UserError: If the folder has files, or the config or the results are none.
    """
    folder = Path(folder).expanduser()
    if folder.exists() and not force and (folder.is_file() or any(folder.iterdir())):
        raise UserError(f'{folder} exists: choose another name, or --force')
    metrics = read_metrics(results) if results else {}
    config = read_config(model) if is_config(model) else None
    about = dict(data=data or _data_of(config), metrics=metrics, license=license)
    whole = build_from_config(config) if config else None
    if whole is None or _is_own_classifier(whole):
        known = load_classifier(config or model, checkpoint, trust)
        prepared = filled_settings(known.settings)
        about |= dict(classes=known.classes, preparation=prepared)
        save_pretrained(known.network, folder, **about)
        return
    weights = fill_from_config(whole, config, checkpoint, trust)
    about['classes'] = recorded_classes(weights.content)
    save_pretrained(whole, folder, config=config, **about)


def read_metrics(path: str | PathLike) -> dict[str, float]:
    """Return the metrics in a file of results that `mmpoolformer test` has written.

    Raises:
        UserError: If it is none.
    """
    try:
        metrics = json.loads(Path(path).read_text(encoding='utf-8'))['metrics']
        return {key: float(value) for key, value in metrics.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f'{path}: no results_....json of mmpoolformer test ({error})'
        ) from error


def _is_own_classifier(model: object) -> bool:
    is_classifier = isinstance(model, ImageClassifier)
    return is_classifier and isinstance(model.backbone, PretrainedModule)


def _data_of(config: Config | None) -> str:
    if config is None:
        return UNKNOWN
    dataset = config.test_dataloader.dataset
    root = Path(str(dataset.get('data_root') or dataset.get('root') or '')).name
    kind = type_name(dataset.get('type', ''))
    return f'{kind} ({root})' if root else kind
