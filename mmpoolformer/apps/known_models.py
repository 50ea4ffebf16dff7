"""What stands behind tools/validate.py and tools/predict.py."""

import json
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import torch
from timm.data import DEFAULT_CROP_PCT, create_transform

from mmpoolformer.checkpoints import DownloadError
from mmpoolformer.classification.class_labels import describe_classes
from mmpoolformer.classification.evaluation import (
    Evaluation,
    Placement,
    evaluate,
    evaluation_data,
)
from mmpoolformer.classification.prediction import Prediction, predict_pictures
from mmpoolformer.classification.preprocessing import changed_settings, picture_size
from mmpoolformer.data.class_names import read_class_names
from mmpoolformer.inference.classifiers import KnownClassifier, load_classifier
from mmpoolformer.inference.weights import tell_random
from mmpoolformer.models import list_models
from mmpoolformer.models.from_config import check_name
from mmpoolformer.models.timm_models import TIMM
from mmpoolformer.utils.devices import choose_device
from mmpoolformer.utils.errors import UsageError, UserError, blame
from mmpoolformer.utils.files import write_atomically, write_csv
from mmpoolformer.utils.images import find_pictures
from mmpoolformer.utils.paths import is_config
from mmpoolformer.utils.progress import progress_bar

WILDCARDS = '*?['
MOST_WORKERS = 4
TORCH_DTYPES = {
    'fp32': torch.float32,
    'bf16': torch.bfloat16,
    'fp16': torch.float16,
}


def validate(args: Namespace) -> None:
    """Measure known models as the command line of tools/validate.py says.

    Raises:
        UserError: If the options, the data or a checkpoint are wrong.
    """
    placement = choose_placement(args)
    _check_settings(args)
    check_output(args.results, args.force)
    rows = []
    for name, source in choose_models(args.model, args.checkpoint, args.checkpoints):
        row = _validate_one(args, name, source, placement)
        rows.append(row)
        _tell_row(row)
        if args.results:
            with blame(args.results, (OSError,)):
                write_csv(args.results, rows)
    if args.results:
        print(f'results: {args.results}')


def predict(args: Namespace) -> None:
    """Classify pictures as the command line of tools/predict.py says.

    Raises:
        UserError: If the options, a picture or the checkpoint are wrong.
    """
    if args.topk < 1:
        raise UsageError(f'--topk {args.topk}: give a number from 1')
    placement = choose_placement(args)
    for path in (args.csv, args.json):
        check_output(path, args.force)
    _check_model(args.model)
    with blame('', (OSError, ValueError)):
        paths = find_pictures(args.pictures)
        known = _load(args, args.model, args.checkpoint)
        names = describe_classes(known.classes, known.num_classes)
        predictions = _predict_all(args, known, names, paths, placement)
        if args.csv:
            write_csv(args.csv, table_of(predictions, names))
        if args.json:
            record = record_of(known, predictions, names)
            write_atomically(args.json, json.dumps(record, indent=2) + '\n')


def choose_placement(args: Namespace) -> Placement:
    """Return where to compute, from the options of the command line.

    Raises:
        UsageError: If a number or the device is none that can be used.
    """
    for option in ('batch_size', 'workers'):
        value, least = getattr(args, option), 0 if option == 'workers' else 1
        if value is not None and value < least:
            name = option.replace('_', '-')
            raise UsageError(f'--{name} {value}: give a number from {least}')
    device = choose_device(args.device)
    dtype = TORCH_DTYPES[getattr(args, 'dtype', 'fp32')]
    if device.type == 'cpu' and dtype == torch.float16:
        raise UsageError('--dtype fp16: needs a GPU; CPUs compute in bf16')
    return Placement(device, dtype, getattr(args, 'amp', False))


def choose_models(
    names: str, checkpoint: str | None, folder: str | None
) -> list[tuple[str, str | None]]:
    """Return the models that the command line asks for, with their checkpoints.

    Args:
        names: Names joined by commas; `all` and patterns are for this package's models.
        checkpoint: The weights, for one model.
        folder: Folder with files that are called like the models; those without one
            are left out, but for models asked for by name.

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
    return [(name, file) for name, file in files.items() if file]


def check_output(path: str | None, force: bool) -> None:
    """Refuse to replace a file without being told to, and make its folder.

    Raises:
        UsageError: If it is there.
        UserError: If the folder can't be made.
    """
    if path and Path(path).exists() and not (force and Path(path).is_file()):
        raise UsageError(f'{path}: exists; choose another name, or --force')
    if path:
        with blame(path, (OSError,)):
            Path(path).parent.mkdir(parents=True, exist_ok=True)


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
        'model': known.name,
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


def _load(args: Namespace, name: str, source: str | None) -> KnownClassifier:
    try:
        classes = read_class_names(args.classes) if args.classes else ()
        known = load_classifier(name, source, args.trust_checkpoint, classes)
    except DownloadError as error:
        cure = '' if source else '; or give a file of the weights by --checkpoint FILE'
        raise UserError(f'{error}{cure}') from error
    tell_random(known.name, known.unfilled)
    return known


def _validate_one(
    args: Namespace, name: str, source: str | None, placement: Placement
) -> dict:
    with blame('', (OSError, ValueError)):
        known = _load(args, name, source)
    settings = _settings(args, known)
    with blame(str(args.data), (OSError, ValueError, RuntimeError)):
        data = evaluation_data(
            args.data, settings, known.classes, known.num_classes, args.skip_unreadable
        )
    workers = _workers(args.workers, len(data), args.batch_size)
    try:
        result = evaluate(
            known.network, data, placement, args.batch_size, workers, name
        )
    except ValueError as error:  # a picture, or a size that the network can't take
        cure = str(error).replace("on_error='skip'", '--skip-unreadable')
        raise UserError(cure) from error
    return _row(known, settings, result)


def _row(known: KnownClassifier, settings: dict, result: Evaluation) -> dict:
    return {
        'model': known.name,
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
        'crop_pct': settings.get('crop_pct') or DEFAULT_CROP_PCT,
        'interpolation': settings.get('interpolation', 'bilinear'),
    }


def _check_settings(args: Namespace) -> None:
    if args.img_size is not None and args.img_size < 1:
        raise UsageError(f'--img-size {args.img_size}: give a number from 1')
    if args.crop_pct is not None and not 0 < args.crop_pct <= 1:
        raise UsageError(f'--crop-pct {args.crop_pct}: give a share, above 0 up to 1')


def _settings(args: Namespace, known: KnownClassifier) -> dict:
    """Return how pictures are prepared, changed as the command line says."""
    settings = changed_settings(known.settings, args.img_size, args.crop_pct)
    about = getattr(known.network, 'pretrained_cfg', {})
    size = about.get('input_size', (3, 0, 0))[1:]
    is_fixed = known.name.startswith(TIMM) and about.get('fixed_input_size')
    if is_fixed and picture_size(settings) != tuple(size):
        raise UserError(
            f'--img-size {args.img_size}: {known.name} takes {size[0]} only'
        )
    return settings


def _workers(asked: int | None, pictures: int, batch_size: int) -> int:
    """Return how many processes read: no more than they have batches to do."""
    most = min(MOST_WORKERS, os.cpu_count() or 1) if asked is None else asked
    return min(most, pictures // batch_size)


def _tell_row(row: dict) -> None:
    skipped = f', {row["unreadable"]} unreadable' if row['unreadable'] else ''
    print(
        f'{row["model"]}: top-1 {row["top1"]:.2f} %, top-5 {row["top5"]:.2f} %, '
        f'loss {row["loss"]:.4f}; {row["pictures"]} pictures of {row["img_size"]}'
        f'{skipped}, {row["pictures_per_second"]:.1f} a second',
        flush=True,
    )


def _predict_all(
    args: Namespace,
    known: KnownClassifier,
    names: Sequence[str],
    paths: Sequence[str],
    placement: Placement,
) -> list[Prediction]:
    """Predict and print, picture by picture."""
    predictions = predict_pictures(
        known.network,
        paths,
        create_transform(**known.settings),
        topk=args.topk,
        placement=placement,
        batch_size=args.batch_size,
        workers=_workers(args.workers, len(paths), args.batch_size),
        skip_unreadable=args.skip_unreadable,
    )
    done = []
    with progress_bar(len(paths), args.model, shown=len(paths) > 1) as bar:
        # On a screen the bar has to make room for each line.
        tell = bar.write if sys.stderr.isatty() else print
        for one in predictions:
            done.append(one)
            tell(_told(one, names), file=sys.stderr if one.problem else sys.stdout)
            bar.update()
    skipped = sum(bool(one.problem) for one in done)
    if skipped == len(done):
        raise ValueError(f'none of the {len(done)} pictures can be read')
    if skipped:
        print(f'{len(done) - skipped} pictures, {skipped} skipped as unreadable')
    return done


def _told(one: Prediction, names: Sequence[str]) -> str:
    if one.problem:
        return f'skipped {one.problem}'
    lines = [
        f'  {100 * probability:6.2f} %  {names[number]}'
        for number, probability in one.pairs()
    ]
    return '\n'.join([one.path, *lines])
