import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tiny_data import COUNTS
from torchvision.ops import box_iou

from mmpoolformer.visual.drawing import (
    detections_from_instances,
    draw_detections,
    draw_segmentation,
)

pytestmark = pytest.mark.slow
KEYS = ('bboxes', 'scores', 'labels')


def results(tested: SimpleNamespace, name: str, checkpoint: str) -> dict:
    path = tested.out / f'work_{name}' / f'results_{checkpoint}.json'
    assert f'results: {path}' in tested.runs[name]['out']
    return json.loads(path.read_text())


def predictions(tested: SimpleNamespace, name: str) -> list[dict]:
    with (tested.out / f'{name}.pkl').open('rb') as file:
        return pickle.load(file)


@pytest.mark.parametrize(
    ('name', 'checkpoint'), [('det', 'epoch_10'), ('seg', 'iter_4')]
)
def test_metrics_equal_those_of_the_training(
    trained: SimpleNamespace, tested: SimpleNamespace, name: str, checkpoint: str
) -> None:
    found = results(tested, name, checkpoint)
    kept = json.loads((getattr(trained, name) / 'val_results.json').read_text())
    assert found['metrics'] == kept[-1]['metrics']
    assert found['checkpoint'].endswith(f'{checkpoint}.pth')


def test_detections_equal_pycocotools(
    tiny: SimpleNamespace, tested: SimpleNamespace
) -> None:
    found = []
    for sample in predictions(tested, 'det'):
        instances = sample['pred_instances']
        boxes = instances['bboxes'].numpy().astype(float)
        boxes[:, 2:] -= boxes[:, :2]
        for box, score, label in zip(
            boxes, instances['scores'], instances['labels'], strict=True
        ):
            found.append(
                dict(
                    image_id=sample['img_id'],
                    category_id=int(label) + 1,
                    bbox=box.tolist(),
                    score=float(score),
                )
            )
    truth = COCO(str(tiny.data / 'val.json'))
    evaluation = COCOeval(truth, truth.loadRes(found), 'bbox')
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    metrics = results(tested, 'det', 'epoch_10')['metrics']
    assert metrics['coco/bbox_mAP'] > 0.1  # else equality would say little
    # mmdet rounds to three digits.
    for name, value in zip(('mAP', 'mAP_50', 'mAP_75'), evaluation.stats, strict=False):
        assert metrics[f'coco/bbox_{name}'] == pytest.approx(value, abs=6e-4)
    check_classes(results(tested, 'det', 'epoch_10')['per_class'], evaluation)


def check_classes(tables: dict, evaluation: COCOeval) -> None:
    """Compare figures of each class with evaluations of that class alone."""
    assert [row['class'] for row in tables['bbox']] == ['square', 'disc']
    assert list(tables) == ['bbox']
    for number, row in enumerate(tables['bbox'], 1):
        alone = COCOeval(evaluation.cocoGt, evaluation.cocoDt, 'bbox')
        alone.params.catIds = [number]
        alone.evaluate()
        alone.accumulate()
        alone.summarize()
        assert row['objects'] == COUNTS['val']
        expected = alone.stats[[0, 1, 8]]
        assert [row['AP'], row['AP50'], row['AR']] == pytest.approx(expected, abs=6e-4)


def test_label_maps_equal_a_count_of_pixels(
    tiny: SimpleNamespace, tested: SimpleNamespace
) -> None:
    counts = np.zeros((3, 3))
    dumped = predictions(tested, 'seg')
    assert len(dumped) == COUNTS['val']
    for sample in dumped:
        path = sample['img_path'].replace('images', 'annotations')
        truth = np.asarray(Image.open(path)).astype(int) - 1
        labels = sample['pred_sem_seg']['data'].numpy()[0]
        np.add.at(counts, (truth, labels), 1)
    hits = np.diag(counts)
    unions = counts.sum(0) + counts.sum(1) - hits
    metrics = results(tested, 'seg', 'iter_4')['metrics']
    assert metrics['mIoU'] == pytest.approx(100 * np.mean(hits / unions), abs=6e-3)
    assert metrics['aAcc'] == pytest.approx(100 * hits.sum() / counts.sum(), abs=6e-3)
    rows = results(tested, 'seg', 'iter_4')['per_class']['pixels']
    assert [row['class'] for row in rows] == ['square', 'disc', 'background']
    ious = [row['IoU'] for row in rows]
    assert ious == pytest.approx(100 * hits / unions, abs=6e-3)
    recalls = [row['Acc'] for row in rows]
    assert recalls == pytest.approx(100 * hits / counts.sum(1), abs=6e-3)


@pytest.mark.parametrize('name', ['det', 'seg'])
def test_pictures_hold_truth_beside_prediction(
    tested: SimpleNamespace, name: str
) -> None:
    pictures = sorted((tested.out / name).iterdir())
    assert [p.name for p in pictures] == [f'{i:03d}.png' for i in range(COUNTS['val'])]
    for picture in pictures:
        image = np.asarray(Image.open(picture))
        assert image.shape[1:] == (128, 3)
        assert (image.shape[0] > 64) == (name == 'seg')  # a legend below
        assert not np.array_equal(image[:64, :64], image[:64, 64:])


def test_boxes_are_drawn_like_those_of_other_commands(
    tested: SimpleNamespace,
) -> None:
    found = predictions(tested, 'det')[0]
    name = Path(found['img_path']).stem
    assert (found['pred_instances']['scores'] >= 0.3).any()
    picture = np.asarray(Image.open(tested.out / 'det' / f'{name}.png'))
    expected = draw_detections(
        np.asarray(Image.open(found['img_path'])),
        detections_from_instances(SimpleNamespace(**found['pred_instances'])).above(
            0.3
        ),
        ('square', 'disc'),
    )
    assert np.array_equal(picture[:, 64:], expected)


def test_regions_are_drawn_like_those_of_other_commands(
    tested: SimpleNamespace,
) -> None:
    found = predictions(tested, 'seg')[0]
    picture = np.asarray(
        Image.open(tested.out / 'seg' / f'{Path(found["img_path"]).stem}.png')
    )
    image = np.asarray(Image.open(found['img_path']))
    palette = np.array([[230, 40, 40], [40, 60, 230], [99, 99, 99]], dtype=np.uint8)
    truth = Image.open(found['img_path'].replace('images', 'annotations'))
    sides = np.asarray(truth).astype(int) - 1, found['pred_sem_seg']['data'].numpy()[0]
    for place, labels in enumerate(sides):
        expected = draw_segmentation(image, labels, palette)
        assert np.array_equal(picture[:64, 64 * place : 64 * (place + 1)], expected)


def test_released_files_with_old_names_give_the_same_metrics(
    tested: SimpleNamespace,
) -> None:
    renamed = results(tested, 'det_old', 'released')
    assert renamed['metrics'] == results(tested, 'det', 'epoch_10')['metrics']


def test_a_detector_in_bfloat16_finds_the_same(tested: SimpleNamespace) -> None:
    low = results(tested, 'det_bf16', 'epoch_10_optimized_bf16')
    full = results(tested, 'det', 'epoch_10')
    for name in ('mAP', 'mAP_50'):
        expected = full['metrics'][f'coco/bbox_{name}']
        assert low['metrics'][f'coco/bbox_{name}'] == pytest.approx(expected, abs=0.02)
    pairs = zip(
        predictions(tested, 'det_bf16'), predictions(tested, 'det'), strict=True
    )
    for ours, theirs in pairs:
        found, expected = ours['pred_instances'], theirs['pred_instances']
        assert {t.dtype for t in (found['bboxes'], found['scores'])} == {torch.float32}
        for box, score, label in zip(*map(expected.get, KEYS), strict=True):
            if score > 0.3:  # of less sure neighbours the other may win
                near = box_iou(found['bboxes'], box[None])[:, 0] > 0.95
                near &= (found['scores'] - score).abs() < 0.03
                assert (near & (found['labels'] == label)).any()


def test_a_segmentor_in_bfloat16_finds_the_same(tested: SimpleNamespace) -> None:
    low = results(tested, 'seg_bf16', 'iter_4_optimized_bf16')
    full = results(tested, 'seg', 'iter_4')
    for name in ('mIoU', 'aAcc'):
        assert low['metrics'][name] == pytest.approx(full['metrics'][name], abs=2)
    pairs = zip(
        predictions(tested, 'seg_bf16'), predictions(tested, 'seg'), strict=True
    )
    for ours, theirs in pairs:
        same = ours['pred_sem_seg']['data'] == theirs['pred_sem_seg']['data']
        assert same.float().mean() > 0.97


def test_augmented_metrics(tested: SimpleNamespace) -> None:
    detection = results(tested, 'det_tta', 'epoch_10_tta')
    segmentation = results(tested, 'seg_tta', 'iter_4_tta')
    plain = results(tested, 'det', 'epoch_10')
    assert detection['tta'] and not plain['tta']
    assert detection['metrics']['coco/bbox_mAP'] > 0.1
    assert 0 < segmentation['metrics']['mIoU'] < 100


def test_augmented_boxes_are_those_of_both_views(tested: SimpleNamespace) -> None:
    pairs = zip(predictions(tested, 'det'), predictions(tested, 'det_tta'), strict=True)
    for plain, augmented in pairs:
        own, merged = (
            set(p['pred_instances']['scores'].tolist()) for p in (plain, augmented)
        )
        assert own & merged  # of the picture as it is
        assert merged - own  # of the mirrored one
