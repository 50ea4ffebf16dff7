"""Class-activation maps: which part of a picture speaks for a class, box or region.

The methods are pytorch-grad-cam's (https://github.com/jacobgil/pytorch-grad-cam, MIT),
under its names. Here is what they need to know of models: the layer to look at, how its
output becomes a map, and what to score, for classifiers, detectors and segmentors.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial, reduce

import numpy as np
import torch
from mmengine.structures import BaseDataElement, InstanceData
from numpy import ndarray
from pytorch_grad_cam import (
    AblationCAM,
    AblationLayer,
    EigenCAM,
    GradCAM,
    GradCAMPlusPlus,
    LayerCAM,
    ScoreCAM,
    XGradCAM,
)
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision.ops import box_iou

METHODS = {
    'GradCAM': GradCAM,
    'GradCAMPlusPlus': GradCAMPlusPlus,
    'XGradCAM': XGradCAM,
    'EigenCAM': EigenCAM,
    'LayerCAM': LayerCAM,
    'AblationCAM': AblationCAM,
    'ScoreCAM': ScoreCAM,
}
# Of boxes that overlap less, none is the one asked for.
SAME_BOX = 0.5


@dataclass(frozen=True)
class Source:
    """Where a kind of model shows what it has seen.

    Attributes:
        path: Module whose output is taken, with list indices that may be negative.
        layout: Of its output: `'NCHW'`, `'NHWC'` or `'tokens'` (B, N, C), where class
            tokens come first and the cells of the map follow row by row.
        convolutions: For tokens, finds the convolutions that make a grid of the image.
    """

    path: str
    layout: str = 'NCHW'
    convolutions: Callable[[nn.Module], Sequence[nn.Conv2d]] | None = None


def _pit_convolutions(model: nn.Module) -> list[nn.Conv2d]:
    pools = [stage.pool for stage in model.transformers if stage.pool is not None]
    return [model.patch_embed.conv, *(pool.conv for pool in pools)]


# Where the last block of a ViT reads, not what it writes: the head sees the class token
# alone, so that the other tokens have no influence any more after the block.
_VIT = Source('blocks.-1.norm1', 'tokens', lambda model: [model.patch_embed.proj])
_PIT = Source('transformers.-1.blocks.-1.norm1', 'tokens', _pit_convolutions)

# By class: ours, timm's, and the backbones of OpenMMLab with the same names.
SOURCES = {
    'MetaFormerTrunk': Source('stages.-1'),
    'PiT': Source('-1'),  # the norm of the last map that it gives out
    'PiTClassifier': _PIT,
    'ConvNeXt': Source('stages.-1'),
    'MetaFormer': Source('stages.-1'),
    'MlpMixer': Source('blocks.-1', 'tokens', lambda model: [model.stem.proj]),
    'PoolingVisionTransformer': _PIT,
    'ResNet': Source('layer4'),
    'SwinTransformer': Source('layers.-1', 'NHWC'),
    'VisionTransformer': _VIT,
}


class UnknownLayerError(ValueError):
    """A model of which no default layer is known."""


@dataclass(frozen=True)
class CamLayers:
    """Layers whose outputs are looked at, and how these become maps.

    Attributes:
        modules: The layers; several are averaged. None may lie behind another.
        layout: See `Source`.
        convolutions: For tokens, those that make a grid of the image.
    """

    modules: tuple[nn.Module, ...]
    layout: str = 'NCHW'
    convolutions: tuple[nn.Conv2d, ...] = ()

    def to_map(self, output: Tensor, size: Sequence[int]) -> Tensor:
        """Bring a layer's output to (B, C, h, w).

        Args:
            output: What a layer gives out.
            size: Height and width of the images.

        Raises:
            ValueError: If tokens do not fill the grid that the image makes.
        """
        if output.ndim == 4:
            return output.permute(0, 3, 1, 2) if self.layout == 'NHWC' else output
        height, width = _grid(self.convolutions, size)
        extra = output.shape[1] - height * width
        if output.ndim != 3 or not 0 <= extra < 16 or not self.convolutions:
            raise ValueError(
                f'the layer gives {tuple(output.shape)}, no map of {size[0]} x '
                f'{size[1]} pixels: choose another layer'
            )
        cells = output[:, extra:].unflatten(1, (height, width))
        return cells.permute(0, 3, 1, 2)  # (B, h, w, C) -> (B, C, h, w)


def method_named(name: str) -> str:
    """Return the key of `METHODS` for a name in any case, `GradCAM++` among them.

    Raises:
        ValueError: If there is no such method.
    """
    wanted = name.lower().replace('++', 'plusplus')
    for known in METHODS:
        if known.lower() == wanted:
            return known
    raise ValueError(f'no method {name!r}: choose from {", ".join(METHODS)}')


def find_layers(model: nn.Module, path: str | None = None) -> CamLayers:
    """Find the layers to look at.

    Without a path these are, for classifiers and segmentors, the last stage (see
    `SOURCES`), and for detectors with a feature pyramid its output convolutions: a box
    comes from one level, and the others do not add to its map.

    Args:
        model: A classifier, or a detector or segmentor of OpenMMLab.
        path: Another module by its dotted name, such as `stages.2` or
            `backbone.layer3`; indices may be negative.

    Raises:
        ValueError: If there is no such module.
        UnknownLayerError: If the model is of no known kind, and no module is named.
    """
    pyramid = getattr(getattr(model, 'neck', None), 'fpn_convs', None)
    if path is None and pyramid is not None and _detects(model):
        return CamLayers(tuple(pyramid))
    trunk = getattr(model, 'backbone', model)
    names = [kind.__name__ for kind in type(trunk).__mro__]
    source = next((SOURCES[name] for name in names if name in SOURCES), None)
    if path is None and source is None:
        raise UnknownLayerError(
            f'{type(trunk).__name__}: no default layer is known for this model; choose '
            f'one with --layer (known models: {", ".join(SOURCES)})'
        )
    module = _module(trunk, source.path) if path is None else _module(model, path)
    if source is None:
        return CamLayers((module,))
    found = source.convolutions(trunk) if source.convolutions else ()
    return CamLayers((module,), source.layout, tuple(found))


def activation_map(
    model: nn.Module,
    images: Tensor,
    target: Callable[[object], Tensor],
    layers: CamLayers,
    method: str = 'GradCAM',
    batch_size: int = 16,
) -> ndarray:
    """Compute the map of one image for anything that can be scored.

    The model is put in evaluation mode; gradients that it holds are dropped.

    Args:
        model: Images to something that has an entry for each of them.
        images: (1, C, H, W), as the model wants them.
        target: Scores the entry: a tensor without dimensions.
        layers: See `find_layers`.
        method: A key of `METHODS`. ScoreCAM and AblationCAM run the model once for each
            channel of the layer; EigenCAM does not look at the target.
        batch_size: Images at once, in these many runs.

    Returns:
        Evidence for each pixel, float32 (H, W) from 0 to 1; all 0 if there is none.
    """
    options = {
        'reshape_transform': partial(layers.to_map, size=images.shape[2:]),
    }
    if method == 'AblationCAM':
        options['ablation_layer'] = _ZeroAblation(layers.layout)
        options['batch_size'] = batch_size
    with ExitStack() as cleaning, torch.enable_grad():
        for module in layers.modules:
            cleaning.callback(module.register_forward_hook(_start_here).remove)
        cam = METHODS[method](model, list(layers.modules), **options)
        cleaning.callback(cam.activations_and_grads.release)
        cam.batch_size = batch_size
        found = cam(images, [target])[0]
    model.zero_grad(set_to_none=True)
    return np.nan_to_num(found.astype(np.float32))


def classifier_map(
    model: nn.Module,
    images: Tensor,
    category: int,
    method: str = 'GradCAM',
    layer: str | None = None,
) -> ndarray:
    """Compute what speaks for a class.

    Args:
        model: Images to logits (B, K).
        images: (1, C, H, W), normalised as the model wants it.
        category: Number of the class.
        method: A key of `METHODS`.
        layer: See `find_layers`.

    Returns:
        float32 (H, W) from 0 to 1.
    """
    layers = find_layers(model, layer)
    target = ClassifierOutputTarget(category)
    return activation_map(model, images, target, layers, method)


def box_map(
    model: nn.Module,
    images: Tensor,
    sample: BaseDataElement,
    box: Sequence[float],
    label: int,
    method: str = 'GradCAM',
    layer: str | None = None,
) -> ndarray:
    """Compute what speaks for a box that a detector has found.

    What is scored is the confidence of the found box of that class that fits best.
    GradCAM weighs the channels by this box, but shows them everywhere; LayerCAM keeps
    to the places that the box depends on.

    Args:
        model: A detector of mmdet's.
        images: (1, C, H, W), as the detector's data preprocessor gives them.
        sample: The data sample of the image, with its sizes.
        box: (left, top, right, bottom), in pixels of the original picture.
        label: Number of its class.
        method: A key of `METHODS`.
        layer: See `find_layers`.

    Returns:
        float32 (H, W) from 0 to 1, for the pixels of `images`.
    """
    layers = find_layers(model, layer)
    target = BoxTarget(box, label)
    view = _DetectorView(model, sample)
    return activation_map(view, images, target, layers, method, batch_size=1)


def region_map(
    model: nn.Module,
    images: Tensor,
    sample: BaseDataElement,
    category: int,
    method: str = 'GradCAM',
    layer: str | None = None,
) -> ndarray:
    """Compute what speaks for the pixels that a segmentor gives to a class.

    What is scored is the sum of the class's logits over these pixels, or over all where
    there are none.

    Args:
        model: A segmentor of mmseg's.
        images: (1, C, H, W), as the segmentor's data preprocessor gives them.
        sample: The data sample of the image, with its sizes.
        category: Number of the class.
        method: A key of `METHODS`.
        layer: See `find_layers`.

    Returns:
        float32 (H, W) from 0 to 1, for the pixels of `images`.
    """
    layers = find_layers(model, layer)
    view = _SegmentorView(model, sample)
    with torch.no_grad():
        chosen = view(images)[0].argmax(0) == category
    target = RegionTarget(category, chosen if chosen.any() else ~chosen)
    return activation_map(view, images, target, layers, method, batch_size=1)


class BoxTarget:
    """Scores how surely a box is found again, from 0 to 1.

    Args:
        box: (left, top, right, bottom), in pixels of the original picture.
        label: Number of its class.
    """

    def __init__(self, box: Sequence[float], label: int) -> None:
        self.box = torch.as_tensor(box, dtype=torch.float32).reshape(1, 4)
        self.label = label

    def __call__(self, found: InstanceData) -> Tensor:
        """Return confidence times overlap of the best box of the class, or 0."""
        same = found.labels == self.label
        boxes, scores = found.bboxes[same].detach(), found.scores[same]
        overlaps = box_iou(self.box.to(boxes), boxes)[0]
        if not len(boxes) or overlaps.max() < SAME_BOX:
            return found.scores.sum() * 0
        best = (overlaps * scores.detach()).argmax()
        return overlaps[best] * scores[best]


class RegionTarget:
    """Scores the logits of a class over some pixels.

    Args:
        category: Number of the class.
        pixels: bool (H, W).
    """

    def __init__(self, category: int, pixels: Tensor) -> None:
        self.category = category
        self.pixels = pixels

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the sum for logits (K, H, W)."""
        return logits[self.category][self.pixels].sum()


class _View(nn.Module):
    """A model of OpenMMLab as a function of images alone, all with one data sample."""

    def __init__(self, model: nn.Module, sample: BaseDataElement) -> None:
        super().__init__()
        self.model = model
        self.sample = sample


class _DetectorView(_View):
    """Gives the instances found in each image."""

    def forward(self, images: Tensor) -> list[InstanceData]:
        samples = [copy.deepcopy(self.sample) for _ in images]
        if hasattr(self.model, 'roi_head'):
            found = self.model.predict(images, samples, rescale=True)
            return [sample.pred_instances for sample in found]
        maps = self.model.extract_feat(images)
        with _Attached():
            return self.model.bbox_head.predict(maps, samples, rescale=True)


class _Attached(TorchFunctionMode):
    """Keeps gradients where code detaches: mmdet's dense heads do before decoding."""

    def __torch_function__(
        self,
        func: Callable,
        types: Sequence[type],
        args: Sequence = (),
        kwargs: Mapping | None = None,
    ) -> object:
        if func is torch.Tensor.detach:
            return args[0]
        return func(*args, **(kwargs or {}))


class _SegmentorView(_View):
    """Gives logits (B, K, H, W)."""

    def forward(self, images: Tensor) -> Tensor:
        return self.model.encode_decode(images, [self.sample.metainfo] * len(images))


class _ZeroAblation(AblationLayer):
    """Sets one channel to zero for each image of a batch, as the paper does.

    The library's own sets channels that can be negative to minus ten million, which
    leaves nothing of the others behind a norm over channels.
    """

    def __init__(self, layout: str) -> None:
        super().__init__()
        self.channels_first = layout == 'NCHW'

    def set_next_batch(
        self, input_batch_index: int, activations: Tensor, num_channels_to_ablate: int
    ) -> None:
        one = activations[input_batch_index : input_batch_index + 1]
        repeats = (num_channels_to_ablate, *(1 for _ in one.shape[1:]))
        self.activations = one.repeat(*repeats)

    def __call__(self, x: Tensor) -> Tensor:
        for image, channel in zip(self.activations, self.indices, strict=False):
            image.select(0 if self.channels_first else -1, int(channel)).zero_()
        return self.activations


def _start_here(module: nn.Module, args: tuple, output: object) -> Tensor:
    """Let gradients start at a layer: also frozen models have a map then."""
    if not isinstance(output, Tensor):
        raise ValueError(
            f'{type(module).__name__} gives out {type(output).__name__}, not one map: '
            'choose another layer'
        )
    if not torch.is_grad_enabled():
        return output
    # The copy is no leaf, so what follows may change it in place.
    return output.detach().requires_grad_().clone()


def _grid(convolutions: Sequence[nn.Conv2d], size: Sequence[int]) -> tuple[int, ...]:
    """Return rows and columns of cells that convolutions make of an image."""
    for layer in convolutions:
        sides = zip(size, layer.kernel_size, layer.stride, layer.padding, strict=True)
        size = [
            (side + 2 * pad - kernel) // step + 1 for side, kernel, step, pad in sides
        ]
    return tuple(size)


def _detects(model: nn.Module) -> bool:
    return hasattr(model, 'bbox_head') or hasattr(model, 'roi_head')


def _module(model: nn.Module, path: str) -> nn.Module:
    try:
        return reduce(_child, path.split('.'), model)
    except (AttributeError, IndexError, ValueError, TypeError) as error:
        names = ', '.join(name for name, _ in model.named_children())
        raise ValueError(
            f'no layer {path!r} in the model, which has {names}'
        ) from error


def _child(module: nn.Module, name: str) -> nn.Module:
    if name.lstrip('-').isdigit():
        return list(module.children())[int(name)]
    return module.get_submodule(name)
