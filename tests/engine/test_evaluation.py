"""COCO's metrics of some of the pictures, and without detections, by pycocotools."""

import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('mmdet')

from mmdet.evaluation import CocoMetric, LVISMetric
from mmdet.evaluation.metrics import lvis_metric
from mmengine.evaluator import Evaluator
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmpoolformer.engine.evaluation import (
    check_categories,
    count_run_pictures,
    faster,
)
from mmpoolformer.utils.errors import UserError

CLASSES = ('box', 'disc')
PICTURES, SIDE = 12, 100


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Write a file of pictures with three objects each."""
    rng = np.random.default_rng(0)
    objects = [
        dict(
            id=1 + 3 * image + i,
            image_id=image,
            category_id=int(rng.integers(2)),
            bbox=[float(x) for x in (*rng.uniform(0, 60, 2), *rng.uniform(10, 40, 2))],
            iscrowd=0,
        )
        for image in range(PICTURES)
        for i in range(3)
    ]
    for one in objects:
        one['area'] = one['bbox'][2] * one['bbox'][3]
    images = [dict(id=i, width=SIDE, height=SIDE) for i in range(PICTURES)]
    categories = [dict(id=i, name=name) for i, name in enumerate(CLASSES)]
    path = tmp_path / 'truth.json'
    parts = dict(images=images, annotations=objects, categories=categories)
    path.write_text(json.dumps(parts))
    return path


def detections(truth: Path, images: Sequence[int]) -> list[dict]:
    """Shake the objects of some pictures a little."""
    rng = np.random.default_rng(1)
    found = []
    for one in json.loads(truth.read_text())['annotations']:
        if one['image_id'] in images:
            box = (np.array(one['bbox']) + rng.normal(0, 2, 4)).round(3).tolist()
            found.append({**one, 'bbox': box, 'score': float(rng.uniform())})
    return found


def sample(image: int, found: list[dict], truth: Path) -> dict:
    own = [one for one in found if one['image_id'] == image]
    boxes = torch.tensor([one['bbox'] for one in own], dtype=torch.float64)
    boxes = boxes.reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    known = json.loads(truth.read_text())['annotations']
    instances = []
    for one in known:
        x, y, w, h = one['bbox']
        if one['image_id'] == image:
            label = one['category_id']
            instances.append(dict(bbox=[x, y, x + w, y + h], bbox_label=label))
    return dict(
        img_id=image,
        ori_shape=(SIDE, SIDE),
        instances=instances,
        pred_instances=dict(
            bboxes=boxes,
            scores=torch.tensor([one['score'] for one in own]),
            labels=torch.tensor([one['category_id'] for one in own]).long(),
        ),
    )


def measured(
    truth: Path,
    found: list[dict],
    images: Sequence[int],
    kind: type = CocoMetric,
    **given: object,
) -> dict:
    evaluator = Evaluator(kind(**{'ann_file': str(truth), **given}))
    evaluator.dataset_meta = {'classes': CLASSES}
    count_run_pictures(evaluator)
    evaluator.process([sample(i, found, truth) for i in images])
    return evaluator.evaluate(len(images))


def by_pycocotools(
    truth: Path,
    found: list[dict],
    images: Sequence[int],
    categories: Sequence[int] = range(len(CLASSES)),
) -> float:
    api = COCO(str(truth))
    evaluation = COCOeval(api, api.loadRes(deepcopy(found)), 'bbox')
    evaluation.params.imgIds, evaluation.params.catIds = list(images), list(categories)
    evaluation.params.maxDets = [100, 300, 1000]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[0]


def crowded_scenes(seed: int) -> tuple[dict, list[dict]]:
    """Objects of all sizes, some of them crowds, and detections near and far."""
    rng = np.random.default_rng(seed)
    sides = np.exp(rng.uniform(1.5, 5.5, (150, 2)))
    boxes = np.concatenate([rng.uniform(0, 400, (150, 2)), sides], axis=1).round(2)
    images, classes = rng.integers(12, size=150), rng.integers(3, size=150)
    objects, found = [], []
    for number, (box, image, label) in enumerate(
        zip(boxes.tolist(), images.tolist(), classes.tolist(), strict=True), 1
    ):
        x, y, w, h = box
        outline = [[x, y, x + w, y, x + w, y + h]]
        own = dict(image_id=image, category_id=5 * label + 1, bbox=box)
        crowd = int(rng.random() < 0.1)
        area = w * h * rng.uniform(0.5, 1)
        objects.append(
            dict(id=number, area=area, iscrowd=crowd, segmentation=outline, **own)
        )
        for _ in range(rng.integers(4)):
            moved = (np.array(box) * rng.uniform(0.95, 1.05, 4)).round(2).tolist()
            x, y, w, h = moved
            other = label if rng.random() < 0.7 else int(rng.integers(3))
            own = own | {'bbox': moved, 'category_id': 5 * other + 1}
            (mask,) = masks.frPyObjects([[x, y, x + w, y, x + w, y + h]], 800, 800)
            score = round(float(rng.random()), 1)  # many of the same
            found.append(dict(score=score, segmentation=mask, **own))
    pictures = [dict(id=i, width=800, height=800) for i in range(12)]
    kinds = [dict(id=5 * label + 1, name=str(label)) for label in range(3)]
    return dict(images=pictures, categories=kinds, annotations=objects), found


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('kind', ['bbox', 'segm', 'proposal'])
def test_the_faster_evaluation_is_that_of_pycocotools(kind: str, seed: int) -> None:
    pytest.importorskip('faster_coco_eval')
    truth, found = crowded_scenes(seed)
    if kind == 'segm':
        found = [{k: v for k, v in one.items() if k != 'bbox'} for one in found]
    else:
        found = [{k: v for k, v in one.items() if k != 'segmentation'} for one in found]
    api, evaluations = COCO(), []
    api.dataset = truth
    api.createIndex()
    for make in (COCOeval, faster(COCOeval)):
        seen = api.loadRes(deepcopy(found))  # which gets boxes and areas
        one = make(api, seen, 'segm' if kind == 'segm' else 'bbox')
        one.params.maxDets = [100, 300, 1000]
        one.params.useCats = int(kind != 'proposal')
        one.evaluate()
        one.accumulate()
        one.summarize()
        evaluations.append(one)
    ours, theirs = evaluations[1], evaluations[0]
    assert type(ours) is not type(theirs)
    assert theirs.stats[0] > 0.01
    np.testing.assert_allclose(ours.stats[:12], theirs.stats, rtol=0, atol=1e-15)
    for name in ('precision', 'recall', 'scores'):
        expected = theirs.eval[name]
        np.testing.assert_allclose(ours.eval[name], expected, rtol=0, atol=1e-15)


def test_other_ids_than_whole_numbers_are_evaluated_by_pycocotools() -> None:
    truth, found = crowded_scenes(0)
    for one in [*truth['annotations'], *found]:
        one['image_id'] = f'{one["image_id"]}.jpg'
    truth['images'] = [{**one, 'id': f'{one["id"]}.jpg'} for one in truth['images']]
    api = COCO()
    api.dataset = truth
    api.createIndex()
    assert type(faster(COCOeval)(api, api.loadRes(found), 'bbox')) is COCOeval


@pytest.mark.parametrize('images', [range(5), (7, 3, 11), range(PICTURES)])
@pytest.mark.parametrize('has_file', [True, False])
def test_pictures_that_were_not_run_do_not_count(truth, images, has_file) -> None:
    found = detections(truth, images)
    given = {} if has_file else {'ann_file': None}
    score = measured(truth, found, images, **given)['coco/bbox_mAP']
    assert 0.2 < score < 0.9
    assert score == pytest.approx(by_pycocotools(truth, found, images), abs=6e-4)


def test_figures_of_classes_have_their_own_names(truth: Path) -> None:
    content = json.loads(truth.read_text())
    content['categories'].reverse()  # disc, of id 1, first
    truth.write_text(json.dumps(content))
    found = detections(truth, range(PICTURES))
    found = [one for one in found if one['category_id'] == 0 or one['id'] % 2]
    expected = {
        name: by_pycocotools(truth, found, range(PICTURES), [number])
        for number, name in enumerate(CLASSES)
    }
    assert expected['box'] > expected['disc'] + 0.1
    # The data set's labels follow the file.
    labelled = [{**one, 'category_id': 1 - one['category_id']} for one in found]
    metrics = measured(truth, labelled, range(PICTURES), classwise=True)
    for name in CLASSES:
        score = metrics[f'coco/{name}_precision']
        assert score == pytest.approx(expected[name], abs=6e-4)
    assert next(iter(metrics)) == 'coco/bbox_mAP'


@pytest.mark.parametrize('levels', [0.5, [0.5], [0.5, 0.75]])
def test_levels_of_iou_are_numbers_or_lists(truth: Path, levels: object) -> None:
    found = detections(truth, range(PICTURES))
    every = measured(truth, found, range(PICTURES))
    some = measured(truth, found, range(PICTURES), iou_thrs=levels)
    known = [every[f'coco/bbox_mAP_{n}'] for n in (50, 75)][: np.size(levels)]
    assert some['coco/bbox_mAP'] == pytest.approx(np.mean(known), abs=1e-3)
    assert some['coco/bbox_mAP_50'] == every['coco/bbox_mAP_50'] > 0.5


@pytest.mark.parametrize('has_file', [True, False])
def test_no_detection_is_an_ap_of_0(truth: Path, has_file: bool) -> None:
    given = {} if has_file else {'ann_file': None}
    metrics = measured(truth, [], range(5), classwise=True, **given)
    assert metrics['coco/bbox_mAP'] == metrics['coco/bbox_mAP_50'] == 0
    assert metrics['coco/box_precision'] == metrics['coco/disc_precision'] == 0
    far = [dict(image_id=0, category_id=0, bbox=[90, 90, 1, 1], score=0.5)]
    assert metrics == measured(truth, far, range(5), classwise=True, **given)


@pytest.mark.parametrize('first', [0, 1, -3, '0'])
def test_perfect_detections_have_an_ap_of_1(truth: Path, first: int | str) -> None:
    content = json.loads(truth.read_text())
    for number, one in enumerate(content['annotations'], int(first)):
        one['id'] = type(first)(number)
    truth.write_text(json.dumps(content))
    exact = [{**one, 'score': 1.0} for one in content['annotations']]
    metrics = measured(truth, exact, range(PICTURES), classwise=True)
    assert metrics['coco/bbox_mAP'] == metrics['coco/box_precision'] == 1


@pytest.mark.parametrize('kinds', [['bbox'], ['bbox', 'segm'], ['proposal']])
def test_lvis_without_detections_has_its_numbers_too(truth, kinds, monkeypatch) -> None:
    # The package lvis need not be there; it gives an IndexError then.
    def results(*_: object) -> None:
        [][0]

    class Truth:
        def __init__(self, path: str) -> None: ...

        def get_cat_ids(self) -> list[int]:
            return [0, 1]

    monkeypatch.setattr(lvis_metric, 'lvis', object())
    monkeypatch.setattr(lvis_metric, 'LVIS', Truth, raising=False)
    monkeypatch.setattr(lvis_metric, 'LVISResults', results)
    found = measured(truth, [], range(5), kind=LVISMetric, metric=kinds)
    names = {'AR@300'} if kinds == ['proposal'] else {f'{kind}_AP50' for kind in kinds}
    assert {f'lvis/{name}' for name in names} <= found.keys()
    assert set(found.values()) == {0}


def test_recall_of_proposals_of_some_pictures(truth: Path) -> None:
    images = (7, 3)
    metric = dict(metric='proposal_fast')
    exact = [
        {**one, 'score': 1.0}
        for one in json.loads(truth.read_text())['annotations']
        if one['image_id'] in images
    ]
    assert measured(truth, exact, images, **metric)['coco/AR@100'] == 1


def test_pictures_of_another_file_are_refused(truth: Path) -> None:
    with pytest.raises(UserError, match=r'no picture of id 99.*val_evaluator\.ann'):
        measured(truth, [], (99,))


def test_masks_of_a_model_that_finds_none_are_refused(truth: Path) -> None:
    found = detections(truth, range(5))
    with pytest.raises(UserError, match=r"\['bbox', 'segm'\] needs masks, .*'bbox'"):
        measured(truth, found, range(5), metric=['bbox', 'segm'])


def test_pictures_of_one_id_are_refused(truth: Path) -> None:
    found = detections(truth, range(5))
    with pytest.raises(UserError, match='several pictures of the data have the id 3,'):
        measured(truth, found, (1, 3, 4, 3))


@pytest.mark.parametrize('classes', [('disc', 'box'), ('box', 'ring'), ('ring',)])
def test_categories_in_another_order_are_refused(truth: Path, classes: tuple) -> None:
    for metric in ('bbox', 'proposal'):
        evaluator = Evaluator(CocoMetric(ann_file=str(truth), metric=metric))
        evaluator.dataset_meta = {'classes': CLASSES}
        check_categories(evaluator)
        evaluator.dataset_meta = {'classes': classes}
        if metric == 'proposal':  # without classes
            check_categories(evaluator)
            continue
        with pytest.raises(UserError, match=f'of the classes {", ".join(classes)} its'):
            check_categories(evaluator)
