"""Files of predictions: COCO JSON, label maps, tables."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
from numpy import ndarray
from PIL import Image

from mmpoolformer.data.coco_ids import CocoIds
from mmpoolformer.inference.predictor import Predictor
from mmpoolformer.utils.files import atomic_path, write_atomically, write_csv
from mmpoolformer.utils.results import CLASSIFICATION, SEGMENTATION, Detections, Result

COLUMNS = ('picture', 'rank', 'class', 'name', 'probability')

# Takes a result, what files call the picture, and its name for files of its own:
# unique, without ending, perhaps with a folder before it.
Sink = Callable[[Result, str, str], None]


def open_sink(
    predictor: Predictor,
    folder: Path,
    score_thr: float,
    topk: int,
    ids: CocoIds | None = None,
) -> AbstractContextManager[Sink]:
    """Return where results go, by the model's task.

    The files appear when the block ends without an error, but for label maps, of which
    each does when it is written.

    - Detectors: `predictions.json`, COCO's list of results, with masks run-length
      encoded; and `images.json`, a COCO data set without annotations, which says what
      its ids mean. `COCO('images.json').loadRes('predictions.json')` reads both.
    - Segmentors: `masks/NAME.png`, with the class's number (from 0) in each pixel and
      the classes' colours as palette (16 bits and none for more than 256 classes); and
      `classes.csv`.
    - Classifiers: `predictions.csv`, a row for each class of each picture.

    Args:
        predictor: Where the results are from.
        folder: Where the files go.
        score_thr: Score threshold of boxes.
        topk: Most classes of a picture.
        ids: Of detectors' pictures and classes; by default they count from 1.
    """
    if predictor.task == CLASSIFICATION:
        return _table(folder, predictor.classes, topk)
    if predictor.task == SEGMENTATION:
        return _label_maps(folder, predictor.classes, predictor.colours)
    return _coco(folder, predictor.classes, score_thr, ids)


@contextmanager
def _table(folder: Path, classes: Sequence[str], topk: int) -> Iterator[Sink]:
    with (
        atomic_path(folder / 'predictions.csv') as part,
        part.open('w', encoding='utf-8', newline='') as file,
    ):
        table = csv.writer(file, lineterminator='\n')
        table.writerow(COLUMNS)

        def add(result: Result, name: str, stem: str) -> None:
            labels, scores = result.found.labels[:topk], result.found.scores[:topk]
            for rank, (label, score) in enumerate(zip(labels, scores, strict=True)):
                row = (name, rank + 1, label, classes[label], f'{score:.6f}')
                table.writerow(row)

        yield add


@contextmanager
def _label_maps(
    folder: Path, classes: Sequence[str], colours: ndarray
) -> Iterator[Sink]:
    def add(result: Result, name: str, stem: str) -> None:
        with atomic_path(folder / 'masks' / f'{stem}.png') as part:
            label_picture(result.found.labels, colours).save(part, 'PNG')

    yield add
    rows = [
        {'value': i, 'name': name, 'red': red, 'green': green, 'blue': blue}
        for i, (name, (red, green, blue)) in enumerate(
            zip(classes, colours.tolist(), strict=True)
        )
    ]
    write_csv(folder / 'classes.csv', rows)


def label_picture(labels: ndarray, colours: ndarray) -> Image.Image:
    """Return a label map as a picture whose values are the labels.

    Args:
        labels: Class of each pixel, (H, W).
        colours: Of the classes, uint8 (K, 3): the palette.

    Returns:
        8 bits with a palette, or for more than 256 classes 16 bits without.
    """
    if len(colours) > 256:
        return Image.fromarray(labels.astype(np.uint16))
    picture = Image.fromarray(labels.astype(np.uint8))
    picture.putpalette(colours.tobytes())  # makes of grey a palette's numbers
    return picture


@contextmanager
def _coco(
    folder: Path, classes: Sequence[str], score_thr: float, ids: CocoIds | None
) -> Iterator[Sink]:
    images = []
    numbers = ids.categories if ids else range(1, len(classes) + 1)
    with (
        atomic_path(folder / 'predictions.json') as part,
        part.open('w', encoding='utf-8') as file,
    ):
        file.write('[')
        comma = ''

        def add(result: Result, name: str, stem: str) -> None:
            nonlocal comma
            height, width = result.picture.shape[:2]
            number = ids.images[name] if ids else len(images) + 1
            image = dict(id=number, file_name=name, width=width, height=height)
            images.append(image)
            for entry in coco_results(result.found.above(score_thr), numbers):
                entry = {'image_id': image['id'], **entry}
                file.write(f'{comma}\n{json.dumps(entry)}')
                comma = ','

        yield add
        file.write('\n]\n')
    categories = [
        dict(id=i, name=name) for i, name in zip(numbers, classes, strict=True)
    ]
    about = dict(info={}, images=images, annotations=[], categories=categories)
    write_atomically(folder / 'images.json', json.dumps(about, indent=1) + '\n')


def coco_results(found: Detections, categories: Sequence[int]) -> list[dict]:
    """Return boxes, and masks if there are any, as COCO's results without image ids.

    Class k is `categories[k]`. Boxes are (left, top, width, height).
    """
    # Imported here: classifiers and segmentors do without.
    from pycocotools.mask import encode

    entries = []
    for i, (left, top, right, bottom) in enumerate(found.boxes.tolist()):
        box = [round(x, 3) for x in (left, top, right - left, bottom - top)]
        entry = dict(category_id=categories[found.labels[i]], bbox=box)
        entry['score'] = round(float(found.scores[i]), 6)
        if found.masks is not None:
            runs = encode(np.asfortranarray(found.masks[i], dtype=np.uint8))
            entry['segmentation'] = {**runs, 'counts': runs['counts'].decode()}
        entries.append(entry)
    return entries
