import hashlib
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from export_models import (
    FAMILIES,
    INFO_FOR_EXAMPLE,
    TINY,
    backbone,
    classifier,
    detector,
    randomised,
)
from mmengine.config import Config
from PIL import Image
from timm.data import create_transform
from tiny_data import write_segmentation_config
from tool_process import ROOT, run_many
from torch import nn
from torch.nn import functional as F
from torchvision.ops import batched_nms

from mmpoolformer.export.compare import compare_candidates, compare_detections
from mmpoolformer.export.export import INFO, OPSET, ExportError, export_model, table
from mmpoolformer.export.graphs import build_graph
from mmpoolformer.models import MetaFormer, PiT
from mmpoolformer.models.from_config import build_from_config
from mmpoolformer.models.windows import any_size, for_any_size

pytestmark = pytest.mark.slow

# None of them was recorded or is compared by the exporter.
SHAPES = ((1, 3, 75, 107), (2, 3, 224, 224), (3, 3, 96, 64))


def run_onnx(path: Path, images: torch.Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    return session.run(None, {'images': images.numpy()})


def run_openvino(path: Path, images: torch.Tensor) -> list[np.ndarray]:
    options = {'INFERENCE_PRECISION_HINT': 'f32'}
    compiled = openvino.Core().compile_model(path, 'CPU', options)
    return list(compiled(images.numpy()).values())


RUNS = {'.onnx': run_onnx, '.xml': run_openvino}


def assert_same(model: nn.Module, path: Path, shapes=SHAPES) -> None:
    generator = torch.Generator().manual_seed(1)
    for shape in shapes:
        images = torch.randn(shape, generator=generator)
        with torch.no_grad():
            expected = model.eval()(images)
        expected = expected if isinstance(expected, tuple) else (expected,)
        given = RUNS[path.suffix](path, images)
        for one, other in zip(expected, given, strict=True):
            torch.testing.assert_close(
                torch.from_numpy(other), one, atol=2e-5, rtol=1e-4
            )


def state_hash(model: nn.Module) -> str:
    content = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        content.update(name.encode() + tensor.numpy().tobytes())
    return content.hexdigest()


@pytest.mark.parametrize(
    ('build', 'name'),
    [
        *((backbone, name) for name in [*FAMILIES, 'pit']),
        *((classifier, name) for name in ('poolformer_s12', 'caformer_s18', 'pit')),
        *(
            pytest.param(classifier, name, marks=pytest.mark.long)
            for name in sorted({*FAMILIES} - {'poolformer_s12', 'caformer_s18'})
        ),
    ],
)
def test_onnx_equals_eager_at_other_sizes(build, name, tmp_path):
    model = build(name).train()
    before = state_hash(model)
    path = tmp_path / 'model.onnx'
    done = export_model(model, path)
    assert model.training
    assert state_hash(model) == before
    assert len(done.checks) == 3
    content = onnx.load(path)
    onnx.checker.check_model(content, full_check=True)
    assert [one.version for one in content.opset_import if not one.domain] == [OPSET]
    dims = content.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param for d in dims] == ['batch', '', 'height', 'width']
    assert list(tmp_path.iterdir()) == [path]
    assert_same(model, path)


@pytest.mark.parametrize(
    ('build', 'name'),
    [
        (backbone, 'caformer_s18_384'),
        (classifier, 'pit'),
        pytest.param(backbone, 'metaformer_ppff_s12_224', marks=pytest.mark.long),
    ],
)
def test_openvino_equals_eager_at_other_sizes(build, name, tmp_path):
    model = build(name)
    export_model(model, tmp_path / 'model.xml')
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ['model.bin', 'model.xml']
    assert_same(model, tmp_path / 'model.xml')


def test_openvino_files_are_float32_and_described(tmp_path):
    model = classifier('poolformer_s12')
    done = export_model(model, tmp_path / 'm.xml', info=dict(classes=['"<&>', 'b']))
    assert done.kind == 'classifier'
    read = openvino.Core().read_model(tmp_path / 'm.xml')
    about = json.loads(read.get_rt_info('mmpoolformer').astype(str))
    assert about['kind'] == 'classifier'
    assert about['classes'] == ['"<&>', 'b']
    floats = {
        op.get_element_type()
        for op in read.get_ops()
        if op.get_type_name() == 'Constant' and op.get_element_type().is_real()
    }
    assert floats == {openvino.Type.f32}
    assert_same(model, tmp_path / 'm.xml')


def test_openvino_files_come_both_or_not_at_all(tmp_path):
    weights = tmp_path / 'm.bin'
    weights.write_text('from before')
    (tmp_path / 'm.xml' / 'in the way').mkdir(parents=True)
    with pytest.raises(OSError, match=r'm\.xml'):
        export_model(classifier('poolformer_s12'), tmp_path / 'm.xml')
    assert weights.read_text() == 'from before'
    assert sorted(tmp_path.iterdir()) == [weights, tmp_path / 'm.xml']
    weights.unlink()
    with pytest.raises(OSError, match=r'm\.xml'):
        export_model(classifier('poolformer_s12'), tmp_path / 'm.xml')
    assert list(tmp_path.iterdir()) == [tmp_path / 'm.xml']


@pytest.mark.parametrize(
    ('suffix', 'missing', 'extras'),
    [('.onnx', 'onnxruntime', 'export'), ('.xml', 'openvino', 'export,openvino')],
)
def test_a_missing_package_is_named_with_its_extra(
    suffix, missing, extras, tmp_path, monkeypatch
):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        'importlib.util.find_spec',
        lambda name, *more: None if name == missing else find(name, *more),
    )
    cure = re.escape(f"python -m pip install 'mmpoolformer[{extras}]'")
    with pytest.raises(ValueError, match=f'^{suffix} needs {missing}: {cure}$'):
        export_model(classifier('poolformer_s12'), tmp_path / f'm{suffix}')


def test_the_output_names_and_description(tmp_path):
    model = MetaFormer(dict(base='poolformer_s12', **TINY), out_indices=(1, 3))
    export_model(model, tmp_path / 'm.onnx', info=dict(mean=[1.0, 2.0, 3.0]))
    session = onnxruntime.InferenceSession(tmp_path / 'm.onnx')
    assert [one.name for one in session.get_outputs()] == ['stage1', 'stage3']
    about = json.loads(session.get_modelmeta().custom_metadata_map['mmpoolformer'])
    assert about['kind'] == 'backbone'
    assert about['size'] == 'any'
    assert about['mean'] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize('name', ['poolformer_s12', 'metaformer_ppff_s12_224', 'pit'])
def test_torchscript_runs_alone(name, tmp_path):
    model = classifier(name).eval()
    export_model(model, tmp_path / 'm.ts')
    files = {INFO: ''}
    loaded = torch.jit.load(tmp_path / 'm.ts', _extra_files=files)
    assert json.loads(files[INFO])['kind'] == 'classifier'
    images = torch.randn(2, 3, 101, 75)
    with torch.no_grad():
        torch.testing.assert_close(
            loaded(images)[0], model(images), atol=2e-5, rtol=1e-4
        )


def test_torch_export_runs_alone(tmp_path):
    model = backbone('poolformer_s12').eval()
    export_model(model, tmp_path / 'm.pt2')
    files = {INFO: ''}
    loaded = torch.export.load(tmp_path / 'm.pt2', extra_files=files).module()
    assert json.loads(files[INFO])['kind'] == 'backbone'
    images = torch.randn(1, 3, 101, 175)
    with torch.no_grad():
        for one, other in zip(model(images), loaded(images), strict=True):
            torch.testing.assert_close(other, one)


@pytest.mark.parametrize('name', ['randformer_s12', 'pit', 'caformer_s18_384'])
def test_torch_export_refuses_windows_but_takes_one_size(name, tmp_path):
    model = backbone(name)
    with pytest.raises(ValueError, match=r'can not follow its sizes.*--fixed'):
        export_model(model, tmp_path / 'm.pt2')
    assert list(tmp_path.iterdir()) == []
    if name == 'randformer_s12':
        done = export_model(model, tmp_path / 'm.pt2', size=(224, 224))
        assert [one.shape[2:] for one in done.checks] == [(224, 224)] * 3


def test_torch_export_is_refused_where_torch_is_too_old(tmp_path, monkeypatch):
    monkeypatch.delattr('torch.export.Dim')
    with pytest.raises(ValueError, match=r'needs torch 2\.6'):
        export_model(backbone('poolformer_s12'), tmp_path / 'm.pt2')


def test_models_of_one_size(tmp_path):
    arch = dict(base='metaformer_pppf_s12_224', **TINY, strict_size=True)
    model = randomised(MetaFormer(arch, out_indices=(3,)))
    with pytest.raises(ValueError, match=r'SpatialFc, strict_size=True\) takes images'):
        export_model(model, tmp_path / 'm.onnx')
    export_model(model, tmp_path / 'm.onnx', size=(224, 224))
    dims = onnx.load(tmp_path / 'm.onnx').graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in dims] == [0, 3, 224, 224]
    assert_same(model, tmp_path / 'm.onnx', [(1, 3, 224, 224), (3, 3, 224, 224)])


def test_what_is_not_known_is_refused(tmp_path):
    with pytest.raises(ValueError, match='Linear: not exported; known are'):
        export_model(nn.Linear(2, 2), tmp_path / 'm.onnx')
    with pytest.raises(ValueError, match=r'the ending says the format: \.onnx'):
        export_model(backbone('poolformer_s12'), tmp_path / 'm.bin')


def test_a_file_that_differs_is_not_written(tmp_path):
    path = tmp_path / 'm.onnx'
    path.write_text('from before')
    with pytest.raises(ExportError, match='more than the tolerance of 1e-12'):
        export_model(backbone('poolformer_s12'), path, tolerance=1e-12)
    assert path.read_text() == 'from before'
    assert list(tmp_path.iterdir()) == [path]


def test_the_table_fits_a_terminal(tmp_path):
    done = export_model(backbone('poolformer_s12'), tmp_path / 'm.onnx')
    lines = table(done.checks).splitlines()
    assert lines[0].split() == ['input', 'compared', 'difference']
    assert lines[1].startswith('1 x 3 x 224 x 224 ')
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize('window', [None, 3])
def test_no_shortcuts_gives_the_same(window):
    models = [
        PiT(dict(base='ti', depths=(1, 1, 1))),
        MetaFormer(dict(base='randformer_s12', **TINY)),
        MetaFormer(dict(base='caformer_s18', **TINY, attention_window=window)),
        MetaFormer(dict(base='metaformer_ppff_s12_224', **TINY)),
    ]
    images = torch.randn(1, 3, 224, 224)
    for model in models:
        randomised(model).eval()
        with torch.no_grad():
            expected = model(images)
            with for_any_size():
                assert any_size()
                given = model(images)
        assert not any_size()
        for one, other in zip(expected, given, strict=True):
            torch.testing.assert_close(other, one, atol=2e-5, rtol=1e-4)


# tests/inference/test_exported.py runs both kinds of files.
@pytest.mark.parametrize(
    'suffix', ['.onnx', pytest.param('.xml', marks=pytest.mark.long)]
)
def test_retinanet_finds_what_mmdet_finds(suffix, tmp_path):
    model = detector(tmp_path)
    path = tmp_path / f'm{suffix}'
    done = export_model(model, path)
    assert done.kind == 'detector'
    images = torch.randn(2, 3, 203, 331)
    boxes, scores, labels = RUNS[suffix](path, images)
    assert boxes.shape == (2, 100, 4)
    metas = [dict(img_shape=(203, 331), scale_factor=(1.0, 1.0))] * 2
    with torch.no_grad():
        maps = model.bbox_head(model.neck(model.backbone(images)))
        found = model.bbox_head.predict_by_feat(
            *maps, batch_img_metas=metas, rescale=False
        )
    for i, one in enumerate(found):
        count = len(one.scores)
        assert count > 20
        assert (scores[i] > 0).sum() == count
        np.testing.assert_allclose(scores[i, :count], one.scores, atol=1e-5)
        apart = np.abs(np.diff(one.scores.numpy())) > 1e-5
        clear = np.append(apart, True) & np.append(True, apart)
        assert clear.sum() > 10
        np.testing.assert_array_equal(labels[i, :count][clear], one.labels[clear])
        np.testing.assert_allclose(
            boxes[i, :count][clear], one.bboxes[clear], atol=2e-2
        )


def test_few_detections_are_filled_up(tmp_path):
    model = detector(tmp_path)
    model.bbox_head.test_cfg.score_thr = 0.999
    export_model(model, tmp_path / 'm.onnx')
    _, scores, labels = run_onnx(tmp_path / 'm.onnx', torch.zeros(1, 3, 64, 64))
    assert scores.shape == (1, 100)
    assert (scores[0, 5:] == 0).all()
    assert (labels[scores == 0] == -1).all()


def test_candidates_are_mmdets(tmp_path):
    model = detector(tmp_path)
    graph = build_graph(model)
    images = torch.randn(1, 3, 150, 215)
    metas = [dict(img_shape=(150, 215), scale_factor=(1.0, 1.0))]
    with torch.no_grad():
        boxes, scores, labels = (x[0] for x in graph.module(images))
        maps = model.bbox_head(model.neck(model.backbone(images)))
        (found,) = model.bbox_head.predict_by_feat(
            *maps, batch_img_metas=metas, rescale=False, with_nms=False
        )
    passed = scores > graph.boxes.score_threshold
    assert passed.sum() == len(found.scores) > 100
    torch.testing.assert_close(scores[passed], found.scores)
    # Of scores that rounding alone tells apart either may come first.
    ours = torch.cat([boxes, 1000 * labels[:, None], 100 * scores[:, None]], dim=1)[
        passed
    ]
    theirs = [found.bboxes, 1000 * found.labels[:, None], 100 * found.scores[:, None]]
    exact = 'donot_use_mm_for_euclid_dist'
    distances, places = torch.cdist(ours, torch.cat(theirs, 1), compute_mode=exact).min(
        1
    )
    assert distances.max() < 0.01
    assert len(places.unique()) > 0.99 * len(places)  # a few boxes stand twice


def test_torchscript_candidates_and_torchvision_give_the_detections(tmp_path):
    model = detector(tmp_path)
    export_model(model, tmp_path / 'm.ts')
    export_model(model, tmp_path / 'm.onnx')
    images = torch.randn(1, 3, 128, 160)
    loaded = torch.jit.load(tmp_path / 'm.ts')
    with torch.no_grad():
        boxes, scores, labels = (x[0] for x in loaded(images))
    keep = scores > 0.05
    boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
    keep = batched_nms(boxes, scores, labels, 0.5)[:100]
    _, expected, _ = run_onnx(tmp_path / 'm.onnx', images)
    assert len(keep) > 20
    torch.testing.assert_close(
        scores[keep], torch.from_numpy(expected[0][: len(keep)]), atol=1e-5, rtol=0
    )


def mask_rcnn(tmp_path: Path) -> nn.Module:
    """Build a tiny Mask R-CNN that finds boxes of many scores, with masks."""
    model = detector(tmp_path, masks=True)
    for layer in (
        model.roi_head.bbox_head.fc_cls,
        model.roi_head.mask_head.conv_logits,
    ):
        layer.weight.data.mul_(5)
    return model


# tests/inference/test_exported.py runs both kinds of files.
@pytest.mark.parametrize(
    'suffix', ['.onnx', pytest.param('.xml', marks=pytest.mark.long)]
)
def test_mask_rcnn_finds_what_mmdet_finds(suffix, tmp_path):
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
    from mmdet.structures import DetDataSample

    model = mask_rcnn(tmp_path)
    done = export_model(model, tmp_path / f'm{suffix}')
    assert done.kind == 'detector'
    size = (203, 331)
    images = torch.randn(2, 3, *size)
    given = RUNS[suffix](tmp_path / f'm{suffix}', images)
    assert [x.shape for x in given] == [
        (2, 100, 4),
        (2, 100),
        (2, 100),
        (2, 100, 28, 28),
    ]
    meta = dict(img_shape=size, ori_shape=size, pad_shape=size, scale_factor=(1.0, 1.0))
    samples = [DetDataSample(metainfo=meta) for _ in images]
    with torch.no_grad():
        found = model.eval().predict(images, samples)
    for sample, *one in zip(found, *map(torch.from_numpy, given), strict=True):
        expected = sample.pred_instances
        count = len(expected)
        boxes, scores, labels, masks = (x[:count] for x in one)
        assert count > 20
        assert (one[1] > 0).sum() == count
        assert (one[2][count:] == -1).all()
        assert (one[3][count:] == 0).all()
        torch.testing.assert_close(scores, expected.scores, atol=1e-4, rtol=0)
        apart = -expected.scores.diff() > 2e-4
        clear = torch.ones(count, dtype=torch.bool)
        clear[1:] &= apart
        clear[:-1] &= apart
        assert clear.sum() > 10
        assert torch.equal(labels[clear], expected.labels[clear])
        torch.testing.assert_close(
            boxes[clear], expected.bboxes[clear], atol=2e-2, rtol=0
        )
        pasted, _ = _do_paste_mask(masks[:, None], boxes, *size, skip_empty=False)
        differ = (pasted >= 0.5) != expected.masks
        inside = expected.masks[clear].sum()
        areas = (expected.bboxes[:, 2:] - expected.bboxes[:, :2]).prod(1)
        assert 0.05 < inside / areas[clear].sum() < 0.95
        assert differ[clear].sum() < 1e-2 * inside


@pytest.mark.long
def test_faster_rcnn_has_no_masks(tmp_path):
    model = mask_rcnn(tmp_path)
    model.roi_head.mask_head = None
    export_model(model, tmp_path / 'm.onnx')
    boxes, scores, _ = run_onnx(tmp_path / 'm.onnx', torch.zeros(1, 3, 96, 128))
    assert boxes.shape == (1, 100, 4)
    assert (scores > 0).any()


def test_what_two_stages_do_otherwise_is_refused(tmp_path):
    model = mask_rcnn(tmp_path)
    with pytest.raises(ValueError, match=r'\.ts can not hold MaskRCNN: write \.onnx'):
        export_model(model, tmp_path / 'm.ts')
    layer = model.roi_head.mask_roi_extractor.roi_layers[0]
    layer.pool_mode = 'max'
    with pytest.raises(ValueError, match=r"roi_layer=.*'max'.*: not exported"):
        export_model(model, tmp_path / 'm.onnx')
    layer.pool_mode = 'avg'
    model.roi_head.test_cfg.nms.type = 'soft_nms'
    with pytest.raises(ValueError, match=r'soft_nms.*: not exported'):
        export_model(model, tmp_path / 'm.onnx')
    model.roi_head = nn.Identity()
    with pytest.raises(ValueError, match=r'Identity: .*StandardRoIHead only'):
        export_model(model, tmp_path / 'm.onnx')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(nms=dict(type='soft_nms', iou_threshold=0.5)), 'soft_nms'),
        (dict(nms_pre=-1), 'nms_pre'),
    ],
)
def test_other_ways_to_choose_boxes_are_refused(change, message, tmp_path):
    model = detector(tmp_path)
    model.bbox_head.test_cfg.update(change)
    with pytest.raises(ValueError, match=f'{message}.*not exported'):
        export_model(model, tmp_path / 'm.onnx')


@pytest.mark.parametrize('suffix', RUNS)
def test_semantic_fpn(suffix, tmp_path):
    pytest.importorskip('mmseg')
    path = tmp_path / 'config.py'
    write_segmentation_config(path, tmp_path)
    torch.manual_seed(0)
    model = randomised(build_from_config(Config.fromfile(path)))
    export_model(model, tmp_path / f'm{suffix}')
    for size in ((96, 64), (75, 131)):
        images = torch.randn(2, 3, *size)
        meta = dict(ori_shape=size, img_shape=size, pad_shape=size)
        with torch.no_grad():
            expected = model.encode_decode(images, [meta] * 2)
        (given,) = RUNS[suffix](tmp_path / f'm{suffix}', images)
        assert given.shape == (2, 3, *(-(-side // 4) for side in size))
        given = F.interpolate(torch.from_numpy(given), size, mode='bilinear')
        np.testing.assert_allclose(given, expected, atol=2e-4, rtol=1e-4)
    model.test_cfg.mode = 'slide'
    with pytest.raises(ValueError, match=r'test_cfg\.mode=slide'):
        export_model(model, tmp_path / 'n.onnx')


def test_comparisons_see_what_differs():
    images = torch.zeros(1, 3, 64, 64)
    rng = np.random.default_rng(0)
    boxes = rng.uniform(0, 64, (1, 20, 4)).astype(np.float32)
    scores = -np.sort(-rng.uniform(0, 1, (1, 20)).astype(np.float32))
    labels = np.arange(20).reshape(1, 20) % 3
    same = [boxes, scores, labels]
    assert compare_candidates(images, 10, same, same).difference == 0
    moved = [boxes + 1, scores, labels]
    assert compare_candidates(images, 10, same, moved).difference > 0.01
    renamed = [boxes, scores, (labels + 1) % 3]
    assert compare_candidates(images, 10, same, renamed).difference == np.inf
    expected = [[x[0] for x in same]]
    assert compare_detections(images, expected, same).difference == 0
    for wrong in (moved, renamed, [boxes, scores * (scores > 0.5), labels]):
        assert compare_detections(images, expected, wrong).difference == np.inf


WITHOUT_TORCH = """
import runpy, sys
sys.modules['torch'] = sys.modules['mmpoolformer'] = None  # importing them fails
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def run_example(*arguments: object) -> str:
    script = ROOT / 'docs' / 'examples' / 'onnx_inference.py'
    done = subprocess.run(
        [sys.executable, '-I', '-c', WITHOUT_TORCH, script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture
def picture(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / 'picture.png'
    Image.fromarray(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(path)
    return path


@pytest.mark.parametrize('crop_pct', [0.5, 0.9])
def test_the_example_classifies_without_torch(picture, tmp_path, crop_pct):
    model = classifier('poolformer_s12')
    names = ['ant', 'bee', 'cat', 'dog', 'eel']
    path = tmp_path / 'm.onnx'
    seen = dict(crop_pct=crop_pct, interpolation='nearest')
    info = {**INFO_FOR_EXAMPLE, 'classes': names, 'picture_size': [60, 60], **seen}
    export_model(model, path, info=info)
    lines = run_example(path, picture).splitlines()
    shares = {line.split()[1]: float(line.split()[0]) for line in lines}
    mean, std = (np.divide(INFO_FOR_EXAMPLE[name], 255) for name in ('mean', 'std'))
    transform = create_transform(60, **seen, mean=tuple(mean), std=tuple(std))
    with torch.no_grad(), Image.open(picture) as opened:
        expected = model(transform(opened)[None])[0].softmax(0).tolist()
    assert [shares[name] for name in names] == pytest.approx(expected, abs=1e-3)


def test_the_example_detects_without_torch(picture, tmp_path):
    path = tmp_path / 'm.onnx'
    info = {**INFO_FOR_EXAMPLE, 'classes': ['square', 'disc']}
    export_model(detector(tmp_path), path, info=info)
    out = tmp_path / 'out.png'
    text = run_example(
        *(path, picture, '--short-side', 128, '--score-thr', 0.1, '--out', out)
    )
    assert 'boxes with a score from 0.1' in text
    assert Image.open(out).size == (120, 90)


@pytest.mark.parametrize(
    'scale', [(96, 300), pytest.param((128, 96), marks=pytest.mark.long)]
)
def test_the_example_sees_pictures_at_the_size_of_the_test(picture, tmp_path, scale):
    path = tmp_path / 'm.onnx'
    model = detector(tmp_path)
    export_model(model, path, info={**INFO_FOR_EXAMPLE, 'scale': scale})
    size = (128, 96)  # of 120 x 90 within either scale
    with Image.open(picture) as opened:
        pixels = np.asarray(opened.resize(size, Image.Resampling.BILINEAR))
    mean, std = (np.float32(INFO_FOR_EXAMPLE[name]) for name in ('mean', 'std'))
    images = ((pixels - mean) / std).transpose(2, 0, 1)[None]
    session = onnxruntime.InferenceSession(path)
    _, scores, labels = session.run(None, {'images': images})
    first = run_example(path, picture, '--score-thr', 0).split()
    assert first[:3] == [f'{scores[0, 0]:.3f}', 'class', str(labels[0, 0])]


def test_the_example_finds_regions_without_torch(picture, tmp_path):
    pytest.importorskip('mmseg')
    write_segmentation_config(tmp_path / 'config.py', tmp_path)
    torch.manual_seed(0)
    model = randomised(build_from_config(Config.fromfile(tmp_path / 'config.py')))
    info = {**INFO_FOR_EXAMPLE, 'classes': ['square', 'disc', 'ground']}
    export_model(model, tmp_path / 'm.onnx', info=info)
    text = run_example(tmp_path / 'm.onnx', picture, '--short-side', 128)
    shares = dict(reversed(line.split()) for line in text.splitlines())
    with Image.open(picture) as opened:
        pixels = np.asarray(opened.resize((192, 128), Image.Resampling.BILINEAR))
    mean, std = (np.float32(INFO_FOR_EXAMPLE[name]) for name in ('mean', 'std'))
    images = torch.from_numpy(((pixels - mean) / std).transpose(2, 0, 1)[None])
    with torch.no_grad():
        logits = model(images, mode='tensor')
    labels = F.interpolate(logits, (90, 120), mode='bilinear').argmax(1)
    counts = labels.unique(return_counts=True)
    assert len(shares) == len(counts[0]) > 1
    for label, count in zip(*counts, strict=True):
        share = float(shares[info['classes'][label]].rstrip('%'))
        assert share == pytest.approx(100 * count.item() / labels.numel(), abs=0.05)


@pytest.mark.long
def test_the_example_draws_masks(picture, tmp_path):
    path = tmp_path / 'm.onnx'
    export_model(mask_rcnn(tmp_path), path, info=INFO_FOR_EXAMPLE)
    out = tmp_path / 'out.png'
    run_example(path, picture, '--short-side', 128, '--score-thr', 0.6, '--out', out)
    changed = np.asarray(Image.open(out)) != np.asarray(Image.open(picture))
    assert changed.any(2).mean() > 0.1  # lines of boxes alone are thin


def test_the_tool_exports_refuses_and_explains(tmp_path):
    config = tmp_path / 'config.py'
    write_segmentation_config(config, tmp_path)
    tool = 'tools/export.py'
    strict = 'model.backbone.arch.strict_size=True'
    mixers = 'model.backbone.arch.token_mixers=spatial_fc'
    done, mixed, bad_end, unknown, differs = run_many(
        [
            [tool, config, '--out', 'fpn.onnx'],
            [tool, config, '--out', 'x.onnx', '--cfg-options', strict, mixers],
            [tool, 'poolformer_s12', '--out', 'x.bin'],
            [tool, 'poolformer_s99', '--out', 'x.onnx'],
            [tool, config, '--out', 'x.onnx', '--tolerance', '1e-15'],
        ],
        tmp_path,
    )
    assert done['code'] in (0, None), done['err']
    assert 'config.py: all weights are random' in done['err']
    lines = done['out'].splitlines()
    assert lines[-1] == 'fpn.onnx: ONNX, segmentor, images of any size'
    assert len(lines) == 6
    about = json.loads(
        onnxruntime.InferenceSession(tmp_path / 'fpn.onnx')
        .get_modelmeta()
        .custom_metadata_map['mmpoolformer']
    )
    assert about['mean'] == [123.675, 116.28, 103.53]
    assert about['channel_order'] == 'RGB'
    assert mixed['code'] == 1
    assert 'takes images of one size only: give --fixed' in mixed['err']
    assert bad_end['code'] == 2
    assert 'must end in .onnx, .xml, .ts or .pt2' in bad_end['err']
    assert unknown['code'] == 1
    assert "no model 'poolformer_s99'" in unknown['err']
    assert differs['code'] == 1
    assert differs['err'].endswith('more than the tolerance of 1e-15\n')
    assert 'logits' in differs['out'].splitlines()[-1]
    for run in (mixed, bad_end, unknown, differs):
        assert run['err'].splitlines()[-1].startswith('error: ')
        assert 'Traceback' not in run['err']
    assert sorted(p.name for p in tmp_path.iterdir()) == ['config.py', 'fpn.onnx']
