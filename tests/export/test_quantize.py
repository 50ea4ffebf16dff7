import json
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from export_models import INFO_FOR_EXAMPLE, TINY, backbone, classifier, detector
from mmengine.config import Config
from PIL import Image
from tiny_data import write_segmentation_config
from torch import nn

from mmpoolformer.cli.export import parse
from mmpoolformer.export.export import Calibration, ExportError, export_model
from mmpoolformer.export.quantize import _groups, _partners, _size
from mmpoolformer.export.sources import config_model
from mmpoolformer.models import MetaFormerClassifier
from mmpoolformer.models.from_config import build_from_config
from mmpoolformer.utils.errors import UsageError

SIDE = 64
NAMES = ['ant', 'bee', 'cat', 'dog', 'eel']
MEAN, STD = [100.0, 120.0, 140.0], [50.0, 60.0, 70.0]
INFO = dict(mean=MEAN, std=STD, channel_order='RGB', classes=NAMES)
SEEN_WHOLE = dict(picture_size=[SIDE, SIDE], crop_pct=1.0)


def pictures(count: int) -> list[np.ndarray]:
    """Return pictures of few, large cells in one strong colour each."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        cells = rng.integers(0, 90, (4, 4, 3)) + rng.integers(0, 166, 3)
        found.append(np.uint8(cells).repeat(SIDE // 4, 0).repeat(SIDE // 4, 1))
    return found


def write(folder: Path, shown: list[np.ndarray], names: list[str] | None = None) -> str:
    for i, pixels in enumerate(shown):
        path = folder / (names[i] if names else '') / f'{i:03d}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return str(folder)


def normalised(pixels: np.ndarray) -> torch.Tensor:
    return torch.tensor((pixels - np.array(MEAN)) / STD).float().permute(2, 0, 1)[None]


def described(path: Path) -> tuple[openvino.Model, dict]:
    model = openvino.Core().read_model(path)
    return model, json.loads(model.get_rt_info('mmpoolformer').astype(str))


def stored(model: openvino.Model) -> set[str]:
    return {
        op.get_element_type().get_type_name()
        for op in model.get_ops()
        if op.get_type_name() == 'Constant' and len(op.get_output_shape(0)) == 4
    }


@pytest.mark.slow
def test_a_classifier_is_measured_by_its_class_folders(tmp_path, capfd):
    model = classifier('poolformer_s12').eval()
    shown = pictures(40)
    with torch.no_grad():
        labels = [int(model(normalised(one)).argmax()) for one in shown]
    assert len(set(labels)) > 1
    folder = write(tmp_path / 'data', shown, [NAMES[label] for label in labels])
    path = tmp_path / 'int8.xml'
    done = export_model(
        model, path, info=INFO | SEEN_WHOLE, int8=Calibration(folder, 100)
    )
    assert done.quantised.measure == 'top-1'
    assert done.quantised.pictures == 20
    # The labels are the model's own answers to the same pixels.
    assert done.quantised.before == 100
    assert done.quantised.after > 70
    assert done.quantised.in_float == ()
    small, about = described(path)
    assert about['int8']['after'] == done.quantised.after
    assert about['classes'] == NAMES
    assert stored(small) >= {'i8'}
    export_model(model, tmp_path / 'large.xml')
    sizes = [
        file.with_suffix('.bin').stat().st_size
        for file in (path, tmp_path / 'large.xml')
    ]
    assert sizes[0] < 0.5 * sizes[1]
    images = torch.cat([normalised(one) for one in shown]).numpy()
    options = {'INFERENCE_PRECISION_HINT': 'f32'}
    (logits,) = openvino.Core().compile_model(small, 'CPU', options)(images).values()
    assert (logits.argmax(1) == labels).mean() > 0.7
    assert capfd.readouterr().out == ''


@pytest.mark.slow
def test_what_loses_too_much_is_not_written(tmp_path):
    folder = write(tmp_path / 'data', pictures(8))
    path = tmp_path / 'm.xml'
    # Not even a model that loses nothing is good enough.
    with pytest.raises(ExportError, match=r'int8 loses .* more than -1') as caught:
        export_model(
            classifier('poolformer_s12'),
            path,
            info=INFO | SEEN_WHOLE,
            int8=Calibration(folder, -1),
        )
    assert 'top-1 agreement with float32, 4 pictures held back' in str(caught.value)
    kept = 'left in float32: last layers, last but one layers, first layers'
    assert kept in str(caught.value)
    assert list(tmp_path.iterdir()) == [tmp_path / 'data']


@pytest.mark.parametrize(
    ('scale', 'expected'),
    [
        # The longer side is at most 128, the shorter 64; then the next multiples of 32.
        ([128, 64], (128, 64)),
        ([64, 128], (128, 64)),
        ([128, 128], (128, 64)),
        ([320, 64], (128, 64)),
        ([320, 96], (192, 96)),
    ],
)
def test_pictures_are_resized_as_in_the_test(scale, expected):
    about = dict(kind='detector', size='any', scale=scale)
    assert _size(Image.new('RGB', (300, 150)), about) == expected
    assert _size(Image.new('RGB', (150, 300)), about) == expected[::-1]


def test_a_config_says_what_pictures_are_resized_to(tmp_path):
    pytest.importorskip('mmseg')
    write_segmentation_config(tmp_path / 'config.py', tmp_path)
    config = Config.fromfile(tmp_path / 'config.py')
    assert 'scale' not in config_model(config)[1]  # they stay as they are
    resize = dict(type='Resize', scale=(96, 48), keep_ratio=True)
    config.test_dataloader.dataset.pipeline.insert(1, resize)
    assert config_model(config)[1]['scale'] == [96, 48]


def segmentor(tmp_path: Path) -> nn.Module:
    pytest.importorskip('mmseg')
    write_segmentation_config(tmp_path / 'config.py', tmp_path)
    torch.manual_seed(0)
    return build_from_config(Config.fromfile(tmp_path / 'config.py'))


@pytest.mark.slow
@pytest.mark.parametrize(
    ('build', 'measure'),
    [
        (detector, 'boxes with a partner in those of float32'),
        (segmentor, 'pixels of the same class as by float32'),
    ],
)
def test_others_are_measured_by_agreement(build, measure, tmp_path):
    model = build(tmp_path)
    folder = write(tmp_path / 'data', pictures(6))
    path = tmp_path / 'm.xml'
    int8 = Calibration(folder, 100)
    done = export_model(model, path, (128, 128), info=INFO_FOR_EXAMPLE, int8=int8)
    assert done.quantised.measure == measure
    assert done.quantised.pictures == 3
    assert done.quantised.before == 100
    assert 50 < done.quantised.after <= 100
    small, _ = described(path)
    assert 'i8' in stored(small)


def test_what_can_not_be_quantised_is_refused(tmp_path):
    folder = write(tmp_path / 'data', pictures(2))
    with pytest.raises(ValueError, match=r'int8 is for \.xml only'):
        export_model(
            classifier('poolformer_s12'), tmp_path / 'm.onnx', int8=Calibration(folder)
        )
    with pytest.raises(ValueError, match='with mean and std, not a backbone'):
        export_model(
            backbone('poolformer_s12'),
            tmp_path / 'm.xml',
            info=INFO,
            int8=Calibration(folder),
        )
    one = write(tmp_path / 'one', pictures(1))
    with pytest.raises(ValueError, match='one picture only'):
        export_model(
            classifier('poolformer_s12'),
            tmp_path / 'm.xml',
            info=INFO | SEEN_WHOLE,
            int8=Calibration(one),
        )


def test_groups_of_layers(tmp_path):
    arch = dict(base='caformer_s18', **TINY)
    export_model(MetaFormerClassifier(arch, num_classes=5), tmp_path / 'm.xml')
    groups = dict(_groups(openvino.Core().read_model(tmp_path / 'm.xml')))
    # Two blocks of attention and two of separable convolutions.
    assert len(groups['attention']) == 4
    assert all('token_mixer/MatMul' in name for name in groups['attention'])
    assert len(groups['depthwise convolutions']) == 2
    (first,), (last,) = groups['first layers'], groups['last layers']
    assert 'head/fc/fc1' in groups['last but one layers'][0]
    assert 'stem/conv' in first
    assert 'head/fc/fc2' in last


def test_partners_are_boxes_of_the_same_class_that_overlap():
    boxes = np.array([[0, 0, 10, 10], [20, 20, 40, 40], [50, 50, 60, 60]], np.float32)
    scores, labels = np.float32([0.9, 0.8, 0.2]), np.array([0, 1, 1])
    one = boxes, scores, labels
    # The third is too weak to count; all that do have partners, in both.
    assert _partners(one, one).tolist() == [True] * 4
    # Half of the area is an overlap of a third.
    moved = boxes + np.float32([[0], [0], [0]])
    moved[0, 0::2] += 5
    assert _partners(one, (moved, scores, labels)).tolist() == [False, True] * 2
    assert _partners(one, (boxes, scores, 1 - labels)).tolist() == [False] * 4
    # A partner may have half of the score that counts, no less.
    weak = np.float32([0.9, 0.16, 0.0])
    assert _partners(one, (boxes, weak, labels)).tolist() == [True, True, True]
    nothing = boxes[:0], scores[:0], labels[:0]
    assert _partners(one, nothing).tolist() == [False, False]
    assert _partners(nothing, nothing).tolist() == []


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ('a.onnx --int8 --calibrate .', r'with --int8 it must end in \.xml'),
        ('a.xml --int8', 'give both or none'),
        ('a.xml --calibrate .', 'give both or none'),
        ('a.xml --int8 --calibrate nowhere', 'nowhere: no such folder'),
        ('a.xml --max-drop 1', 'with --int8'),
        ('a.xml --int8 --calibrate . --max-drop -1', 'a number from 0'),
    ],
)
def test_options_that_do_not_fit(words, message):
    argv = ['poolformer_s12', '--checkpoint', 'random', '--out', *words.split()]
    with pytest.raises(UsageError, match=message):
        parse(argv)
