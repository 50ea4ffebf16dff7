"""Parameters and multiply-accumulates (MACs), whole and by stage.

Counted by fvcore (https://github.com/facebookresearch/fvcore, Apache-2.0), which
runs the model once and adds up its operators; one multiplication with its addition
is one MAC (fvcore calls that a flop). Matrix products, convolutions and attention are
counted, norms as fvcore does, and interpolation. What is not counted (pooling,
activations, element-wise sums) is listed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from fvcore.nn import FlopCountAnalysis
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor, nn

from mmpoolformer.engine.config import task_scope
from mmpoolformer.models import MetaFormer, MetaFormerClassifier, PiT, PiTClassifier
from mmpoolformer.models.from_config import (
    DEFAULT_SIZE,
    build_classifier,
    build_from_config,
    input_size,
)
from mmpoolformer.utils.errors import one_line
from mmpoolformer.utils.temporary import evaluating

# Rows of the table lie one level below these children.
STAGE_LISTS = ('stages', 'layers', 'transformers')
REST = '(rest)'
# Images that the published configs see: of COCO and of ADE20K.
SCOPE_SIZES = {'mmdet': (800, 1333), 'mmseg': (512, 512)}
DIVISOR = 32  # the last stage's stride, to which OpenMMLab's detectors pad


@dataclass(frozen=True)
class Part:
    """A part of a model.

    Attributes:
        params: Parameters.
        macs: Multiply-accumulates for one image.
    """

    params: int
    macs: int


@dataclass(frozen=True)
class Complexity:
    """What `count` has found.

    Attributes:
        params: Parameters, whether they are trained or frozen.
        macs: Multiply-accumulates for one image.
        by_stage: Parts by name, in the model's order. `backbone.stages.0` is a part of
            `backbone`; the names that are part of no other add up to the whole.
        uncounted: Operators that are not counted, and how often each runs.
        shape: Shape of the input, (1, C, H, W).
        out_channels: Channels of each map that the backbone gives out; for a classifier
            those of all stages, for models of other packages none.
        out_strides: Image pixels per cell of these maps.
    """

    params: int
    macs: int
    by_stage: dict[str, Part]
    uncounted: dict[str, int]
    shape: tuple[int, int, int, int]
    out_channels: tuple[int, ...] = ()
    out_strides: tuple[int, ...] = ()


def count(
    module: nn.Module, size: int | Sequence[int], in_channels: int = 3
) -> Complexity:
    """Count parameters and MACs.

    The model runs once, in evaluation mode, on its own device. A model of mmengine's
    kind (a detector or segmentor) runs in tensor mode, so without non-maximum
    suppression. One with an RPN gets as many proposals as its `test_cfg` lets pass,
    however many its weights would find.

    Args:
        module: Images (1, C, H, W) to anything; it is left as it is.
        size: Height and width of the image, or one number for both.
        in_channels: Channels of the image.

    Returns:
        The counts.

    Raises:
        ValueError: If a size is below 1.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise ValueError(f'size={height} x {width}: give whole numbers from 1')
    shape = (1, in_channels, height, width)
    like = next(module.parameters(), torch.empty(0))
    whole = isinstance(module, BaseModel)
    traced = _WholeModel(module, shape).eval() if whole else module
    with evaluating(module), torch.no_grad():
        analysis = FlopCountAnalysis(traced, like.new_zeros(shape))
        analysis.set_op_handle('aten::scaled_dot_product_attention', _attention_macs)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        macs = analysis.tracer_warnings('none').by_module()
        uncounted = analysis.unsupported_ops()
    prefix = 'model.' if whole else ''
    backbone = _dense_backbone(module)
    return Complexity(
        params=_params(module),
        macs=int(macs['']),
        by_stage=_parts(module, {k.removeprefix(prefix): v for k, v in macs.items()}),
        uncounted={_plain(op): times for op, times in uncounted.most_common()},
        shape=shape,
        out_channels=backbone.out_channels if backbone else (),
        out_strides=backbone.out_strides if backbone else (),
    )


def count_named(name: str, size: Sequence[int] | None = None) -> Complexity:
    """Count a classifier with 1000 classes.

    Args:
        name: One of `mmpoolformer.list_models()`, or `timm/NAME` with one of timm's.
        size: Height and width; `None` is what the model was made for.

    Raises:
        ValueError: If there is no such model.
    """
    size = tuple(size or input_size(name))
    return count(build_classifier(name, size), size)


def count_config(config: Config, size: Sequence[int] | None = None) -> Complexity:
    """Count the whole model of a config.

    Args:
        config: Has `model`; its task is by `task_scope`.
        size: Height and width; `None` is 800 x 1333 for detectors, 512 x 512 for
            segmentors and 224 x 224 for others.

    Raises:
        ValueError: If the model does not run on a size that is no multiple of 32.
    """
    size = size or SCOPE_SIZES.get(task_scope(config), DEFAULT_SIZE)
    model = build_from_config(config)
    try:
        return count(model, size)
    except RuntimeError as error:  # of SOLOv2 and others, whose levels must fit
        if not any(side % DIVISOR for side in size):
            raise
        raise ValueError(
            f'the model does not run on {" x ".join(map(str, size))} pixels ('
            f'{one_line(error)}); give a size of multiples of {DIVISOR}, to which '
            'such models have pictures padded, as 800 x 1344'
        ) from error


def stage_table(result: Complexity) -> str:
    """Return a Markdown table with a row for each part and the total, exact."""
    rows = [
        (f'- {name}' if _outer(name, result.by_stage) else name, part)
        for name, part in result.by_stage.items()
    ]
    rows.append(('total', Part(result.params, result.macs)))
    cells = [(name, f'{part.params:,}', f'{part.macs:,}') for name, part in rows]
    return _markdown(('part', 'parameters', 'MACs'), cells)


def maps_line(result: Complexity) -> str:
    """Return a line with the channels and strides of the backbone's maps."""
    channels, strides = list(result.out_channels), list(result.out_strides)
    return f'maps: out_channels {channels}, out_strides {strides}'


def summary_table(results: Mapping[str, Complexity]) -> str:
    """Return a Markdown table with a row for each model, in millions and billions."""
    cells = [
        (
            name,
            f'{result.shape[2]} x {result.shape[3]}',
            f'{result.params / 1e6:.2f}',
            f'{result.macs / 1e9:.2f}',
        )
        for name, result in results.items()
    ]
    return _markdown(('model', 'input', 'params (M)', 'MACs (G)'), cells)


class _WholeModel(nn.Module):
    """A detector or segmentor as a function of images alone."""

    def __init__(self, model: BaseModel, shape: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.model = model
        names = ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape')
        sizes = dict.fromkeys(names, shape[2:])
        self.sample = BaseDataElement(metainfo={**sizes, 'scale_factor': (1.0, 1.0)})

    def forward(self, images: Tensor) -> object:
        """Return what the model gives out before any decoding."""
        if hasattr(self.model, 'rpn_head') and hasattr(self.model, 'roi_head'):
            return self._two_stages(images)
        return self.model(images, [self.sample], mode='tensor')

    def _two_stages(self, images: Tensor) -> object:
        """Run an RPN, and the heads behind it on a fixed number of boxes."""
        maps = self.model.extract_feat(images)
        proposed = self.model.rpn_head(maps)
        height, width = images.shape[2:]
        box = images.new_tensor([[0, 0, width, height]])
        boxes = box.repeat(self.model.test_cfg.rpn.max_per_img, 1)
        found = self.model.roi_head.forward(
            maps, [InstanceData(bboxes=boxes)], [self.sample]
        )
        return proposed, found


def _dense_backbone(module: nn.Module) -> MetaFormer | PiT | None:
    """Return a model's dense backbone, or the one that a classifier would start."""
    backbone = getattr(module, 'backbone', module)
    with torch.device('meta'):
        if isinstance(backbone, MetaFormerClassifier):
            return MetaFormer(backbone.variant)
        if isinstance(backbone, PiTClassifier):
            return PiT(backbone.variant)
    return backbone if isinstance(backbone, MetaFormer | PiT) else None


def _attention_macs(inputs: list, outputs: list) -> int:
    """Count fused attention, softmax(q k^T) v, which fvcore does not know.

    For q (..., N, D), k (..., M, D) and v (..., M, E) the two products take
    N x M x (D + E) MACs for each batch element and head, as unfused ones count.
    """
    query, key, value = (tensor.type().sizes() for tensor in inputs[:3])
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _parts(module: nn.Module, macs: Mapping[str, int]) -> dict[str, Part]:
    parts = {
        name: Part(_params(module.get_submodule(name)), int(macs.get(name, 0)))
        for name in _part_names(module)
    }
    parts = {name: part for name, part in parts.items() if part != Part(0, 0)}
    outer = [part for name, part in parts.items() if not _outer(name, parts)]
    rest = Part(
        _params(module) - sum(part.params for part in outer),
        int(macs['']) - sum(part.macs for part in outer),
    )
    return parts if rest == Part(0, 0) else {**parts, REST: rest}


def _part_names(module: nn.Module, prefix: str = '') -> Iterator[str]:
    for name, child in module.named_children():
        if name in STAGE_LISTS and isinstance(child, (nn.ModuleList, nn.Sequential)):
            yield from (f'{prefix}{name}.{i}' for i in range(len(child)))
            continue
        yield f'{prefix}{name}'
        if name == 'backbone':
            yield from _part_names(child, f'{prefix}{name}.')


def _outer(name: str, names: Mapping[str, Part]) -> bool:
    """Tell whether a part lies within another of the table."""
    return name.split('.')[0] in names and '.' in name


def _params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _plain(operator: str) -> str:
    return operator.split('::')[-1].removeprefix('PythonOp.')


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align a table: the first column to the left, numbers to the right."""
    columns = list(zip(headings, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]

    def line(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        rest = (c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))
        return f'| {" | ".join([first, *rest])} |'

    rules = ['-' * widths[0], *('-' * (width - 1) + ':' for width in widths[1:])]
    return '\n'.join([line(headings), line(rules), *map(line, rows)])
