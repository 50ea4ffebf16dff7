import ctypes
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch
from exported_files import FORMATS, export_config
from mmengine.config import Config
from random_models import Models, randomised
from tiny_data import write_classification_config

from mmpoolformer.apps.page.results import run_on_file
from mmpoolformer.inference.compiling import _SignalStack
from mmpoolformer.inference.engines import load_engine
from mmpoolformer.inference.predictor import Predictor
from mmpoolformer.models import folding
from mmpoolformer.models.from_config import build_from_config
from mmpoolformer.utils.errors import UserError

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

KINDS = ('detection', 'segmentation', 'classifier')


@pytest.fixture(scope='module')
def files(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Configs, checkpoints and exported files of each of `KINDS` in a folder."""
    folder = tmp_path_factory.mktemp('exported')
    made = Models(folder)
    for name in KINDS[:2]:
        made.config(name).symlink_to(models.config(name))
        made.checkpoint(name).symlink_to(models.checkpoint(name))
    write_classification_config(made.config('classifier'), folder / 'data')
    config = Config.fromfile(made.config('classifier'))
    model = randomised(build_from_config(config))
    meta = {'dataset_meta': {'classes': ('ant', 'bee')}}
    content = {'meta': meta, 'state_dict': model.state_dict()}
    torch.save(content, made.checkpoint('classifier'))
    for name in KINDS:
        export_config(made.config(name), made.checkpoint(name), folder / name)
    return made


def with_info(path: Path, target: Path, change: Callable[[dict], object]) -> Path:
    """Write an ONNX file with another description."""
    model = onnx.load(path)
    info = json.loads(model.metadata_props[0].value)
    change(info)
    onnx.helper.set_model_props(model, {'mmpoolformer': json.dumps(info)})
    onnx.save(model, target)
    return target


def without_padded(models: Models) -> list[str]:
    """Leave out a picture in whose padding a model of noise finds most."""
    return [path for path in models.pictures if Path(path).name != '1.png']


@pytest.mark.parametrize('suffix', FORMATS)
@pytest.mark.parametrize('name', KINDS)
def test_a_file_sees_what_its_checkpoint_sees(
    files: Models, models: Models, name: str, suffix: str
) -> None:
    expected = files.predictor(name)
    given = Predictor(files.config(name), files.folder / f'{name}{suffix}')
    assert (given.task, given.classes) == (expected.task, expected.classes)
    pictures = without_padded(models) if name == 'detection' else models.pictures
    found = [x.batch(pictures, batch_size=4) for x in (expected, given)]
    for one, other in ((a.found, b.found) for a, b in zip(*found, strict=True)):
        if name == 'segmentation':
            assert one.labels.shape == other.labels.shape
            assert (one.labels == other.labels).mean() > 0.999
            continue
        np.testing.assert_array_equal(other.labels, one.labels)
        np.testing.assert_allclose(other.scores, one.scores, atol=1e-5)
        if name == 'detection':
            assert len(one.boxes) > 10
            np.testing.assert_allclose(other.boxes, one.boxes, atol=1e-2)


def test_a_named_classifier_takes_pictures_as_its_file_says(
    files: Models, models: Models, tmp_path: Path
) -> None:
    source = files.folder / 'classifier.onnx'
    scale = dict(mean=[0, 0, 0], std=[255, 255, 127.5], picture_size=[32, 48])
    path = with_info(source, tmp_path / 'a.onnx', lambda info: info.update(scale))
    predictor = Predictor('poolformer_s12', path)
    assert predictor.classes == ('ant', 'bee')
    assert predictor(models.pictures[0]).found.scores.sum() == pytest.approx(1)
    white = np.full((60, 60, 3), 255, np.uint8)
    image, seen = predictor.see(white)
    expected = torch.tensor([1, 1, 2.0])[:, None, None].expand(1, 3, 32, 48)
    torch.testing.assert_close(image, expected)
    np.testing.assert_array_equal(seen, white[:32, :48])
    with pytest.raises(UserError, match='kind segmentor; only classifiers'):
        Predictor('poolformer_s12', files.folder / 'segmentation.onnx')


def test_a_named_classifier_crops_as_the_config_of_its_file(
    files: Models, models: Models, tmp_path: Path
) -> None:
    config = Config.fromfile(files.config('classifier'))
    seen = dict(crop_pct=0.4, interpolation='nearest')
    config.test_dataloader.dataset.transform.update(seen)
    config.dump(tmp_path / 'crop.py')
    weights = files.checkpoint('classifier')
    export_config(tmp_path / 'crop.py', weights, tmp_path / 'crop', ['.onnx'])
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    expected, _ = Predictor(tmp_path / 'crop.py', weights).see(pixels)
    found, _ = Predictor('poolformer_s12', tmp_path / 'crop.onnx').see(pixels)
    torch.testing.assert_close(found, expected)


def test_the_page_shows_a_file_without_a_map(files: Models, models: Models) -> None:
    config = files.config('classifier')
    predictor = Predictor(config, files.folder / 'classifier.onnx')
    said = run_on_file(predictor, models.pictures[1], 0.4, 10**6)
    expected = files.predictor('classifier')(models.pictures[1]).found
    assert list(said.shares.values()) == pytest.approx(expected.scores.tolist())
    assert 'evidence' not in said.message and not said.is_problem


# tests/export/test_export.py compares the numbers of the other kind of file.
@pytest.mark.parametrize(
    'suffix', [pytest.param('.onnx', marks=pytest.mark.long), '.xml']
)
def test_masks_are_those_of_mmdet(models: Models, tmp_path: Path, suffix: str) -> None:
    config = models.config('masks')
    weights = models.checkpoint('masks')
    export_config(config, weights, tmp_path / 'masks', [suffix])
    predictor = models.predictor('masks')
    stored = Predictor(str(config), tmp_path / f'masks{suffix}')
    for path in without_padded(models):
        expected, found = predictor(path).found, stored(path).found
        assert len(expected.boxes) > 3
        np.testing.assert_array_equal(found.labels, expected.labels)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
        # Of boxes that overlap as much as NMS allows rounding may choose another.
        assert np.isclose(found.boxes, expected.boxes, atol=1e-2).mean() > 0.97
        assert expected.masks.any()
        assert found.masks.shape == expected.masks.shape
        assert (found.masks == expected.masks).mean() > 0.99


@pytest.mark.skipif(sys.platform != 'linux', reason="looks at Linux's own stack")
def test_openvino_leaves_the_stack_of_signals(files: Models) -> None:
    """On the one that it sets, Python's handlers would crash."""
    stacks = []
    for load in (lambda: None, lambda: load_engine(files.folder / 'detection.xml')):
        load()
        found = _SignalStack()
        ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found))
        stacks.append((found.ss_sp, found.ss_flags, found.ss_size))
    assert stacks[0] == stacks[1]


def test_thresholds_are_those_of_the_config(files: Models, models: Models) -> None:
    config = Config.fromfile(files.config('detection'))
    file = files.folder / 'detection.onnx'
    every = Predictor(config, file)(models.pictures[0]).found
    config.model.test_cfg.update(score_thr=float(every.scores[6]), max_per_img=4)
    few = Predictor(config, file)(models.pictures[0]).found
    np.testing.assert_array_equal(few.boxes, every.boxes[:4])
    config.model.test_cfg.max_per_img = 100
    assert len(Predictor(config, file)(models.pictures[0]).found.boxes) == 6
    config.model.test_cfg.score_thr = 1
    none = Predictor(config, file)(models.pictures[0]).found
    assert none.boxes.shape == (0, 4)
    assert none.labels.shape == (0,)


@pytest.mark.parametrize('suffix', FORMATS)
def test_files_that_can_not_be_used(
    files: Models, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, path = files.config('detection'), files.folder / f'detection{suffix}'
    with pytest.raises(UserError, match='no such file'):
        Predictor(config, tmp_path / f'nothere{suffix}')
    odd = tmp_path / f'odd{suffix}'
    odd.write_bytes(b'nothing of the kind')
    with pytest.raises(UserError, match=r"odd.*: \w+ can't read it: .*"):
        Predictor(config, odd)
    other = files.folder / f'segmentation{suffix}'
    with pytest.raises(UserError, match=r'segmentor, gives logits; .* RetinaNet'):
        Predictor(config, other)
    package = {'.onnx': 'onnxruntime', '.xml': 'openvino'}[suffix]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"needs {package}.*'mmpoolformer\[[a-z]+\]'"):
        Predictor(config, path)


def test_files_without_a_description_are_refused(files: Models, tmp_path: Path) -> None:
    model = onnx.load(files.folder / 'detection.onnx')
    path = tmp_path / 'foreign.onnx'
    onnx.save(model, path)
    foreign = [path.with_suffix('.xml'), path]
    openvino.save_model(openvino.convert_model(path), foreign[0])
    del model.metadata_props[:]
    onnx.save(model, path)
    for one in foreign:
        with pytest.raises(UserError, match='no description of mmpoolformer export'):
            load_engine(one)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda info: info.update(kind='segmentor'), 'kind segmentor, gives boxes'),
        (lambda info: info.update(classes=['a']), 'for 1 classes, .* is for 2'),
        (
            lambda info: info.update(mean=[1, 2, 3]),
            r'with mean=\[1, 2, 3\], but',
        ),
        (
            lambda info: info.update(size=[64, 96]),
            '64 x 96 only, not of 64 x 64',
        ),
    ],
)
def test_files_that_do_not_fit_are_refused(
    files: Models, models: Models, tmp_path: Path, change: Callable, message: str
) -> None:
    path = with_info(files.folder / 'detection.onnx', tmp_path / 'other.onnx', change)
    with pytest.raises(UserError, match=message):
        Predictor(files.config('detection'), path)(models.pictures[0])


@pytest.mark.parametrize('name', KINDS)
def test_bfloat16_sees_about_the_same(
    files: Models, models: Models, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folding, 'computes_bfloat16', lambda _: True)
    config = files.config(name)
    exact = files.predictor(name)
    low = Predictor(config, files.checkpoint(name), dtype='bf16')
    assert torch.bfloat16 in {x.dtype for x in low.network.state_dict().values()}
    with pytest.raises(UserError, match='float32 on CPUs; for bf16'):
        Predictor(config, files.folder / f'{name}.onnx', dtype='bf16')
    stored = Predictor(config, files.folder / f'{name}.xml', dtype='bf16')
    for predictor in (low, stored):
        one, other = (x(models.pictures[1]).found for x in (exact, predictor))
        if name == 'segmentation':
            assert (one.labels == other.labels).mean() > 0.9
        else:
            assert one.scores[:5] == pytest.approx(other.scores[:5], abs=0.05)
