"""Saved predictions in place of the network of a config's detector or segmentor."""

import csv
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from mmengine.structures import InstanceData, PixelData
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from mmpoolformer.classification.class_labels import check_class_order
from mmpoolformer.data.class_names import read_json
from mmpoolformer.utils.errors import UserError, as_user_error
from mmpoolformer.utils.files import json_or_none
from mmpoolformer.utils.logs import warn
from mmpoolformer.utils.text import first_few

KEYS = {'image_id', 'category_id', 'bbox', 'score'}
MISTAKES = (KeyError, RuntimeError, TypeError, ValueError)
MEANING = 'images.json'  # what mmpoolformer infer writes beside its detections
CURE = 'mmpoolformer infer --ids ANNOTATIONS.json writes its ids'
MAP = '.png'
CLASSES = 'classes.csv'  # what it writes beside the folder of its maps


def run_saved(model: nn.Module, dataset: Dataset, source: str | PathLike) -> None:
    """Let a detector or segmentor find what was saved of each picture.

    Args:
        model: A detector of mmdet, or a segmentor of mmseg.
        dataset: Its test data, of a detector with the ids of the file.
        source: COCO's list of results, such as `predictions.json` of `mmpoolformer
            infer --ids`; of a segmentor the folder of label maps, `masks` of
            `mmpoolformer infer`, which are named like the pictures, with the number of
            the class in each pixel.

    Raises:
        UserError: If it is not for such data, the file no such list, of other ids than
            the data's, or without masks where there must be some; or if a picture has
            no map, one that another would have too, one of another size or one with
            numbers of no class; or if `images.json` or `classes.csv`, which infer
            writes, too, tell of other pictures or classes than the data's.
    """
    if Path(source).is_dir():
        _run_maps(model, dataset, Path(source))
    else:
        _run_detections(model, dataset, source)


def _run_detections(model: nn.Module, dataset: Dataset, file: str | PathLike) -> None:
    labels = getattr(dataset, 'cat2label', None)
    if labels is None:
        raise UserError(f'{file}: saved detections are for COCO test data')
    with as_user_error('', (ValueError,)):
        entries = read_json(file)
    infos = (dataset.get_data_info(i) for i in range(len(dataset)))
    pictures = {info['img_id']: info.get('img_path') for info in infos}
    with as_user_error(str(file), MISTAKES):
        found = _by_image(entries, pictures, labels, model.with_mask)
    meaning = Path(file).with_name(MEANING)
    with as_user_error(str(meaning), MISTAKES):
        names = dataset.metainfo['classes']
        classes = {number: names[label] for number, label in labels.items()}
        _check_meaning(meaning, pictures, classes)
    model.predict = partial(_recall, model, labels, found)


def _by_image(
    entries: object, pictures: Collection, categories: Collection, masks: bool
) -> dict:
    keys = KEYS | ({'segmentation'} if masks else set())
    if not isinstance(entries, list) or not all(
        isinstance(one, dict) and keys <= one.keys() for one in entries
    ):
        raise ValueError(f'not a list of results with {", ".join(sorted(keys))}')
    for key, known in (('image_id', pictures), ('category_id', categories)):
        strange = {one[key] for one in entries}.difference(known)
        if strange:
            raise ValueError(
                f'{key} {first_few(sorted(strange, key=str))}: not in the test data; '
                f'{CURE}'
            )
    if any(len(one['bbox']) != 4 for one in entries):
        raise ValueError('a "bbox" is [left, top, width, height]')
    np.array([[*one['bbox'], one['score']] for one in entries], float)  # are numbers
    found = defaultdict(list)
    for one in entries:
        found[one['image_id']].append(one)
    if len(found) < len(pictures):
        warn(
            f'the file has boxes in {len(found)} of the {len(pictures)} pictures of '
            'the test data: in the others nothing counts as found'
        )
    return found


def _check_meaning(
    file: Path, pictures: Mapping[int | str, str], classes: Mapping[int, str]
) -> None:
    """Refuse ids that stand for other pictures or classes than in the test data.

    Those that `mmpoolformer infer` counts by itself may all be known there, too.
    """
    content = json_or_none(file)
    if not isinstance(content, dict) or not {'images', 'categories'} <= content.keys():
        return
    known = {number: Path(path).name for number, path in pictures.items()}
    meant = [(one['id'], Path(one['file_name']).name) for one in content['images']]
    named = [(one['id'], one['name']) for one in content['categories']]
    for kind, given, names in (('image', meant, known), ('class', named, classes)):
        for number, name in given:
            if names.get(number, name) != name:
                raise ValueError(
                    f'{kind} {number} is {name}, but {names[number]} in the test '
                    f'data; {CURE}'
                )


def _recall(
    model: nn.Module,
    labels: Mapping[int, int],
    found: Mapping[int | str, list[dict]],
    images: Tensor,
    samples: Sequence,
    rescale: bool = True,
) -> Sequence:
    """Do what `predict` of mmdet's detectors does, from a file."""
    instances = [
        _instances(found.get(sample.img_id, []), labels, sample, model.with_mask)
        for sample in samples
    ]
    return model.add_pred_to_datasample(samples, instances)


def _instances(
    entries: Sequence[dict], labels: Mapping[int, int], sample: object, masks: bool
) -> InstanceData:
    boxes = torch.tensor([one['bbox'] for one in entries]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    result = InstanceData(bboxes=boxes)
    result.scores = torch.tensor([float(one['score']) for one in entries])
    result.labels = torch.tensor(
        [labels[one['category_id']] for one in entries], dtype=torch.long
    )
    if masks:
        from pycocotools.mask import decode  # only there for detection

        shape = sample.ori_shape[:2]
        drawn = torch.zeros((len(entries), *shape), dtype=torch.bool)
        with as_user_error(f'mask in image {sample.img_id}', MISTAKES):
            for mask, one in zip(drawn, entries, strict=True):
                runs = one['segmentation']
                if tuple(runs['size']) != shape:
                    raise ValueError(f'{runs["size"]}, the image has {shape}')
                mask[:] = torch.from_numpy(decode(runs))
        result.masks = drawn
    return result


def _run_maps(model: nn.Module, dataset: Dataset, folder: Path) -> None:
    if not hasattr(model, 'decode_head'):
        raise UserError(f'{folder}: label maps are for segmentors')
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    maps = [_map_of(folder, info['img_path']) for info in infos]
    shared = sorted(path.name for path, n in Counter(maps).items() if n > 1)
    if shared:
        raise UserError(
            f'{folder}: several pictures of the test data would share a map: '
            f'{first_few(shared)}'
        )
    missing = [path.name for path in maps if not path.is_file()]
    if missing:
        raise UserError(
            f'{folder}: no map of {len(missing)} of {len(maps)} pictures: '
            f'{first_few(missing)}'
        )
    table = folder.parent / CLASSES
    if table.is_file():
        with as_user_error(str(table), (OSError, csv.Error, *MISTAKES)):
            rows = csv.DictReader(table.read_text(encoding='utf-8').splitlines())
            names = [row['name'] for row in rows]
        check_class_order(names, dataset, str(table))
    model.predict = partial(_read_maps, folder, len(dataset.metainfo['classes']))


def _map_of(folder: Path, picture: str) -> Path:
    return folder / f'{Path(picture).stem}{MAP}'


def _read_maps(
    folder: Path, classes: int, images: Tensor, samples: Sequence
) -> Sequence:
    """Do what `predict` of mmseg's segmentors does, from files."""
    for sample in samples:
        path = _map_of(folder, sample.img_path)
        with as_user_error(str(path), (OSError, ValueError)):
            with Image.open(path) as picture:
                labels = np.array(picture, np.int64)
            if labels.shape != sample.ori_shape[:2]:
                raise ValueError(
                    f'of shape {labels.shape}, the picture has {sample.ori_shape[:2]}'
                )
            if labels.max() >= classes:
                raise ValueError(f'the number {labels.max()}, of {classes} classes')
        found = PixelData(data=torch.from_numpy(labels)[None])
        sample.set_data({'pred_sem_seg': found})
    return samples
