"""Accuracy and loss on a folder: the same as by timm's model, data and transform."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.data import create_dataset, create_transform, resolve_model_data_config
from tiny_data import write_classes
from torch.nn import functional as F

from mmpoolformer.classification import Accuracy
from mmpoolformer.classification.class_labels import describe_classes
from mmpoolformer.classification.evaluation import (
    Placement,
    evaluate,
    evaluation_data,
)
from mmpoolformer.classification.metric import class_ranks, topk_accuracy
from mmpoolformer.data import classification
from mmpoolformer.utils.images import PictureError

CLASSES = tuple(f'class_{i}' for i in range(10))  # sorted as numbers by timm


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_classes(tmp_path / 'val', CLASSES)
    return tmp_path


def network(num_classes: int = 10) -> torch.nn.Module:
    torch.manual_seed(1)
    return timm.create_model('test_resnet', num_classes=num_classes).eval()


def reference(model: torch.nn.Module, root: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels by timm alone, one picture at a time."""
    data = create_dataset('', str(root))
    data.transform = create_transform(**resolve_model_data_config(model))
    with torch.no_grad():
        logits = torch.cat([model(image[None]) for image, _ in data])
    return logits, torch.tensor([label for _, label in data])


def share(logits: torch.Tensor, labels: torch.Tensor, k: int) -> float:
    hits = (logits.topk(k).indices == labels[:, None]).any(1)
    return 100 * hits.float().mean().item()


@pytest.mark.slow
@pytest.mark.parametrize('workers', [0, 1])
def test_figures_are_timms(folder: Path, workers: int) -> None:
    model = network()
    logits, labels = reference(model, folder / 'val')
    settings = resolve_model_data_config(model)
    data = evaluation_data(folder, settings, (), 10)
    result = evaluate(model, data, batch_size=7, workers=workers)
    assert result.pictures == 40
    assert 0 < share(logits, labels, 1) < share(logits, labels, 5) < 100
    assert result.top1 == pytest.approx(share(logits, labels, 1), abs=1e-4)
    assert result.top5 == pytest.approx(share(logits, labels, 5), abs=1e-4)
    assert result.loss == pytest.approx(F.cross_entropy(logits, labels).item(), 1e-5)
    assert result.unreadable == ()


def test_the_split_may_be_left_out(folder: Path) -> None:
    settings = dict(input_size=16)
    whole = evaluation_data(folder, settings, (), 10)
    part = evaluation_data(folder / 'val', settings, (), 10)
    assert whole.root == part.root == folder / 'val'
    # A class may be called like a split.
    write_classes(folder / 'vehicles', ('bus', 'train'))
    vehicles = evaluation_data(folder / 'vehicles', settings, (), 2)
    assert vehicles.metainfo['classes'] == ('bus', 'train')
    (folder / 'val').rename(folder / 'train')
    with pytest.raises(ValueError, match="no folder for the split 'val'"):
        evaluation_data(folder, settings, (), 10)


def test_labels_are_the_models(folder: Path) -> None:
    names = tuple(reversed(CLASSES))
    data = evaluation_data(folder, dict(input_size=16), names, 10)
    labels = [item['targets'] for item in data]
    assert labels == [9 - i // 4 for i in range(40)]
    with pytest.raises(ValueError, match=r'only in the checkpoint: ant'):
        evaluation_data(folder, dict(input_size=16), (*CLASSES[:9], 'ant'), 10)


def test_a_class_without_pictures_shifts_no_label(folder: Path) -> None:
    shutil.rmtree(folder / 'val' / 'class_2')
    data = evaluation_data(folder, dict(input_size=16), CLASSES, 10)
    labels = [item['targets'] for item in data]
    assert labels == [i // 4 for i in range(40) if i // 4 != 2]
    with pytest.raises(ValueError, match=r'9 classes .*but the model has 10'):
        evaluation_data(folder, dict(input_size=16), (), 10)


def test_an_order_unlike_the_plain_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    monkeypatch.setattr(classification, 'warn', told.append)
    write_classes(tmp_path, ('apple', 'Banana'))
    settings = dict(input_size=16)
    evaluation_data(tmp_path, settings, ('Banana', 'apple'), 2)
    assert told == []  # matched by name
    evaluation_data(tmp_path, settings, (), 2)
    assert len(told) == 1
    assert 'label 0 is apple, but Banana in the plain order' in told[0]


@pytest.mark.parametrize('classes', [(), describe_classes((), 1000)])
def test_some_of_imagenets_classes(tmp_path: Path, classes: tuple[str, ...]) -> None:
    write_classes(tmp_path, ('n02123045', 'n15075141'), 2)
    data = evaluation_data(tmp_path, dict(input_size=16), classes, 1000)
    assert [item['targets'] for item in data] == [281, 281, 999, 999]
    model = network(1000)
    result = evaluate(model, data)
    assert result.pictures == 4
    assert result.loss == pytest.approx(
        F.cross_entropy(
            model(torch.stack([item['inputs'] for item in data])),
            torch.tensor([281, 281, 999, 999]),
        ).item(),
        rel=1e-5,
    )


@pytest.mark.parametrize('workers', [0, 1])
def test_unreadable_pictures(folder: Path, workers: int) -> None:
    broken = folder / 'val' / 'class_3' / '1.png'
    broken.write_bytes(broken.read_bytes()[:200])
    settings, model = dict(input_size=16), network()
    strict = evaluation_data(folder, settings, (), 10)
    with pytest.raises(PictureError, match=rf'^{broken}: can not be read') as error:
        evaluate(model, strict, workers=workers)
    assert 'Traceback' not in str(error.value)
    data = evaluation_data(folder, settings, (), 10, skip_unreadable=True)
    result = evaluate(model, data, workers=workers)
    assert result.unreadable == (str(broken),)
    assert result.pictures == 39
    broken.unlink()
    without = evaluate(model, evaluation_data(folder, settings, (), 10))
    assert result.loss == pytest.approx(without.loss, rel=1e-5)
    assert (result.top1, result.top5) == (without.top1, without.top5)


@pytest.mark.slow
@pytest.mark.parametrize(
    'placement', [Placement(dtype=torch.bfloat16), Placement(amp=True)]
)
def test_half_precision_is_near(folder: Path, placement: Placement) -> None:
    data = evaluation_data(folder, dict(input_size=32), (), 10)
    exact = evaluate(network(), data)
    rough = evaluate(network(), data, placement)
    assert rough.loss != exact.loss
    assert rough.loss == pytest.approx(exact.loss, rel=0.02)


def test_ranks_are_those_of_a_sorted_list() -> None:
    generator = np.random.default_rng(0)
    scores = generator.integers(0, 6, (50, 9)).astype(np.float32)  # with equal ones
    labels = generator.integers(0, 9, 50)
    expected = [
        sorted(range(9), key=lambda k: (-row[k], k)).index(label)
        for row, label in zip(scores.tolist(), labels.tolist(), strict=True)
    ]
    assert class_ranks(torch.tensor(scores), torch.tensor(labels)) == expected
    metric = Accuracy(topk=(1, 3))
    metric.process(
        {},
        [
            {'pred_scores': torch.tensor(row), 'gt_label': int(label)}
            for row, label in zip(scores, labels, strict=True)
        ],
    )
    assert metric.results == list(zip(labels, expected, strict=True))
    found = metric.evaluate(size=50)
    assert found['accuracy/top1'] == 2.0 * expected.count(0)
    assert found['accuracy/top3'] == 2.0 * sum(rank < 3 for rank in expected)


def test_pictures_without_a_class_do_not_count() -> None:
    ranks = class_ranks(torch.eye(3), torch.tensor([0, -1, 0]))
    assert ranks == [0, None, 1]
    assert topk_accuracy(ranks, (1, 2)) == {'top1': 50.0, 'top2': 100.0}
    with pytest.raises(ValueError, match='no picture has a class'):
        topk_accuracy([None], (1,))
    with pytest.raises(ValueError, match=r'of class 3.*only 3 scores'):
        class_ranks(torch.eye(3), torch.tensor([0, 1, 3]))
