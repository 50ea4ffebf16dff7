"""The demonstration data set: drawn scenes in the three common layouts.

The same scenes are written for the three tasks::

    detection/                         COCO: boxes and instance masks
        annotations/{train,val}.json
        images/{train,val}/000000.jpg
    segmentation/                      as ADE20K
        images/{training,validation}/000000.jpg
        annotations/{training,validation}/000000.png
        classes.txt                    a name for each value from 1
    classification/                    as ImageNet: one shape with its surroundings
        {train,val}/CLASS/000000_1.jpg
    settings.json                      what the folder was made with

COCO categories are 1..K in the order of `CLASSES`; boxes and areas are those of the
visible part, masks are uncompressed RLE. In the segmentation PNGs, as in ADE20K, 0
means unlabelled (what shows of shapes too hidden to be annotated); 1 is the
background and k + 2 is `CLASSES[k]`. With `reduce_zero_label=True` that makes 255
ignored, 0 the background and k + 1 the shapes: `SEGMENTATION_CLASSES`.
"""

import io
import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy import ndarray
from PIL import Image
from tqdm import tqdm

from mmpoolformer.data.demo.shapes import CLASSES, Instance, Scene, draw_scene
from mmpoolformer.utils.files import json_or_none
from mmpoolformer.utils.progress import progress_bar

SEGMENTATION_CLASSES = ('background', *CLASSES)
# Splits in the order of their seeds, with the names that COCO and ImageNet folders
# have and those that ADE20K has.
SPLITS = {'train': 'training', 'val': 'validation'}
# Goes up when the same settings give other pictures than before.
FORMAT = 1
SMALLEST_SIDE = 64
# Only shapes of at least this side and visible part become classification pictures.
CROP_SIDE = 24
CROP_VISIBLE = 0.75


@dataclass(frozen=True)
class DemoSettings:
    """What decides the bytes of the data set.

    Attributes:
        train: Number of training scenes.
        val: Number of held-out scenes.
        size: Side of the square pictures in pixels.
        seed: Seed, from 0.

    Raises:
        ValueError: If a value is out of its range.
    """

    train: int = 400
    val: int = 100
    size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that can't be drawn."""
        least = {
            'train': len(CLASSES),
            'val': len(CLASSES),
            'size': SMALLEST_SIDE,
            'seed': 0,
        }
        for name, low in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                why = ', so that every class is there' if low == len(CLASSES) else ''
                raise ValueError(
                    f'{name}={value!r}: give a whole number from {low}{why}'
                )


def make_demo_data(
    out: str | os.PathLike,
    settings: DemoSettings | None = None,
    workers: int | None = None,
    force: bool = False,
    progress: bool = True,
) -> bool:
    """Draw the data set into a folder, unless it is there already.

    The folder appears under its name only when it is complete. Its bytes depend on
    the settings alone (and on the versions of numpy and Pillow), not on `workers`;
    the first scenes of a larger data set are those of a smaller one.

    Args:
        out: Folder to make; see the module for its layout.
        settings: What to draw, by default `DemoSettings()`.
        workers: Processes that draw, by default one for each core, at most 8.
        force: Whether a data set with other settings is replaced.
        progress: Whether a progress bar is shown on stderr.

    Returns:
        Whether it was drawn; False if the folder held these very pictures already.

    Raises:
        ValueError: If the folder holds something else, or `workers` is below 1.
        OSError: If the folder can't be written.
    """
    out = Path(out)
    settings = settings or DemoSettings()
    workers = min(8, os.cpu_count() or 1) if workers is None else workers
    if workers < 1:
        raise ValueError(f'workers={workers!r}: give a whole number from 1')
    if _is_up_to_date(out, settings, force):
        return False
    with _atomic_folder(out) as partial_out:
        _write_all(partial_out, settings, workers, progress)
    return True


def _is_up_to_date(out: Path, settings: DemoSettings, force: bool) -> bool:
    """Say whether `out` holds these settings; refuse what must not be replaced."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    found, asked = _read_manifest(out), _manifest(settings)
    if found != asked and not force:
        names = [name for name in asked if found.get(name) != asked[name]]
        raise ValueError(
            f'{out} was made with other settings '
            f'({", ".join(f"{n}={found.get(n)}, not {asked[n]}" for n in names)}): '
            'choose another folder or replace it: mmpoolformer demo-data --force'
        )
    return found == asked


def _read_manifest(out: Path) -> dict:
    """Return what a folder was made with; refuse a folder that isn't ours."""
    found = json_or_none(out / 'settings.json')
    if not isinstance(found, dict) or 'format' not in found:
        raise ValueError(
            f'{out} exists and is not a demonstration data set: choose another folder'
        )
    return found


def _manifest(settings: DemoSettings) -> dict:
    return {'format': FORMAT, **asdict(settings)}


@contextmanager
def _atomic_folder(out: Path) -> Iterator[Path]:
    """Give a folder beside `out` to fill; it takes that name if nothing fails."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial_out = out.with_name(f'.{out.name}.{os.getpid()}.partial')
    partial_out.mkdir()
    try:
        yield partial_out
        if out.exists():
            old = out.with_name(f'.{out.name}.{os.getpid()}.old')
            out.rename(old)
            partial_out.rename(out)
            shutil.rmtree(old)
        else:
            partial_out.rename(out)
    finally:
        shutil.rmtree(partial_out, ignore_errors=True)


def _write_all(out: Path, settings: DemoSettings, workers: int, progress: bool) -> None:
    """Write every file of the data set."""
    _make_folders(out)
    total = settings.train + settings.val
    bar = progress_bar(total, 'drawing', shown=progress)
    spawn = multiprocessing.get_context('spawn')
    with bar, ProcessPoolExecutor(workers, spawn, _follow_parent) as pool:
        try:
            for split in SPLITS:
                _write_split(out, settings, split, pool, bar)
        finally:
            pool.shutdown(cancel_futures=True)
    _write_json(out / 'settings.json', _manifest(settings))


def _follow_parent() -> None:
    """Let a worker leave Ctrl-C to its parent, and end when the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _write_split(
    out: Path, settings: DemoSettings, split: str, pool: Executor, bar: tqdm
) -> None:
    """Write the scenes of a split and its COCO file."""
    write = partial(_write_scene, out, settings, split)
    annotations = []
    for found in pool.map(write, range(getattr(settings, split)), chunksize=4):
        annotations.append(found)
        bar.update()
    coco = _coco(split, settings, annotations)
    _write_json(out / 'detection' / 'annotations' / f'{split}.json', coco)


def _make_folders(out: Path) -> None:
    """Make the folders and the list of segmentation classes."""
    (out / 'detection' / 'annotations').mkdir(parents=True)
    for split, ade_split in SPLITS.items():
        (out / 'detection' / 'images' / split).mkdir(parents=True)
        for kind in ('images', 'annotations'):
            (out / 'segmentation' / kind / ade_split).mkdir(parents=True)
        for name in CLASSES:
            (out / 'classification' / split / name).mkdir(parents=True)
    names = '\n'.join(SEGMENTATION_CLASSES) + '\n'
    classes = out / 'segmentation' / 'classes.txt'
    classes.write_text(names, encoding='utf-8', newline='\n')


def _write_scene(
    out: Path, settings: DemoSettings, split: str, index: int
) -> list[dict]:
    """Write one scene's pictures and return its COCO annotations without ids."""
    number = list(SPLITS).index(split)
    scene = draw_scene(settings.seed, number, index, settings.size)
    name, ade_split = f'{index:06d}', SPLITS[split]
    picture = _encoded(scene.image, 'JPEG')
    segmentation = out / 'segmentation'
    (out / 'detection' / 'images' / split / f'{name}.jpg').write_bytes(picture)
    (segmentation / 'images' / ade_split / f'{name}.jpg').write_bytes(picture)
    labels = _encoded(segmentation_map(scene), 'PNG')
    (segmentation / 'annotations' / ade_split / f'{name}.png').write_bytes(labels)
    for place, instance in enumerate(scene.instances):
        if is_clear(instance):
            folder = out / 'classification' / split / CLASSES[instance.label]
            crop = _encoded(crop_shape(scene.image, instance.mask), 'JPEG')
            (folder / f'{name}_{place}.jpg').write_bytes(crop)
    return [coco_annotation(instance) for instance in scene.instances]


def coco_annotation(instance: Instance) -> dict:
    """Return a shape as COCO has it, without the ids of picture and annotation."""
    x, y, width, height = _box(instance.mask)
    return {
        'category_id': instance.label + 1,
        'bbox': [x, y, width, height],
        'area': int(instance.mask.sum()),
        'iscrowd': 0,
        'segmentation': _run_lengths(instance.mask),
    }


def segmentation_map(scene: Scene) -> ndarray:
    """Return the label of every pixel as the PNGs hold it, uint8 (H, W)."""
    labels = np.ones(scene.leftovers.shape, dtype=np.uint8)
    labels[scene.leftovers] = 0
    for instance in scene.instances:
        labels[instance.mask] = instance.label + 2
    return labels


def _box(mask: ndarray) -> tuple[int, int, int, int]:
    """Return left, top, width and height of what a mask covers, in pixels."""
    return cv2.boundingRect(mask.astype(np.uint8))


def _run_lengths(mask: ndarray) -> dict:
    """Return a mask as COCO's uncompressed RLE: columns, runs of 0 first."""
    flat = mask.ravel(order='F')
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    if flat[0]:
        runs.insert(0, 0)
    return {'counts': runs, 'size': list(mask.shape)}


def is_clear(instance: Instance) -> bool:
    """Say whether a shape can be told when it is alone in a picture."""
    _, _, width, height = _box(instance.mask)
    return instance.visible >= CROP_VISIBLE and min(width, height) >= CROP_SIDE


def crop_shape(image: ndarray, mask: ndarray) -> ndarray:
    """Cut a shape out with a quarter of its size around it, within the picture."""
    left, top, width, height = _box(mask)
    around_x, around_y = width // 4, height // 4
    return image[
        max(top - around_y, 0) : top + height + around_y,
        max(left - around_x, 0) : left + width + around_x,
    ]


def _encoded(array: ndarray, kind: str) -> bytes:
    """Return a picture as the bytes of a JPEG or PNG file."""
    options = {
        'JPEG': {'quality': 92, 'subsampling': 0},
        'PNG': {'compress_level': 6},
    }
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options[kind])
    return file.getvalue()


def _coco(split: str, settings: DemoSettings, annotations: list[list[dict]]) -> dict:
    """Return the content of one split's annotation file."""
    images, numbered = [], []
    for image_id, of_image in enumerate(annotations):
        name, side = f'{image_id:06d}.jpg', settings.size
        images.append(
            {'id': image_id, 'file_name': name, 'height': side, 'width': side}
        )
        for annotation in of_image:
            ids = {'id': len(numbered) + 1, 'image_id': image_id}
            numbered.append({**ids, **annotation})
    return {
        'info': {
            'description': f'mmpoolformer demonstration data, {split}',
            **_manifest(settings),
        },
        'licenses': [],
        'categories': [
            {'id': i, 'name': name, 'supercategory': 'shape'}
            for i, name in enumerate(CLASSES, start=1)
        ],
        'images': images,
        'annotations': numbered,
    }


def _write_json(path: Path, content: dict) -> None:
    text = json.dumps(content, sort_keys=True, separators=(',', ':'))
    path.write_text(text + '\n', encoding='utf-8', newline='\n')
