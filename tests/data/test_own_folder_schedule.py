"""The own-folder configs take schedule, batch and picture size from the data."""

import json
import os
import warnings
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image
from torch.utils.data import DataLoader

from mmpoolformer.data.demo.scenes import DemoSettings, make_demo_data
from mmpoolformer.data.own_folder import fit_schedule

CONFIGS = Path(__file__).parents[2] / 'configs'
BOXES = 'detection/retinanet_poolformer_s12_fpn_coco_folder'
MASKS = 'detection/mask_rcnn_poolformer_s12_fpn_coco_folder'
SEGMENTS = 'segmentation/fpn_poolformer_s12_folder_40k'
CLASSES = 'classification/poolformer_s12_folder'


def load(monkeypatch: pytest.MonkeyPatch, name: str, root: Path) -> Config:
    monkeypatch.setenv('DATA_ROOT', str(root))
    return Config.fromfile(CONFIGS / f'{name}.py')


@pytest.mark.parametrize(
    ('pictures', 'epochs', 'sizes', 'expected'),
    [
        # The heads' own examples: pictures in a step, steps of an epoch, epochs.
        (205, 12, (2, 4, 8), (2, 102, 12)),
        (205, 64, (4, 8, 16), (8, 25, 64)),
        (1000, 30, (16, 32, 64, 128), (16, 62, 30)),
        # Few pictures: more epochs, and no batch larger than the data.
        (26, 12, (2, 4, 8), (2, 13, 77)),
        (5, 30, (16, 32), (4, 1, 300)),
        (1, 12, (2, 4), (2, 1, 300)),
        # Many: the largest batch, no more epochs.
        (118_000, 12, (2, 4, 8), (8, 14_750, 12)),
    ],
)
def test_schedule_fits_the_number_of_pictures(
    pictures: int, epochs: int, sizes: tuple, expected: tuple
) -> None:
    found = fit_schedule(pictures, epochs, sizes)
    assert (found.batch_size, found.steps, found.epochs) == expected
    assert found.warmup <= found.steps
    assert found.epochs // found.interval in range(12, 24)


def coco(root: Path, count: int, size: tuple[int, int]) -> None:
    images = [
        dict(id=i, file_name=f'{i}.jpg', width=size[0], height=size[1])
        for i in range(count + 3)  # three without annotation
    ]
    annotations = [
        dict(id=i, image_id=i, category_id=1, bbox=[1, 1, 9, 9], area=81, iscrowd=0)
        for i in range(count)
    ]
    content = dict(
        images=images, annotations=annotations, categories=[dict(id=1, name='a')]
    )
    (root / 'annotations').mkdir(parents=True)
    for part in ('train', 'val'):
        (root / 'annotations' / f'{part}.json').write_text(json.dumps(content))


@pytest.mark.parametrize('name', [BOXES, MASKS])
@pytest.mark.parametrize(
    ('size', 'scale'), [((640, 480), (640, 480)), ((3000, 4000), (1333, 800))]
)
def test_detection_takes_its_schedule_from_the_file(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    size: tuple,
    scale: tuple,
) -> None:
    coco(tmp_path, 205, size)
    config = load(monkeypatch, name, tmp_path)
    assert config.train_cfg.max_epochs == 12
    warmup, decay = config.param_scheduler
    assert warmup.end == 100 and not warmup.by_epoch
    assert decay.end == decay.T_max == 12
    loader = config.train_dataloader
    # So that one GPU's batch leaves the rate as it is.
    assert loader.batch_size == config.auto_scale_lr.base_batch_size == 2
    pipelines = (loader.dataset.pipeline, config.val_dataloader.dataset.pipeline)
    for pipeline in pipelines:
        assert [s.scale for s in pipeline if s.type == 'Resize'] == [scale]
        masks = [s.get('with_mask') for s in pipeline if s.type == 'LoadAnnotations']
        assert masks == [True if name == MASKS else None]
    assert ('segm' in config.val_evaluator.metric) == (name == MASKS)
    assert config.model.type == ('MaskRCNN' if name == MASKS else 'RetinaNet')


def test_segmentation_takes_its_crop_from_the_pictures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for part in ('training', 'validation'):
        (tmp_path / 'images' / part).mkdir(parents=True)
        for i in range(6):
            picture = Image.new('RGB', (300, 230))
            picture.save(tmp_path / 'images' / part / f'{i}.jpg')
    (tmp_path / 'classes.txt').write_text('wall\nfloor\n')
    config = load(monkeypatch, SEGMENTS, tmp_path)
    side = 224  # the multiple of 32 below 230
    assert config.model.data_preprocessor.size == (side, side)
    resize, crop = config.train_dataloader.dataset.pipeline[3:5]
    assert (resize.scale, crop.crop_size) == ((4 * side, side), (side, side))
    assert config.val_dataloader.dataset.pipeline[1].scale == (4 * side, side)
    assert config.train_cfg.max_iters == config.param_scheduler[-1].end == 300
    assert config.train_dataloader.batch_size == 4


@pytest.fixture(scope='module')
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('demo') / 'demo'
    settings = DemoSettings(train=12, val=6, size=96)
    make_demo_data(root, settings, workers=1, progress=False)
    return root


@pytest.mark.parametrize(
    ('name', 'task'), [(SEGMENTS, 'segmentation'), (CLASSES, 'classification')]
)
def test_torch_agrees_with_the_number_of_reading_processes(
    monkeypatch: pytest.MonkeyPatch, demo: Path, name: str, task: str
) -> None:
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: {0, 1})
    config = load(monkeypatch, name, demo / task)
    for part in ('train_dataloader', 'val_dataloader'):
        assert config[part].num_workers == 2
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            DataLoader(range(2), num_workers=config[part].num_workers)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'task'),
    [
        (BOXES, 'detection'),
        (MASKS, 'detection'),
        (SEGMENTS, 'segmentation'),
        (CLASSES, 'classification'),
    ],
)
def test_demo_data_is_read_as_it_stands(
    monkeypatch: pytest.MonkeyPatch, demo: Path, name: str, task: str
) -> None:
    config = load(monkeypatch, name, demo / task)
    # What a work dir keeps of it says all, without the folder.
    kept = Config.fromstring(config.pretty_text, '.py')
    assert kept.to_dict() == config.to_dict()
    for part, split in (('train_dataloader', 'train'), ('val_dataloader', 'val')):
        with DefaultScope.overwrite_default_scope(config.default_scope):
            dataset = DATASETS.build(config[part].dataset)
        item = dataset[0]
        sample = item.get('data_samples')
        path = sample.img_path if sample is not None else item['img_path']
        assert f'/{split}' in path and Path(path).is_file()
        assert min(item['inputs'].shape[-2:]) >= 64
