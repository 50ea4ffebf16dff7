"""What documented commands find where they are run: data, pictures, weights.

All of it is generated, in the layouts that the documentation describes, and made when
the first command speaks of it.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import timm
import torch
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from PIL import Image
from random_weights import randomised
from tiny_data import (
    ADE_NAMES,
    CLASSES,
    ROOT,
    write_classes,
    write_data,
    write_detection_config,
    write_segmentation_config,
)

from mmpoolformer import create_model, list_models
from mmpoolformer.checkpoints import convert_file
from mmpoolformer.checkpoints.download import _file_name
from mmpoolformer.checkpoints.zoo import ZOO
from mmpoolformer.engine.hooks.times import PARTS
from mmpoolformer.models.from_config import build_from_config

COUNTS = {'train': 4, 'val': 2}
ADE = 'data/ade/ADEChallengeData2016'
INSECTS = ('ant', 'bee')
SYNSETS = ('n01440764', 'n01443537', 'n01484850', 'n01491361')
RETINANET = 'configs/detection/retinanet_poolformer_s12_fpn_1x_coco.py'
SEGMENTOR = 'configs/segmentation/fpn_poolformer_s12_ade20k_40k.py'
CLASSIFIER = 'configs/classification/poolformer_s12_8xb128_in1k.py'


class Place:
    """A folder from which the others borrow.

    Args:
        folder: Where files are made, once each.
        bash: Runs a line in a folder, for what only a tool makes.
    """

    def __init__(self, folder: Path, bash: Callable[[str, Path], object]) -> None:
        self.folder, self.bash = folder, bash
        _link(folder)

    def run(self, line: str) -> None:
        """Run a line that makes something here."""
        self.bash(line, self.folder)

    def furnish(self, here: Path, line: str) -> None:
        """Give a folder all that a command line speaks of."""
        _link(here)
        for pattern, names, make in GIVEN:
            if re.search(pattern, line):
                kept = self.folder / names[0]
                if not kept.exists():
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    make(self, kept)
                for name in names:
                    _lend(kept, here / name)


def _link(here: Path) -> None:
    for name in ('Makefile', 'configs', 'docs', 'mmpoolformer', 'tools'):
        (here / name).symlink_to(ROOT / name)


def _lend(kept: Path, lent: Path) -> None:
    lent.parent.mkdir(parents=True, exist_ok=True)
    # Work dirs are written into, the rest is looked at.
    if kept.is_dir() and 'work_dirs' in lent.parts:
        shutil.copytree(kept, lent, symlinks=True)
    else:
        lent.symlink_to(kept)


def _base(place: Place, folder: Path) -> None:
    write_data(folder)


def _draw(place: Place, split: str, number: int, path: Path) -> None:
    """Save a generated picture as JPEG; its labels as PNG beside `annotations`."""
    source = place.folder / 'base' / 'images' / ADE_NAMES[split] / f'{number:03d}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(source).save(path, quality=95)


def _labels(place: Place, split: str, number: int, path: Path) -> None:
    folder = place.folder / 'base' / 'annotations' / ADE_NAMES[split]
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / f'{number:03d}.png', path)


def _boxes(place: Place, split: str, path: Path, name: str, classes: tuple) -> None:
    """Write COCO's annotations of the first pictures; `name` is of their files."""
    content = json.loads((place.folder / 'base' / f'{split}.json').read_text())
    images = content['images'][: COUNTS[split]]
    for image in images:
        image['file_name'] = name.format(image['id'])
    ids = {image['id'] for image in images}
    boxes = [a for a in content['annotations'] if a['image_id'] in ids]
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(classes)]
    path.parent.mkdir(parents=True, exist_ok=True)
    content |= dict(images=images, annotations=boxes, categories=categories)
    path.write_text(json.dumps(content))


def _coco(place: Place, folder: Path) -> None:
    for split, count in COUNTS.items():
        names = CocoDataset.METAINFO['classes']
        annotations = folder / 'annotations' / f'instances_{split}2017.json'
        _boxes(place, split, annotations, '{:012d}.jpg', names)
        for i in range(count):
            _draw(place, split, i, folder / f'{split}2017' / f'{i:012d}.jpg')


def _ade(place: Place, folder: Path) -> None:
    for split, count in COUNTS.items():
        name = ADE_NAMES[split]
        for i in range(count):
            _draw(place, split, i, folder / 'images' / name / f'{i}.jpg')
            _labels(place, split, i, folder / 'annotations' / name / f'{i}.png')


def _imagenet(place: Place, folder: Path) -> None:
    for split in COUNTS:
        write_classes(folder / split, SYNSETS, count=2)


def _mine(place: Place, folder: Path) -> None:
    """Write all three layouts into one folder."""
    _ade(place, folder)
    (folder / 'classes.txt').write_text('square\ndisc\nbackground\n')
    for split in COUNTS:
        path = folder / 'annotations' / f'{split}.json'
        _boxes(place, split, path, ADE_NAMES[split] + '/{}.jpg', CLASSES)
        write_classes(folder / split, INSECTS, count=2)
    shutil.copy(folder / 'annotations/train.json', folder / 'annotations/mine.json')


def _demo(place: Place, folder: Path) -> None:
    size = '--train 12 --val 6 --size 64 --workers 1'
    place.run(f'python tools/make_demo_data.py --out {folder} {size}')


def _photos(place: Place, folder: Path) -> None:
    for i in range(3):
        _draw(place, 'val', i, folder / f'{i}.jpg')
    _draw(place, 'val', 3, folder / 'deep' / '3.png')


def _truth(place: Place, path: Path) -> None:
    names = ('0.jpg', '1.jpg', '2.jpg', 'deep/3.png')
    images = [dict(id=2 * i, file_name=name) for i, name in enumerate(names)]
    categories = [dict(id=2 * i, name=name) for i, name in enumerate(CLASSES)]
    path.write_text(json.dumps(dict(images=images, categories=categories)))


def _results(place: Place, path: Path) -> None:
    content = json.loads((place.folder / 'base' / 'val.json').read_text())
    keys = ('image_id', 'category_id', 'bbox')
    boxes = [{key: one[key] for key in keys} for one in content['annotations']]
    path.write_text(json.dumps([{**box, 'score': 0.9} for box in boxes]))


def _photo(place: Place, path: Path) -> None:
    _draw(place, 'val', 4, path)


def _video(place: Place, path: Path) -> None:
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), 5, (80, 48))
    for i in range(3):
        frame = np.full((48, 80, 3), 30, np.uint8)
        frame[10:30, 5 + 6 * i : 30 + 6 * i] = (20, 160, 250)
        video.write(frame)
    video.release()


def _config(place: Place, path: Path) -> None:
    write_detection_config(path, place.folder / 'base')


def _segmentation_config(place: Place, path: Path) -> None:
    write_segmentation_config(path, place.folder / 'base')


def _run(place: Place, folder: Path) -> None:
    """Train for an epoch, for curves and a checkpoint."""
    more = '--cfg-options train_cfg.max_epochs=2 train_dataloader.dataset.indices=8'
    place.run(f'python tools/train.py config.py --work-dir {folder} {more}')


def _checkpoint(place: Place, path: Path) -> None:
    path.symlink_to(place.folder / 'work_dirs' / 'a' / 'epoch_2.pth')


def _report(place: Place, path: Path) -> None:
    rows = [{'class': name, 'objects': 7, 'box AP': 0.5} for name in CLASSES]
    path.write_text(json.dumps({'per_class': rows}))


def _quickstart(place: Place, folder: Path) -> None:
    """Leave what `make quickstart` leaves: config, checkpoint and its name."""
    folder.mkdir()
    _config(place, folder / 'demo_retinanet_poolformer_s12.py')
    _checkpoint(place, folder / 'epoch_2.pth')
    (folder / 'last_checkpoint').write_text(str(folder / 'epoch_2.pth'))


def _integer_box(config: str, **options: object) -> Callable[[Place, Path], None]:
    """Return what saves a model of a config with random weights."""

    def make(place: Place, path: Path) -> None:
        settings = Config.fromfile(place.folder / config)
        settings.merge_from_dict({'model.backbone.init_cfg': None, **options})
        model = randomised(build_from_config(settings))
        torch.save({'state_dict': model.state_dict()}, path)

    return make


def _named(
    name: str, classes: int = 1000, **meta: object
) -> Callable[[Place, Path], None]:
    """Return what saves a classifier, of the package or of timm."""

    def make(place: Place, path: Path) -> None:
        build = create_model if name in list_models() else timm.create_model
        model = randomised(build(name, num_classes=classes))
        torch.save({'state_dict': model.state_dict(), 'meta': meta}, path)

    return make


def _hub_file(place: Place, path: Path) -> None:
    _named('caformer_s18')(place, path)
    main = place.folder / HUB / 'refs' / 'main'
    main.parent.mkdir(parents=True)
    main.write_text(COMMIT)


def _several(place: Place, path: Path) -> None:
    weights = create_model('poolformer_s12').state_dict()
    torch.save({'student': weights, 'teacher': weights}, path)


def _paddle(place: Place, path: Path) -> None:
    source = path.with_suffix('.pth')
    _named('pit_ti')(place, source)
    convert_file(source, path, 'paddle')


def _onnx(model: str, checkpoint: str) -> Callable[[Place, Path], None]:
    def make(place: Place, path: Path) -> None:
        words = f'{model} --checkpoint {checkpoint} --out {path}'
        place.run(f'python tools/export.py {words}')

    return make


S12 = 'poolformer_s12.pth.tar'
HUB = 'cache/huggingface/models--sail--dl'  # as huggingface-hub lays it out
COMMIT = 'c' * 40
CACHED = {
    'poolformer_s12': f'cache/{_file_name(ZOO["poolformer_s12"].url)}',
    'caformer_s18': f'{HUB}/snapshots/{COMMIT}/caformer/caformer_s18.pth',
}
EPOCH_12 = tuple(
    f'{folder}epoch_12.pth'
    for folder in (
        'work_dirs/retinanet_poolformer_s12_fpn_1x_coco/',
        *('', 'work_dirs/NAME/', 'work_dirs/s36/', 'work_dirs/x/'),
    )
)
PICTURES = tuple(f'{name}.jpg' for name in ('a', 'cat', 'dog', 'shoe', 'street'))
FEW = {'model.backbone.num_classes': len(SYNSETS)}
QUICKSTART = r'tools/demo\.py(?! \w)'
TINY = rf'onnx_|\bconfig\.py|work_dirs/[ab]\b|\bcheckpoint\.pth|{QUICKSTART}'


# Which words of a command line call for which files, and what makes the first of them.
# Something may need what stands before it.
def _tested(place: Place, folder: Path) -> None:
    """Write what tests of a checkpoint and of a file have found."""
    folder.mkdir()
    seconds = dict.fromkeys(PARTS, 0.01)
    for name in ('epoch_12', 'model.onnx_fp32'):
        record = {'metrics': {'mIoU': 30.0}, 'seconds_per_image': seconds}
        (folder / f'results_{name}.json').write_text(json.dumps(record))


GIVEN: list[tuple[str, tuple[str, ...], Callable[[Place, Path], None]]] = [
    ('.', ('base',), _base),
    (r'_1x_coco\.py', ('data/coco',), _coco),
    (r'_ade20k_40k\.py', (ADE,), _ade),
    (r'data/imagenet|_in1k\.py', ('data/imagenet',), _imagenet),
    ('data/mine', ('data/mine',), _mine),
    ('tested/', ('tested',), _tested),
    (r'data/demo/|/demo_', ('data/demo',), _demo),
    (r'\bphotos\b', ('photos',), _photos),
    (r'--ids val\.json', ('val.json',), _truth),
    (r'found/predictions\.json', ('found/predictions.json',), _results),
    (r'pictures/\*', ('pictures',), _photos),
    ("'b/", ('b',), _photos),
    (r'\.jpg', PICTURES, _photo),
    (r'\.mp4', ('street.mp4',), _video),
    (TINY, ('config.py',), _config),
    (TINY, ('work_dirs/a', 'work_dirs/b'), _run),
    (TINY, ('checkpoint.pth', 'work_dirs/s12/epoch_12.pth'), _checkpoint),
    (r'segmentation\.py', ('segmentation.py',), _segmentation_config),
    (r'segmentor\.pth', ('segmentor.pth',), _integer_box('segmentation.py')),
    (r'fpn_s12\.pth', ('fpn_s12.pth',), _integer_box(SEGMENTOR)),
    (r'before/report\.json', ('before/report.json',), _report),
    (QUICKSTART, ('work_dirs/quickstart',), _quickstart),
    (
        'poolformer_s12|weights',
        (CACHED['poolformer_s12'], S12, f'weights/{S12}'),
        _named('poolformer_s12'),
    ),
    (
        'caformer|weights',
        (CACHED['caformer_s18'], 'weights/caformer_s18.pth', 'caformer_s18.pth'),
        _hub_file,
    ),
    (
        r'epoch_3\d0',
        ('work_dirs/NAME/epoch_300.pth', 'work_dirs/NAME/epoch_310.pth'),
        _integer_box(CLASSIFIER),
    ),
    (r'few\.pth', ('few.pth',), _integer_box(CLASSIFIER, **FEW)),
    (r'epoch_12', EPOCH_12, _integer_box(RETINANET)),
    (
        r'epoch_20',
        ('work_dirs/mine/epoch_20.pth',),
        _named('poolformer_s12', 2, dataset_meta=dict(classes=('boot', 'sandal'))),
    ),
    (
        r'two\.pth',
        ('two.pth',),
        _named('poolformer_s12', 2, dataset_meta=dict(classes=INSECTS)),
    ),
    (r'r50|resnet50\.pth', ('resnet50.pth', 'r50.pth'), _named('resnet50')),
    (r'\.pdparams', ('Best_PiT.pdparams',), _paddle),
    (r'dino\.pth', ('dino.pth',), _several),
    (
        r'onnx_|(?<!--out )model\.onnx',
        ('model.onnx', 'retinanet.onnx'),
        _onnx('config.py', 'checkpoint.pth'),
    ),
    (
        r'12\.onnx',
        ('poolformer_s12.onnx',),
        _onnx('poolformer_s12', CACHED['poolformer_s12']),
    ),
]
