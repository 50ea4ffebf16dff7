"""Classifiers on pictures and on folders of classes: `predict` and `validate`."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from mmengine.evaluator import Evaluator

from mmpoolformer.checkpoints import DownloadError
from mmpoolformer.classification import Accuracy
from mmpoolformer.classification.class_labels import describe_classes
from mmpoolformer.classification.evaluation import (
    Evaluation,
    Placement,
    evaluate,
    evaluation_data,
)
from mmpoolformer.classification.prediction import Prediction, predict_pictures
from mmpoolformer.classification.preprocessing import (
    changed_settings,
    filled_settings,
    picture_size,
)
from mmpoolformer.data.class_names import read_class_names
from mmpoolformer.engine.outcomes import Tested, keep_outcomes
from mmpoolformer.engine.per_class import keep_per_class
from mmpoolformer.inference.classifiers import KnownClassifier, load_classifier
from mmpoolformer.inference.weights import report_random
from mmpoolformer.models import list_models
from mmpoolformer.models.from_config import check_name
from mmpoolformer.models.timm_models import TIMM
from mmpoolformer.utils.devices import inference_device
from mmpoolformer.utils.errors import UsageError, UserError, as_user_error
from mmpoolformer.utils.files import write_csv, write_json
from mmpoolformer.utils.images import find_pictures
from mmpoolformer.utils.paths import is_config, split_entry
from mmpoolformer.utils.progress import progress_bar
from mmpoolformer.utils.results import CLASSIFICATION

WILDCARDS = '*?['
MOST_WORKERS = 4
TORCH_DTYPES = {
    'fp32': torch.float32,
    'bf16': torch.bfloat16,
    'fp16': torch.float16,
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How classifiers run.

    Attributes:
        checkpoint: See `load_classifier`.
        trust: Whether it may hold more than data.
        classes: File of the names of the classes, see `read_class_names`.
        batch_size: Pictures at a time.
        workers: Processes that read pictures; None is one for each core, at most 4.
        device: See `choose_device`.
        dtype: Type of weights and pictures: `fp32`, `bf16` or `fp16`.
        amp: Whether to compute in mixed precision.
        skip_unreadable: Whether to go on after pictures that can not be read.
        force: Whether to replace files of results.
    """

    checkpoint: str | None = None
    trust: bool = False
    classes: str | None = None
    batch_size: int = 16
    workers: int | None = None
    device: str | None = None
    dtype: str = 'fp32'
    amp: bool = False
    skip_unreadable: bool = False
    force: bool = False


@dataclass(frozen=True)
class Preparation:
    """How pictures are prepared, where not as the model says.

    Attributes:
        image_size: Side of the network's input.
        crop_pct: Share of the resized picture that is seen.
    """

    image_size: int | None = None
    crop_pct: float | None = None


def validate(
    models: str,
    data: str,
    settings: Settings,
    checkpoints: str | None = None,
    preparation: Preparation = Preparation(),
    results: str | None = None,
    report: str | None = None,
) -> None:
    """Measure classifiers and print their accuracy.

    Args:
        models: See `choose_models`.
        data: Folder of pictures, or a tar file.
        settings: How they run.
        checkpoints: Folder with a file for each model.
        preparation: How pictures are prepared.
        results: Table to write.
        report: Folder of a report, for one model.

    Raises:
        UserError: If the settings, the data or a checkpoint are wrong.
    """
    placement = choose_placement(settings)
    _check_preparation(preparation)
    check_output(results, settings.force)
    rows, chosen = [], choose_models(models, settings.checkpoint, checkpoints)
    if report:
        _check_report(report, len(chosen))
    for name, source in chosen:
        one = replace(settings, checkpoint=source)
        rows.append(_validate_one(name, data, one, preparation, placement, report))
        _report_row(rows[-1])
        if results:
            with as_user_error(results, (OSError,)):
                write_csv(results, rows)
    if results:
        print(f'results: {results}')
    if report:
        print(f'report: {Path(report) / "report.html"}')


def predict(
    model: str,
    pictures: Sequence[str],
    settings: Settings,
    topk: int = 5,
    csv: str | None = None,
    json_file: str | None = None,
) -> None:
    """Classify pictures and print their likeliest classes.

    Args:
        model: See `load_classifier`.
        pictures: Files, folders and patterns.
        settings: How the model runs.
        topk: Classes for each picture.
        csv: Table to write.
        json_file: JSON file to write.

    Raises:
        UserError: If the settings, a picture or the checkpoint are wrong.
    """
    if topk < 1:
        raise UsageError(f'--topk {topk}: give a number from 1')
    placement = choose_placement(settings)
    for path in (csv, json_file):
        check_output(path, settings.force)
    _check_model(model)
    with as_user_error('', (OSError, ValueError)):
        paths = find_pictures(pictures)
        known = _load(model, settings)
        names = describe_classes(known.classes, known.num_classes)
        predictions = _predict_all(known, paths, names, topk, settings, placement)
        if csv:
            write_csv(csv, table_of(predictions, names))
        if json_file:
            write_json(json_file, record_of(known, predictions, names))


def choose_placement(settings: Settings) -> Placement:
    """Return where and how to compute, see `inference_device`.

    Raises:
        UsageError: If a number or the device is none that can be used.
    """
    if settings.batch_size < 1:
        raise UsageError(f'--batch-size {settings.batch_size}: give a number from 1')
    if settings.workers is not None and settings.workers < 0:
        raise UsageError(f'--workers {settings.workers}: give a number from 0')
    device = inference_device(settings.device)
    dtype = TORCH_DTYPES[settings.dtype]
    if device.type == 'cpu' and dtype == torch.float16:
        raise UsageError('--dtype fp16: needs a GPU; CPUs compute in bf16')
    return Placement(device, dtype, settings.amp)


def choose_models(
    names: str, checkpoint: str | None, folder: str | None
) -> list[tuple[str, str | None]]:
    """Return the models that the command line asks for, with their checkpoints.

    Args:
        names: Names joined by commas; `all` and patterns are for this package's models.
        checkpoint: The weights, for one model.
        folder: Folder with files that are called like the models, perhaps with
            `#ENTRY` for all of them; models without one are left out, but for those
            asked for by name.

    Returns:
        Names and checkpoints; None stands for the published weights.

    Raises:
        UsageError: If a name is unknown, or the options contradict each other.
        UserError: If a file is missing.
    """
    models = [name for part in names.split(',') for name in _models_of(part.strip())]
    models = list(dict.fromkeys(models))
    if checkpoint and folder:
        raise UsageError('--checkpoint and --checkpoints: give one of them')
    if checkpoint and len(models) > 1:
        raise UsageError(
            f'--checkpoint: for one model, not {len(models)}; give --checkpoints DIR'
        )
    if not folder:
        return [(name, checkpoint) for name in models]
    folder, entry = split_entry(folder)
    if not Path(folder).is_dir():
        raise UsageError(f'--checkpoints {folder}: no such folder')
    files = {name: _checkpoint_in(Path(folder), name) for name in models}
    missing = [name for name in models if files[name] is None]
    named = [name for name in missing if name in names.split(',')]
    if named or len(missing) == len(models):
        some = named or missing
        raise UserError(
            f'{folder}: no checkpoint {_file_stem(some[0])}.pth (or .pth.tar, '
            '.safetensors ...)' + (f' and {len(some) - 1} more' if some[1:] else '')
        )
    end = '' if entry is None else f'#{entry}'
    return [(name, file + end) for name, file in files.items() if file]


def check_output(path: str | None, force: bool) -> None:
    """Refuse to replace a file without being told to, and make its folder.

    Raises:
        UsageError: If it is there.
        UserError: If the folder can't be made.
    """
    if path and Path(path).exists() and not (force and Path(path).is_file()):
        raise UsageError(f'{path}: exists; choose another name, or --force')
    if path:
        with as_user_error(path, (OSError,)):
            Path(path).parent.mkdir(parents=True, exist_ok=True)


def _check_report(folder: str, models: int) -> None:
    if models > 1:
        raise UsageError(f'--report: for one model, not {models}')
    with as_user_error('', (OSError,)):
        Path(folder).mkdir(parents=True, exist_ok=True)


def table_of(predictions: Sequence[Prediction], names: Sequence[str]) -> list[dict]:
    """Return one row for each class predicted of each picture.

    Args:
        predictions: Of all pictures; those that could not be read have no rows.
        names: Names of all classes.
    """
    return [
        {
            'picture': one.path,
            'rank': rank,
            'class': number,
            'name': names[number],
            'probability': f'{probability:.6f}',
        }
        for one in predictions
        for rank, (number, probability) in enumerate(one.pairs(), start=1)
    ]


def record_of(
    known: KnownClassifier, predictions: Sequence[Prediction], names: Sequence[str]
) -> dict:
    """Return predictions as JSON holds them.

    Args:
        known: The model.
        predictions: Of all pictures.
        names: Names of all classes.
    """
    pictures = [
        {
            'picture': one.path,
            'predictions': [
                {'class': number, 'name': names[number], 'probability': probability}
                for number, probability in one.pairs()
            ],
        }
        for one in predictions
        if not one.problem
    ]
    return {
        'model': known.title,
        'checkpoint': known.source,
        'pictures': pictures,
        'unreadable': [one.path for one in predictions if one.problem],
    }


def _models_of(part: str) -> list[str]:
    if part == 'all':
        return list_models()
    if any(letter in part for letter in WILDCARDS):
        found = list_models(part)
        if not found:
            raise UsageError(f'--model {part}: no model is called so')
        return found
    _check_model(part)
    return [part]


def _check_model(name: str) -> None:
    if is_config(name):
        return
    try:
        check_name(name)
    except ValueError as error:
        raise UsageError(f'--model: {error}') from error


def _checkpoint_in(folder: Path, name: str) -> str | None:
    start = f'{_file_stem(name)}.'
    files = [
        file
        for file in sorted(folder.iterdir())
        if file.is_file() and file.name.startswith(start)
    ]
    if len(files) > 1:
        raise UserError(
            f'{folder}: {", ".join(file.name for file in files)} are all called like '
            f'{name}; leave one there'
        )
    return str(files[0]) if files else None


def _file_stem(name: str) -> str:
    return Path(name).stem if is_config(name) else name.rpartition('/')[2]


def _load(name: str, settings: Settings) -> KnownClassifier:
    try:
        classes = read_class_names(settings.classes) if settings.classes else ()
        known = load_classifier(name, settings.checkpoint, settings.trust, classes)
    except DownloadError as error:
        cure = '; or give a file of the weights by --checkpoint FILE'
        raise UserError(f'{error}{"" if settings.checkpoint else cure}') from error
    report_random(known.title, known.unfilled)
    return known


def _validate_one(
    name: str,
    place: str,
    settings: Settings,
    preparation: Preparation,
    placement: Placement,
    report: str | None,
) -> dict:
    with as_user_error('', (OSError, ValueError)):
        known = _load(name, settings)
    prepared = _prepared(preparation, known)
    skip = settings.skip_unreadable
    with as_user_error(place, (OSError, ValueError, RuntimeError)):
        data = evaluation_data(place, prepared, known.classes, known.num_classes, skip)
    workers = _workers(settings, len(data))
    evaluator = Evaluator([Accuracy()])
    evaluator.dataset_meta = data.metainfo
    per_class = keep_per_class(evaluator)
    keeper = keep_outcomes(evaluator, CLASSIFICATION)
    see = evaluator.process if report else None
    try:
        result = evaluate(
            known.network, data, placement, settings.batch_size, workers, name, see
        )
    except ValueError as error:  # a picture, or a size that the network can't take
        cure = str(error).replace("on_error='skip'", '--skip-unreadable')
        raise UserError(cure) from error
    if report:
        from mmpoolformer.analysis.report import write_report  # matplotlib

        metrics = evaluator.evaluate(len(data))
        tested = Tested(CLASSIFICATION, metrics, per_class, keeper.kept)
        facts = {'model': known.title, 'checkpoint': known.source, 'data': place}
        write_report(tested, facts, report)
    return _row(known, prepared, result)


def _row(known: KnownClassifier, settings: dict, result: Evaluation) -> dict:
    settings = filled_settings(settings)
    return {
        'model': known.title,
        'checkpoint': known.source,
        'top1': round(result.top1, 3),
        'top5': round(result.top5, 3),
        'loss': round(result.loss, 6),
        'pictures': result.pictures,
        'unreadable': len(result.unreadable),
        'pictures_per_second': round(result.pictures_per_second, 1),
        'classes': known.num_classes,
        'params': sum(p.numel() for p in known.network.parameters()),
        'img_size': 'x'.join(str(side) for side in picture_size(settings)),
        'crop_pct': settings['crop_pct'],
        'interpolation': settings['interpolation'],
    }


def _check_preparation(given: Preparation) -> None:
    if given.image_size is not None and given.image_size < 1:
        raise UsageError(f'--image-size {given.image_size}: give a number from 1')
    if given.crop_pct is not None and not 0 < given.crop_pct <= 1:
        raise UsageError(f'--crop-pct {given.crop_pct}: give a share, above 0 up to 1')


def _prepared(given: Preparation, known: KnownClassifier) -> dict:
    """Return how pictures are prepared, changed as given."""
    settings = changed_settings(known.settings, given.image_size, given.crop_pct)
    about = getattr(known.network, 'pretrained_cfg', {})
    size = about.get('input_size', (3, 0, 0))[1:]
    is_fixed = known.title.startswith(TIMM) and about.get('fixed_input_size')
    if is_fixed and picture_size(settings) != tuple(size):
        raise UserError(
            f'--image-size {given.image_size}: {known.title} takes {size[0]} only'
        )
    return settings


def _workers(settings: Settings, pictures: int) -> int:
    """Return how many processes read: no more than they have batches to do."""
    most = settings.workers
    if most is None:
        most = min(MOST_WORKERS, os.cpu_count() or 1)
    return min(most, pictures // settings.batch_size)


def _report_row(row: dict) -> None:
    skipped = f', {row["unreadable"]} unreadable' if row['unreadable'] else ''
    print(
        f'{row["model"]}: top-1 {row["top1"]:.2f} %, top-5 {row["top5"]:.2f} %, '
        f'loss {row["loss"]:.4f}; {row["pictures"]} pictures of {row["img_size"]}'
        f'{skipped}, {row["pictures_per_second"]:.1f} a second',
        flush=True,
    )


def _predict_all(
    known: KnownClassifier,
    paths: Sequence[str],
    names: Sequence[str],
    topk: int,
    settings: Settings,
    placement: Placement,
) -> list[Prediction]:
    """Predict and print, picture by picture."""
    predictions = predict_pictures(
        known.network,
        paths,
        known.transform,
        topk=topk,
        placement=placement,
        batch_size=settings.batch_size,
        workers=_workers(settings, len(paths)),
        skip_unreadable=settings.skip_unreadable,
    )
    done = []
    with progress_bar(len(paths), known.title, shown=len(paths) > 1) as bar:
        # On a screen the bar has to make room for each line.
        report = bar.write if sys.stderr.isatty() else print
        for one in predictions:
            done.append(one)
            stream = sys.stderr if one.problem else sys.stdout
            report(_prediction_line(one, names), file=stream)
            bar.update()
    skipped = sum(bool(one.problem) for one in done)
    if skipped == len(done):
        raise ValueError(f'none of the {len(done)} pictures can be read')
    if skipped:
        print(f'{len(done) - skipped} pictures, {skipped} skipped as unreadable')
    return done


def _prediction_line(one: Prediction, names: Sequence[str]) -> str:
    if one.problem:
        return f'skipped {one.problem}'
    lines = [
        f'  {100 * probability:6.2f} %  {names[number]}'
        for number, probability in one.pairs()
    ]
    return '\n'.join([one.path, *lines])
