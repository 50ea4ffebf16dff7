"""Quantisation of an OpenVINO model to 8-bit integers, measured on pictures.

Only convolutions and matrix products become integers; what decodes boxes, normalises
and adds stays in float32. Where the result is not good enough on pictures held back,
sensitive groups of layers go back to float32, one after the other.
"""

import io
import os
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy import ndarray
from PIL import Image
from timm.data import create_transform
from torchvision.ops import box_iou

from mmpoolformer.classification.class_labels import imagenet_synsets
from mmpoolformer.data.class_folders import ClassFolders
from mmpoolformer.inference.compiling import kept_signal_stack
from mmpoolformer.utils.images import find_pictures, open_picture

if TYPE_CHECKING:
    import openvino

# At most so many pictures set the ranges of numbers, and as many others measure.
PICTURES = {'classifier': 256, 'detector': 64, 'segmentor': 64}
# Boxes from SHOWN count as found, and have a partner of the same class that overlaps by
# SAME and has at least half of that score.
SHOWN, SAME = 0.3, 0.5
# What pictures of detectors and segmentors are resized to, if their file does not say.
SCALES = {'detector': (1333, 800), 'segmentor': (2048, 512)}
MULTIPLE = 32  # of which sides are
PRODUCTS = {'Convolution', 'GroupConvolution', 'MatMul'}
CHOOSING = {'ROIAlign', 'Gather', 'GatherElements', 'GatherND'}
MEASURES = {
    'classifier': 'top-1 agreement with float32',
    'detector': 'boxes with a partner in those of float32',
    'segmentor': 'pixels of the same class as by float32',
}

Run = Callable[[ndarray], Sequence[ndarray]]
Node = Any  # openvino's


@dataclass(frozen=True)
class Quantised:
    """How good a quantised model is.

    Attributes:
        measure: What was measured.
        pictures: Pictures that were held back for it.
        before: Percentage in float32.
        after: Percentage in 8 bits.
        in_float: Groups of layers that stayed in float32.
    """

    measure: str
    pictures: int
    before: float
    after: float
    in_float: tuple[str, ...]

    @property
    def drop(self) -> float:
        """What was lost, in points."""
        return self.before - self.after

    def __str__(self) -> str:
        """Return one or two lines."""
        text = (
            f'{self.measure}, {self.pictures} pictures held back: '
            f'{self.before:.1f} % in float32, {self.after:.1f} % in int8'
        )
        kept = ', '.join(self.in_float)
        return f'{text}\nleft in float32: {kept}' if kept else text


def quantise(
    model: 'openvino.Model',
    about: Mapping,
    folder: str,
    max_drop: float,
    load: Callable[['openvino.Model'], Run],
) -> tuple['openvino.Model', Quantised]:
    """Make 8-bit integers of weights and of what they are multiplied by.

    Args:
        model: A model in float32.
        about: Its description, see `mmpoolformer.export.export.export_model`.
        folder: Pictures; half of them set the ranges, the others measure. For a
            classifier class folders, with which the accuracy is measured; without
            them, as for other models, agreement with float32 is.
        max_drop: Points that may be lost before groups of layers go back to float32.
        load: Makes a model ready to run in float32, as far as it is not quantised.

    Returns:
        The new model, which may have lost more with all groups in float32, and how good
        it is.

    Raises:
        ValueError: If the pictures are too few or show nothing to measure by, or the
            model has no results to compare or does not say how it takes pictures.
    """
    kind = about['kind']
    if kind not in MEASURES or 'mean' not in about:
        raise ValueError(
            f'int8 is for {", ".join(MEASURES)} with mean and std, not a {kind}'
        )
    samples = _find(folder, about)
    used, held = (samples[start::2][: PICTURES[kind]] for start in (0, 1))

    def seen_by(one: 'openvino.Model') -> list:
        run = load(one)
        return [_seen(kind, run(_prepared(path, about))) for path, _ in held]

    seen = seen_by(model)
    labels = [label for _, label in held]
    truth = seen if None in labels else labels
    measure = MEASURES[kind] if truth is seen else 'top-1'
    before = _share(kind, truth, seen)
    left, groups = _groups(model), []
    while True:
        names = [name for group in groups for name in group[1]]
        smaller = _quantised(model, about, [path for path, _ in used], names)
        after = _share(kind, truth, seen_by(smaller))
        if before - after <= max_drop or not left:
            kept = tuple(name for name, _ in groups)
            return smaller, Quantised(measure, len(held), before, after, kept)
        groups.append(left.pop(0))


def _find(folder: str, about: Mapping) -> list[tuple[str, int | None]]:
    """Return pictures in a random order, each with its class if that is known."""
    found = _labelled(folder, about.get('classes') or ())
    if about['kind'] != 'classifier' or not found:
        found = [(path, None) for path in find_pictures([folder])]
    if len(found) < 2:
        raise ValueError(f'{folder}: one picture only; int8 needs some to measure by')
    random.Random(0).shuffle(found)
    return found


def _labelled(folder: str, classes: Sequence[str]) -> list[tuple[str, int]]:
    """Return the pictures of class folders, or none if there are no such folders."""
    try:
        reader = ClassFolders(folder)
    except (ValueError, OSError):
        return []
    folders = list(reader.class_to_idx)
    for names in (classes, imagenet_synsets(len(classes))):
        if set(folders) <= set(names):
            numbers = [list(names).index(name) for name in folders]
            return [(str(path), numbers[label]) for path, label in reader.samples]
    return []


def _prepared(path: str, about: Mapping) -> ndarray:
    """Return a picture as the network gets it, float32 (1, 3, H, W)."""
    picture = open_picture(path)
    mean, std = (np.float32(about[name]) for name in ('mean', 'std'))
    if about['kind'] == 'classifier':
        size = about['picture_size'] if about['size'] == 'any' else about['size']
        seen = ('crop_pct', 'interpolation')
        options = {name: about[name] for name in seen if name in about}
        transform = create_transform(
            (3, *size), **options, mean=tuple(mean / 255), std=tuple(std / 255)
        )
        return transform(picture).numpy()[None]
    picture = picture.resize(_size(picture, about), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture, np.float32)
    if about['channel_order'] == 'BGR':
        pixels = pixels[..., ::-1]
    return np.ascontiguousarray(((pixels - mean) / std).transpose(2, 0, 1)[None])


def _size(picture: Image.Image, about: Mapping) -> tuple[int, int]:
    """Return width and height that a picture is brought to."""
    if about['size'] != 'any':
        return tuple(reversed(about['size']))
    shorter, longer = sorted(about.get('scale') or SCALES[about['kind']])
    scale = min(shorter / min(picture.size), longer / max(picture.size))
    width, height = (
        max(round(side * scale / MULTIPLE), 1) * MULTIPLE for side in picture.size
    )
    return width, height


def _seen(kind: str, outputs: Sequence[ndarray]) -> Any:
    """Return what is compared of a model's outputs for one image."""
    if kind == 'detector':
        boxes, scores, labels = (x[0] for x in outputs[:3])
        kept = scores >= SHOWN / 2
        return boxes[kept], scores[kept], labels[kept]
    found = outputs[0][0].argmax(0)
    return found.astype(np.int16)


def _share(kind: str, truth: Iterable, seen: Iterable) -> float:
    """Return how much of what was seen is right, in percent.

    Raises:
        ValueError: If there is nothing.
    """
    pairs = [
        _partners(a, b) if kind == 'detector' else (a == b)
        for a, b in zip(truth, seen, strict=True)
    ]
    right = np.concatenate([np.ravel(one) for one in pairs])
    if not len(right):
        raise ValueError(
            f'no boxes with scores from {SHOWN:g} in the pictures, so that nothing can '
            'be measured; give others, or weights that are trained'
        )
    return 100 * float(right.mean())


def _partners(one: Sequence[ndarray], other: Sequence[ndarray]) -> ndarray:
    """Tell of each box of both that is shown whether the other has it too."""
    overlaps = box_iou(*(torch.from_numpy(found[0]) for found in (one, other)))
    same = overlaps.numpy() >= SAME
    same &= one[2][:, None] == other[2][None]
    sides = ((one, same.any(1)), (other, same.any(0)))
    return np.concatenate([has[found[1] >= SHOWN] for found, has in sides])


def _quantised(
    model: 'openvino.Model', about: Mapping, paths: Sequence[str], names: Sequence[str]
) -> 'openvino.Model':
    """Quantise a model, except for the nodes of some names."""
    # NNCF reports who uses it to its makers unless this is set, and says all it does.
    os.environ.setdefault('NNCF_CI', '1')
    with redirect_stdout(io.StringIO()), kept_signal_stack():
        import nncf  # an extra

        nncf.set_log_level(40)
        kinds = {node.get_type_name() for node in model.get_ops()} - PRODUCTS
        return nncf.quantize(
            model.clone(),
            nncf.Dataset(paths, lambda path: {'images': _prepared(path, about)}),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(paths),
            ignored_scope=nncf.IgnoredScope(
                names=list(names), types=sorted(kinds), validate=False
            ),
        )


def _groups(model: 'openvino.Model') -> list[tuple[str, list[str]]]:
    """Name groups of layers that suffer from 8 bits, the worst first."""
    nodes = model.get_ordered_ops()
    fixed: set[str] = set()
    for node in nodes:
        before = _before(node)
        if node.get_type_name() == 'Constant' or (before and fixed.issuperset(before)):
            fixed.add(node.get_friendly_name())
    products = [node for node in nodes if node.get_type_name() in PRODUCTS]
    last = _outermost(nodes[::-1], _after)
    groups = {
        'attention': [one for one in products if fixed.isdisjoint(_before(one))],
        'last layers': last,
        'last but one layers': _outermost(nodes[::-1], _after, last),
        'first layers': _outermost(nodes, _before),
        'depthwise convolutions': [
            one for one in products if one.get_type_name() == 'GroupConvolution'
        ],
    }
    return [
        (name, [node.get_friendly_name() for node in group])
        for name, group in groups.items()
        if group
    ]


def _outermost(
    nodes: Iterable[Node],
    neighbours: Callable[[Node], list[str]],
    without: Sequence[Node] = (),
) -> list[Node]:
    """Return the products that no other leads to, in the order of the nodes."""
    reached: set[str] = set()
    peeled = {node.get_friendly_name() for node in without}
    found = []
    for node in nodes:
        is_product = node.get_type_name() in PRODUCTS
        is_product &= node.get_friendly_name() not in peeled
        is_behind = not reached.isdisjoint(neighbours(node))
        if is_product and not is_behind:
            found.append(node)
        if is_product or is_behind:
            reached.add(node.get_friendly_name())
    return found


def _before(node: Node) -> list[str]:
    sources = (one.get_source_output().get_node() for one in node.inputs())
    return [source.get_friendly_name() for source in sources]


def _after(node: Node) -> list[str]:
    """Name the nodes that take a node's values, not only choose places by them."""
    places = [place for out in node.outputs() for place in out.get_target_inputs()]
    return [
        place.get_node().get_friendly_name()
        for place in places
        if place.get_index() == 0 or place.get_node().get_type_name() not in CHOOSING
    ]
