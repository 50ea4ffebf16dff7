from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData
from tiny_data import write_detection_config, write_segmentation_config
from torch import Tensor, nn

from mmpoolformer.analysis.gradcam import (
    METHODS,
    SOURCES,
    BoxTarget,
    CamLayers,
    activation_map,
    box_map,
    classifier_map,
    find_layers,
    method_named,
    region_map,
)
from mmpoolformer.models.from_config import build_classifier, build_from_config

# Not square, so that rows and columns can't be mixed up unseen.
HEIGHT, WIDTH = 96, 160
RED, GREY = (2.0, -1.0, -1.0), (0.1, 0.1, 0.1)
# A quarter of the picture's width and a third of its height, at the upper right.
CORNER = (slice(0, 32), slice(120, 160))
CLASSIFIERS = [
    'poolformer_s12',
    'metaformer_ppaa_s12_224',
    'convformer_s18',
    'caformer_s18',
    'pit_ti',
    'pit_ti_distilled',
    'timm/poolformer_s12',
    'timm/pit_ti_224',
    'timm/deit_tiny_patch16_224',
    'timm/deit_tiny_distilled_patch16_224',
    'timm/resmlp_12_224',
    'timm/resnet18',
    'timm/swin_tiny_patch4_window7_224',
    'timm/convnext_atto',
]


def plain(colour: tuple[float, ...]) -> Tensor:
    return torch.tensor(colour)[None, :, None, None].expand(1, 3, HEIGHT, WIDTH)


def with_red(*places: tuple[slice, slice]) -> Tensor:
    """Return a grey picture (1, 3, H, W) that is red in some places."""
    images = plain(GREY).clone()
    for rows, columns in places:
        images[:, :, rows, columns] = torch.tensor(RED)[:, None, None]
    return images


def input_of(module: nn.Module, run: Callable[[], object]) -> Tensor:
    """Return what a module gets while something runs."""
    got = []
    handle = module.register_forward_pre_hook(lambda _, args: got.append(args[0]))
    with torch.no_grad():
        run()
    handle.remove()
    return got[0]


def assert_peaks(heat: np.ndarray, place: tuple[slice, slice], factor: float) -> None:
    """The strongest pixel lies in a place, which is stronger than the rest."""
    assert heat.shape == (HEIGHT, WIDTH)
    assert heat.min() >= 0 and heat.max() == pytest.approx(1, abs=1e-3)
    inside = np.zeros(heat.shape, dtype=bool)
    inside[place] = True
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    # A cell of the coarsest maps is 32 pixels wide.
    assert row < place[0].stop + 16 and column >= place[1].start - 16
    assert heat[inside].mean() > factor * heat[~inside].mean()


# -------------------------------------------------------------- closed forms


class Handmade(nn.Module):
    """Detectors of red, green and blue, and logits that weigh their averages."""

    def __init__(self) -> None:
        super().__init__()
        self.colours = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
        self.head = nn.Linear(3, 2)
        with torch.no_grad():
            self.colours[0].weight.copy_(torch.eye(3)[:, :, None, None])
            self.colours[0].bias.zero_()
            self.head.weight.copy_(torch.tensor([[1.0, -0.25, 0.5], [0.0, 1.0, 0.0]]))
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.colours(x).mean((2, 3)))


@pytest.fixture
def handmade() -> tuple[Handmade, CamLayers, Tensor]:
    torch.manual_seed(0)
    model = Handmade()
    images = torch.rand(1, 3, 6, 9)
    images[:, 0, :2, 6:] += 2
    return model, CamLayers((model.colours,)), images


def scaled(cam: Tensor) -> np.ndarray:
    cam = cam.clamp(min=0)
    cam = cam - cam.min()
    return (cam / cam.max()).numpy()


@pytest.mark.parametrize('category', [0, 1])
def test_gradcam_by_hand(handmade: tuple, category: int) -> None:
    model, layers, images = handmade
    heat = activation_map(model, images, lambda logits: logits[category], layers)
    # The gradient of the average is the head's weight over the number of pixels.
    weights = model.head.weight[category].detach() / 54
    expected = (weights[:, None, None] * images[0]).sum(0)
    np.testing.assert_allclose(heat, scaled(expected), atol=1e-5)


def test_ablation_by_hand(handmade: tuple) -> None:
    model, layers, images = handmade
    heat = activation_map(model, images, lambda x: x[0], layers, 'AblationCAM')
    # What the score loses without a channel, as a share of it.
    shares = model.head.weight[0].detach() * images[0].mean((1, 2))
    shares = shares / shares.sum()
    expected = (shares[:, None, None] * images[0]).sum(0)
    np.testing.assert_allclose(heat, scaled(expected), atol=1e-5)


def test_layercam_by_hand(handmade: tuple) -> None:
    model, layers, images = handmade
    heat = activation_map(model, images, lambda x: x[0], layers, 'LayerCAM')
    weights = model.head.weight[0].detach().clamp(min=0)
    expected = (weights[:, None, None] * images[0]).sum(0)
    np.testing.assert_allclose(heat, scaled(expected), atol=1e-5)


@pytest.mark.parametrize('method', METHODS)
def test_every_method_finds_the_corner(handmade: tuple, method: str) -> None:
    model, layers, images = handmade
    heat = activation_map(model, images, lambda x: x[0], layers, method)
    corner, rest = heat[:2, 6:], np.delete(heat, np.s_[6:], axis=1)
    if method == 'EigenCAM':  # of the strongest pattern, whose sign is arbitrary
        assert abs(corner.mean() - rest.mean()) > 0.25
    else:
        assert corner.min() > rest.max()


def test_no_evidence_is_an_empty_map(handmade: tuple) -> None:
    model, layers, images = handmade
    heat = activation_map(model, -images, lambda x: x[0], layers)
    assert heat.max() == 0


@pytest.mark.parametrize('method', ['GradCAM', 'AblationCAM'])
def test_model_stays_as_it_is(handmade: tuple, method: str) -> None:
    model, layers, images = handmade
    model.requires_grad_(False)
    heat = activation_map(model, images, lambda x: x[0], layers, method)
    assert heat.max() > 0.99  # frozen models have maps too
    assert not any(m._forward_hooks for m in model.modules())
    assert model.colours is layers.modules[0]
    assert not any(p.requires_grad for p in model.parameters())


def test_tokens_become_rows_of_cells() -> None:
    patches = nn.Conv2d(3, 1, kernel_size=16, stride=8)
    layers = CamLayers((patches,), 'tokens', (patches,))
    rows, columns = (32 - 16) // 8 + 1, (50 - 16) // 8 + 1
    cells = torch.arange(rows * columns * 2.0).view(1, rows * columns, 2)
    tokens = torch.cat([torch.full((1, 2, 2), -1.0), cells], dim=1)
    found = layers.to_map(tokens, (32, 50))
    assert found.shape == (1, 2, rows, columns)
    assert found[0, 0, 1, 2] == 2 * (columns + 2) and found.min() == 0
    with pytest.raises(ValueError, match='no map of 500 x 500 pixels'):
        layers.to_map(tokens, (500, 500))


def test_channels_last_become_first() -> None:
    output = torch.rand(1, 2, 3, 4)
    found = CamLayers((), 'NHWC').to_map(output, (8, 12))
    assert found.shape == (1, 4, 2, 3) and found[0, 3, 1, 2] == output[0, 1, 2, 3]


# --------------------------------------------------------------- classifiers


@contextmanager
def giving(layer: nn.Module, output: Tensor) -> Iterator[None]:
    """Let a layer give something else than what it has computed."""
    handle = layer.register_forward_hook(lambda *_: output)
    yield
    handle.remove()


def red_classifier(name: str) -> nn.Module:
    """Build a classifier with random weights whose class 1 means red.

    The head's weights are what it gets when the last stage has seen red, while all
    before has seen grey, less what it gets for grey.
    """
    torch.manual_seed(0)
    model = build_classifier(name, (HEIGHT, WIDTH), num_classes=2)
    heads = [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear) and module.out_features == 2
    ]
    assert heads, 'no linear layer gives the logits'
    layer = find_layers(model).modules[0]
    outputs = []
    watching = layer.register_forward_hook(lambda *args: outputs.append(args[2]))
    with torch.no_grad():
        model(plain(RED)), model(plain(GREY))
    watching.remove()
    outputs.append(torch.zeros_like(outputs[0]))
    for head in heads:
        seen = []
        for output in outputs:
            with giving(layer, output):
                seen.append(input_of(head, lambda: model(plain(GREY))))
        red, grey = seen[0] - seen[2], seen[1] - seen[2]
        # What red has and grey has not, so that grey counts for nothing.
        weight = red - (red * grey).sum() / grey.square().sum() * grey
        with torch.no_grad():
            head.weight.copy_(torch.cat([-weight, weight]))
            head.bias.zero_()
    return model


@pytest.mark.slow
@pytest.mark.parametrize('name', CLASSIFIERS)
def test_evidence_lies_in_the_corner(name: str) -> None:
    model = red_classifier(name)
    images = with_red(CORNER)
    heat = classifier_map(model, images, 1)
    assert_peaks(heat, CORNER, factor=1.5)


@pytest.mark.slow
@pytest.mark.parametrize('name', CLASSIFIERS)
def test_upside_down_upside_down(name: str) -> None:
    model = red_classifier(name)
    corner = (slice(64, 96), slice(0, 40))
    heat = classifier_map(model, with_red(corner), 1)
    assert_peaks(np.flip(heat, (0, 1)), CORNER, factor=1.5)


@pytest.mark.slow
def test_every_kind_of_classifier_is_tested() -> None:
    kinds = set()
    for name in CLASSIFIERS:
        kinds |= {kind.__name__ for kind in type(build_classifier(name)).__mro__}
    # The last one is a backbone, not a classifier.
    assert set(SOURCES) - kinds == {'PiT'}


def test_a_layer_by_name() -> None:
    model = build_classifier('poolformer_s12', num_classes=2)
    assert find_layers(model).modules == (model.stages[3],)
    assert find_layers(model, 'stages.-2').modules == (model.stages[2],)
    assert (
        find_layers(model, 'stages.2.blocks.0').modules[0]
        is (model.stages[2].blocks[0])
    )
    with pytest.raises(ValueError, match=r"no layer 'stages\.7' .* has stem, stages"):
        find_layers(model, 'stages.7')
    with pytest.raises(ValueError, match="no layer 'nothing'"):
        find_layers(model, 'nothing')


def test_unknown_models_need_a_layer() -> None:
    model = Handmade()
    with pytest.raises(ValueError, match=r'Handmade: .* choose one with --layer'):
        find_layers(model)
    assert find_layers(model, 'colours.0').modules == (model.colours[0],)


def test_a_layer_that_gives_no_map() -> None:
    model = build_classifier('timm/pit_ti_224', num_classes=2)
    with pytest.raises(ValueError, match='gives out tuple, not one map'):
        classifier_map(model, torch.zeros(1, 3, 224, 224), 0, layer='transformers.1')


@pytest.mark.parametrize(
    ('name', 'meant'),
    [
        ('gradcam', 'GradCAM'),
        ('GradCAM++', 'GradCAMPlusPlus'),
        ('ScoreCAM', 'ScoreCAM'),
    ],
)
def test_methods_by_name(name: str, meant: str) -> None:
    assert method_named(name) == meant


def test_unknown_method() -> None:
    with pytest.raises(ValueError, match="no method 'GardCAM': choose from GradCAM,"):
        method_named('GardCAM')


# ---------------------------------------------------- detectors, segmentors


def sample_of() -> DetDataSample:
    size = (HEIGHT, WIDTH)
    return DetDataSample(
        metainfo=dict(
            img_shape=size,
            ori_shape=size,
            pad_shape=size,
            batch_input_shape=size,
            scale_factor=(1.0, 1.0),
        )
    )


def red_output(layer: nn.Conv2d, run: Callable[[Tensor], object], bias: float) -> None:
    """Make all channels of an output convolution answer to red at their own place."""
    seen = input_of(layer, lambda: run(with_red(CORNER)))[0]  # (C, h, w)
    rows, columns = seen.shape[1] // 3, seen.shape[2] // 4
    red = seen[:, :rows, -columns:].mean((1, 2))
    grey = seen[:, -rows:, :columns].mean((1, 2))
    direction = (red - grey) / (red - grey).square().sum()
    with torch.no_grad():
        middle = layer.kernel_size[0] // 2
        layer.weight.zero_()
        layer.weight[:, :, middle, middle] = 8 * direction
        layer.bias.fill_(bias - 8 * float((grey * direction).sum()))


@pytest.fixture
def red_detector(tmp_path: Path) -> nn.Module:
    path = tmp_path / 'config.py'
    write_detection_config(path, tmp_path)
    torch.manual_seed(0)
    model = build_from_config(Config.fromfile(path))
    red_output(model.bbox_head.retina_cls, model, bias=-5)
    with torch.no_grad():
        # Red speaks for class 0 alone, and boxes stay where their anchors are.
        model.bbox_head.retina_cls.bias[1::2] = -20
        model.bbox_head.retina_reg.weight.zero_()
    return model


@pytest.mark.parametrize('method', ['GradCAM', 'LayerCAM'])
def test_boxes_are_explained_by_their_place(
    red_detector: nn.Module, method: str
) -> None:
    sample = sample_of()
    with torch.no_grad():
        found = red_detector.predict(with_red(CORNER), [sample])[0].pred_instances
    assert len(found) and found.scores[0] > 0.3 and found.labels[0] == 0
    heat = box_map(red_detector, with_red(CORNER), sample, found.bboxes[0], 0, method)
    assert_peaks(heat, CORNER, factor=2)
    assert all(p.grad is None for p in red_detector.parameters())


def test_each_box_has_a_map_of_its_own(red_detector: nn.Module) -> None:
    other = (slice(64, 96), slice(0, 40))
    images, sample = with_red(CORNER, other), sample_of()
    with torch.no_grad():
        maps = red_detector.extract_feat(images)
        found = red_detector.bbox_head.predict(maps, [sample], rescale=True)[0]
    found = found[found.scores > 0.3]
    centres = (found.bboxes[:, 0] + found.bboxes[:, 2]) / 2
    right = int((centres > 100).nonzero()[0])
    left = int((centres < 60).nonzero()[0])
    maps = [
        box_map(red_detector, images, sample, found.bboxes[i], 0, 'LayerCAM')
        for i in (right, left)
    ]
    assert_peaks(maps[0], CORNER, factor=3)
    assert_peaks(np.flip(maps[1], (0, 1)), CORNER, factor=3)


def test_pyramid_is_where_detectors_are_looked_at(red_detector: nn.Module) -> None:
    assert find_layers(red_detector).modules == tuple(red_detector.neck.fpn_convs)
    stage = find_layers(red_detector, 'backbone.stages.-1').modules
    assert stage == (red_detector.backbone.stages[-1],)


def test_two_stage_detector_is_explained(tmp_path: Path) -> None:
    path = tmp_path / 'config.py'
    write_detection_config(path, tmp_path, masks=True)
    torch.manual_seed(0)
    model = build_from_config(Config.fromfile(path))
    model.roi_head.test_cfg.score_thr = 0.0
    sample = sample_of()
    images = with_red(CORNER)
    with torch.no_grad():
        found = model.predict(images, [sample])[0].pred_instances
    box, label = found.bboxes[0], int(found.labels[0])
    heat = box_map(model, images, sample, box, label, 'LayerCAM')
    inside = np.zeros((HEIGHT, WIDTH), dtype=bool)
    left, top, right, bottom = (int(v) for v in box)
    # RoIAlign reads the box and a cell around it, nothing else.
    margin = 32
    inside[max(top - margin, 0) : bottom + margin] = True
    inside[:, : max(left - margin, 0)] = inside[:, right + margin :] = False
    assert heat.max() == pytest.approx(1, abs=1e-3)
    assert heat[~inside].max(initial=0) < 1e-3


@pytest.fixture
def red_segmentor(tmp_path: Path) -> nn.Module:
    """Its first channel tells red from grey all the way; all others are zero."""
    path = tmp_path / 'config.py'
    write_segmentation_config(path, tmp_path)
    model = build_from_config(Config.fromfile(path))
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d):
                module.weight.zero_()
                module.weight[0, 0] = 1 / module.weight[0, 0].numel()
                if module.bias is not None:
                    module.bias.zero_()
            if name.endswith(('layer_scale1', 'layer_scale2')):
                module.scale.zero_()
        # Grey is class 1.
        model.decode_head.conv_seg.weight[1:] = 0
        model.decode_head.conv_seg.bias.copy_(torch.tensor([0.0, 30.0, -99.0]))
    return model


def test_regions_are_explained_by_their_place(red_segmentor: nn.Module) -> None:
    images, sample = with_red(CORNER), sample_of()
    with torch.no_grad():
        logits = red_segmentor.encode_decode(images, [sample.metainfo])[0]
    labels = logits.argmax(0)
    assert labels[8, 150] == 0 and labels[80, 20] == 1
    heat = region_map(red_segmentor, images, sample, 0)
    assert_peaks(heat, CORNER, factor=5)
    last = red_segmentor.backbone.stages[-1]
    assert find_layers(red_segmentor).modules == (last,)


def test_a_class_without_a_region_is_scored_everywhere(
    red_segmentor: nn.Module,
) -> None:
    with torch.no_grad():
        red_segmentor.decode_head.conv_seg.weight[2] = (
            red_segmentor.decode_head.conv_seg.weight[0]
        )
    heat = region_map(red_segmentor, with_red(CORNER), sample_of(), 2)
    assert_peaks(heat, CORNER, factor=5)


def test_box_target_scores_the_same_box_alone() -> None:
    found = InstanceData(
        bboxes=torch.tensor([[0, 0, 10, 10], [0, 0, 10, 8], [50, 50, 60, 60.0]]),
        scores=torch.tensor([0.6, 0.9, 0.8], requires_grad=True),
        labels=torch.tensor([1, 1, 0]),
    )
    score = BoxTarget([0, 0, 10, 10], 1)(found)
    # The surest times the overlap of 0.8 beats the less sure one that fits.
    assert score.item() == pytest.approx(0.8 * 0.9)
    score.backward()
    assert found.scores.grad.tolist() == pytest.approx([0, 0.8, 0])
    assert BoxTarget([0, 0, 10, 10], 0)(found) == 0  # of another class
    assert BoxTarget([30, 30, 40, 40], 1)(found) == 0  # elsewhere
    assert BoxTarget([0, 0, 10, 10], 1)(found[:0]) == 0
