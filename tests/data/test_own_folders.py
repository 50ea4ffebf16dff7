"""Folders of one's own: classes are read, mistakes are named, real data loads."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmdet.evaluation import CocoMetric
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS

from mmpoolformer.data.class_names import coco_classes, seg_classes

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / 'shared' / 'data'
needs_real_data = pytest.mark.skipif(
    not REAL.is_dir(), reason='the real pictures are not on this machine'
)
COCO_CONFIG = 'detection/retinanet_poolformer_s12_fpn_coco_folder'
MASK_CONFIG = 'detection/mask_rcnn_poolformer_s12_fpn_coco_folder'
SEG_CONFIG = 'segmentation/fpn_poolformer_s12_folder_40k'


def load(monkeypatch: pytest.MonkeyPatch, name: str, root: Path) -> Config:
    monkeypatch.setenv('DATA_ROOT', str(root))
    return Config.fromfile(ROOT / 'configs' / f'{name}.py')


def build_dataset(config: Config, part: str = 'train_dataloader') -> object:
    with DefaultScope.overwrite_default_scope(config.default_scope):
        return DATASETS.build(config[part].dataset)


@pytest.fixture
def coco_root(tmp_path: Path) -> Path:
    """Three pictures; labels in an order of their own with gaps between the ids."""
    (tmp_path / 'images').mkdir()
    (tmp_path / 'annotations').mkdir()
    images = [dict(id=i, file_name=f'{i}.png', width=64, height=48) for i in (3, 5, 9)]
    for image in images:
        picture = np.full((48, 64, 3), image['id'], np.uint8)
        cv2.imwrite(str(tmp_path / 'images' / image['file_name']), picture)
    categories = [dict(id=7, name='zebra'), dict(id=2, name='ant')]
    annotations = [
        dict(id=1, image_id=3, category_id=7, bbox=[4, 4, 20, 10], area=200, iscrowd=0),
        dict(id=2, image_id=5, category_id=2, bbox=[8, 8, 12, 12], area=144, iscrowd=0),
    ]
    content = dict(images=images, categories=categories, annotations=annotations)
    for part in ('train', 'val'):
        (tmp_path / 'annotations' / f'{part}.json').write_text(json.dumps(content))
    return tmp_path


def change(root: Path, part: str, **changes: object) -> None:
    file = root / 'annotations' / f'{part}.json'
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_coco_classes_come_from_the_file(
    monkeypatch: pytest.MonkeyPatch, coco_root: Path
) -> None:
    config = load(monkeypatch, COCO_CONFIG, coco_root)
    assert config.model.bbox_head.num_classes == 2
    train = build_dataset(config)
    assert train.metainfo['classes'] == ('zebra', 'ant')
    # The picture without annotation is left out of training, not of evaluation.
    labels = {
        Path(info['img_path']).stem: [i['bbox_label'] for i in info['instances']]
        for info in (train.get_data_info(i) for i in range(len(train)))
    }
    assert labels == {'3': [0], '5': [1]}
    assert len(build_dataset(config, 'val_dataloader')) == 3


def test_mask_config_counts_classes_in_both_heads(
    monkeypatch: pytest.MonkeyPatch, coco_root: Path
) -> None:
    roi_head = load(monkeypatch, MASK_CONFIG, coco_root).model.roi_head
    assert roi_head.bbox_head.num_classes == roi_head.mask_head.num_classes == 2


def test_pictures_that_do_not_exist_are_named(
    monkeypatch: pytest.MonkeyPatch, coco_root: Path
) -> None:
    config = load(monkeypatch, COCO_CONFIG, coco_root)
    config.train_dataloader.dataset.data_prefix.img = 'pictures/'
    with pytest.raises(ValueError, match=r'3 of the 3 pictures .*pictures/3\.png'):
        build_dataset(config)


def test_no_picture_with_an_annotation_is_an_error(
    monkeypatch: pytest.MonkeyPatch, coco_root: Path
) -> None:
    change(coco_root, 'train', annotations=[])
    config = load(monkeypatch, COCO_CONFIG, coco_root)
    with pytest.raises(ValueError, match=r'none of its 3 pictures has an annotation'):
        build_dataset(config)


@pytest.mark.slow
def test_chosen_classes_must_exist(
    monkeypatch: pytest.MonkeyPatch, coco_root: Path
) -> None:
    config = load(monkeypatch, COCO_CONFIG, coco_root)
    config.train_dataloader.dataset.metainfo = dict(classes=('ant', 'bee'))
    with pytest.raises(ValueError, match=r"has no classes \['bee'\]; it has"):
        build_dataset(config)


def test_train_and_val_must_name_the_same_classes(
    monkeypatch: pytest.MonkeyPatch, coco_root: Path
) -> None:
    change(coco_root, 'val', categories=[dict(id=2, name='ant')])
    with pytest.raises(ValueError, match='name different classes'):
        load(monkeypatch, COCO_CONFIG, coco_root)


def test_missing_folder_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r'nowhere/annotations/train\.json: no such'):
        load(monkeypatch, COCO_CONFIG, tmp_path / 'nowhere')


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{"images": [', 'not a JSON file'),
        ('[]', 'has no "categories"'),
        ('{"categories": []}', 'has no "categories"'),
        (
            '{"categories": [{"name": "a"}, {"name": "a"}]}',
            r"duplicate class names \['a'\]",
        ),
    ],
)
def test_bad_annotation_files_are_named(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / 'train.json'
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        coco_classes(file)


@pytest.fixture
def seg_root(tmp_path: Path) -> Path:
    for part in ('training', 'validation'):
        for kind in ('images', 'annotations'):
            (tmp_path / kind / part).mkdir(parents=True)
        cv2.imwrite(
            str(tmp_path / 'images' / part / 'a.jpg'), np.zeros((8, 8, 3), np.uint8)
        )
        labels = np.array([[0, 1], [2, 255]], np.uint8).repeat(4, 0).repeat(4, 1)
        cv2.imwrite(str(tmp_path / 'annotations' / part / 'a.png'), labels)
    (tmp_path / 'classes.txt').write_text('wall\nfloor\n')
    return tmp_path


def test_segmentation_labels_follow_classes_txt(
    monkeypatch: pytest.MonkeyPatch, seg_root: Path
) -> None:
    config = load(monkeypatch, SEG_CONFIG, seg_root)
    assert config.model.decode_head.num_classes == 2
    dataset = build_dataset(config, 'val_dataloader')
    assert dataset.metainfo['classes'] == ('wall', 'floor')
    labels = dataset[0]['data_samples'].gt_sem_seg.data[0]
    assert labels[::4, ::4].tolist() == [[255, 0], [1, 255]]


def test_classes_txt_as_windows_writes_it(seg_root: Path) -> None:
    (seg_root / 'classes.txt').write_bytes(b'\xef\xbb\xbfwall\r\nfloor\r\n\r\n')
    classes = seg_classes(seg_root)
    assert classes.names == ('wall', 'floor') and classes.ids == (1, 2)


def test_classes_json_with_gaps_and_ignored_values(seg_root: Path) -> None:
    entries = [
        dict(id=0, name='none', ignore=True),
        dict(id=40, name='sea', color=[1, 2, 3]),
        dict(id=7, name='sky', color=[4, 5, 6]),
    ]
    (seg_root / 'classes.json').write_text(json.dumps(dict(classes=entries)))
    classes = seg_classes(seg_root)
    assert classes.names == ('sea', 'sky') and classes.ids == (40, 7)
    assert classes.ignored == (0, 255)
    assert classes.palette == ((1, 2, 3), (4, 5, 6))


def test_an_unlisted_label_value_is_named(
    monkeypatch: pytest.MonkeyPatch, seg_root: Path
) -> None:
    (seg_root / 'classes.txt').write_text('wall\n')
    dataset = build_dataset(load(monkeypatch, SEG_CONFIG, seg_root), 'val_dataloader')
    with pytest.raises(ValueError, match=r'a\.png: values \[2\] stand for no class'):
        dataset[0]


def test_coloured_annotation_is_refused() -> None:
    mapping = dict(type='mmpoolformer.MapLabels', ids=[1], ignored=[0])
    transform = MMENGINE_TRANSFORMS.build(mapping)
    results = dict(gt_seg_map=np.zeros((4, 4, 3), np.uint8), seg_map_path='a.png')
    with pytest.raises(ValueError, match=r'a\.png: shape \(4, 4, 3\)'):
        transform(results)


def test_missing_annotation_picture_is_named(
    monkeypatch: pytest.MonkeyPatch, seg_root: Path
) -> None:
    (seg_root / 'annotations' / 'training' / 'a.png').unlink()
    config = load(monkeypatch, SEG_CONFIG, seg_root)
    with pytest.raises(ValueError, match=r'1 of 1 annotation pictures .*a\.png'):
        build_dataset(config)


def test_no_picture_with_the_suffix(
    monkeypatch: pytest.MonkeyPatch, seg_root: Path
) -> None:
    monkeypatch.setenv('IMG_SUFFIX', '.tiff')
    config = load(monkeypatch, SEG_CONFIG, seg_root)
    with pytest.raises(
        ValueError, match=r'no \*\.tiff there; set img_suffix .*IMG_SUFFIX='
    ):
        build_dataset(config)


@pytest.mark.parametrize(
    ('file', 'text', 'message'),
    [
        ('classes.md', 'wall', 'neither classes.txt'),
        ('classes.txt', '', 'no class names'),
        ('classes.txt', 'wall\nwall', r"duplicate class 'wall' \(lines 1, 2\)"),
        ('classes.json', '{"classes": []}', 'at least one class'),
        ('classes.json', '{}', 'no list named "classes"'),
        ('classes.json', '{"classes": [{"id": 300, "name": "a"}]}', 'lie in 0..255'),
    ],
)
def test_bad_class_lists_are_named(
    tmp_path: Path, file: str, text: str, message: str
) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        seg_classes(tmp_path)


@needs_real_data
def test_real_detection_data(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(monkeypatch, COCO_CONFIG, REAL / 'detection-bccd')
    train, val = build_dataset(config), build_dataset(config, 'val_dataloader')
    assert (len(train), len(val)) == (205, 87)
    assert train.metainfo['classes'] == ('RBC', 'WBC', 'Platelets')
    # Ground truth given as predictions scores 1 by pycocotools: labels, boxes and
    # image ids all agree with the file.
    metric = CocoMetric(
        ann_file=str(REAL / 'detection-bccd' / 'annotations' / 'val.json'),
        metric='bbox',
    )
    metric.dataset_meta = val.metainfo
    for i in range(len(val)):
        info = val.get_data_info(i)
        boxes = np.array([box['bbox'] for box in info['instances']])
        truth = dict(
            img_id=info['img_id'],
            bboxes=boxes,
            labels=np.array([box['bbox_label'] for box in info['instances']]),
            scores=np.ones(len(boxes)),
        )
        metric.results.append((dict(img_id=info['img_id']), truth))
    assert metric.compute_metrics(metric.results)['bbox_mAP'] == pytest.approx(1.0)


@needs_real_data
def test_real_segmentation_data(monkeypatch: pytest.MonkeyPatch) -> None:
    root = REAL / 'segmentation-coco-panoptic'
    config = load(monkeypatch, SEG_CONFIG, root)
    assert config.model.decode_head.num_classes == 133
    dataset = build_dataset(config, 'val_dataloader')
    table = {
        entry['id']: entry.get('train_id', 255)
        for entry in json.loads((root / 'classes.json').read_text())['classes']
    }
    for i in range(0, len(dataset), 9):
        info = dataset.get_data_info(i)
        values = cv2.imread(info['seg_map_path'], cv2.IMREAD_UNCHANGED)
        expected = np.vectorize(table.__getitem__)(values)
        labels = dataset[i]['data_samples'].gt_sem_seg.data[0].numpy()
        np.testing.assert_array_equal(labels, expected)
