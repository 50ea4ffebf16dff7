"""Non-maximum suppression at the end of an ONNX graph."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mmpoolformer.export.graphs import BoxSettings


def add_suppression(model: onnx.ModelProto, settings: BoxSettings) -> onnx.ModelProto:
    """Let a graph give detections in place of candidates.

    Of overlapping boxes with one label the weaker ones go, as in mmcv's `batched_nms`:
    boxes are moved so far apart by label that those of two labels never meet.

    Args:
        model: A graph with the outputs of `BoxGraph`: `boxes` (B, N, 4), `scores`
            (B, N), `labels` (B, N).
        settings: How boxes are chosen.

    Returns:
        A new graph with these outputs: `boxes` (B, M, 4), `scores` (B, M), falling,
        `labels` (B, M), with M = `settings.max_boxes`. Where fewer are found, the rest
        has score 0 and label -1.
    """
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph = model.graph
    names = {'boxes', 'scores', 'labels'}
    for node in graph.node:
        for slots in (node.input, node.output):
            for i, name in enumerate(slots):
                if name in names:
                    slots[i] = f'candidate_{name}'
    graph.node.extend(_nodes())
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), f'nms_{name}')
        for name, value in _constants(settings).items()
    )
    del graph.output[:]
    count = settings.max_boxes
    graph.output.extend(
        [
            _output('boxes', TensorProto.FLOAT, ['batch', count, 4]),
            _output('scores', TensorProto.FLOAT, ['batch', count]),
            _output('labels', TensorProto.INT64, ['batch', count]),
        ]
    )
    return model


def _output(name: str, kind: int, shape: list) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _constants(settings: BoxSettings) -> dict[str, np.ndarray]:
    return {
        'one': np.float32(1),
        'zero': np.float32(0),
        'none': np.int64(-1),
        'axis1': np.array([1], np.int64),
        'axis2': np.array([2], np.int64),
        'image_and_box': np.array([0, 2], np.int64),
        'corners': np.array([1, 1, 4], np.int64),
        'max_boxes': np.array([settings.max_boxes], np.int64),
        'iou_threshold': np.array([settings.iou_threshold], np.float32),
        'score_threshold': np.array([settings.score_threshold], np.float32),
    }


def _nodes() -> list[onnx.NodeProto]:
    """Return the nodes from candidates to detections, in order."""

    def node(kind: str, inputs: str, outputs: str, **attributes: object) -> None:
        names = [
            name if name.startswith(('candidate_', 'nms_')) else f'nms_{name}'
            for name in inputs.split()
        ]
        nodes.append(helper.make_node(kind, names, outputs.split(), **attributes))

    nodes: list[onnx.NodeProto] = []
    # Move the boxes of each label by more than the images are large.
    node('ReduceMax', 'candidate_boxes', 'nms_reach', keepdims=0)
    node('Add', 'reach one', 'nms_step')
    node('Cast', 'candidate_labels', 'nms_labels', to=TensorProto.FLOAT)
    node('Mul', 'labels step', 'nms_shift')
    node('Unsqueeze', 'shift axis2', 'nms_shift_each')  # (B, N) -> (B, N, 1)
    node('Add', 'candidate_boxes shift_each', 'nms_apart')
    node('Unsqueeze', 'candidate_scores axis1', 'nms_scores')  # (B, N) -> (B, 1, N)
    node(
        'NonMaxSuppression',
        'apart scores max_boxes iou_threshold score_threshold',
        'nms_found',  # (F, 3): image, 0, box
    )
    # A score for each candidate that was found, 0 for the others; the highest ones.
    node('Gather', 'found image_and_box', 'nms_places', axis=1)
    node('GatherND', 'candidate_scores places', 'nms_found_scores')
    node('Mul', 'candidate_scores zero', 'nms_nothing')
    node('ScatterND', 'nothing places found_scores', 'nms_kept')
    node('TopK', 'kept max_boxes', 'scores nms_order', axis=1)
    node('GatherElements', 'candidate_labels order', 'nms_best', axis=1)
    nodes.append(helper.make_node('Greater', ['scores', 'nms_zero'], ['nms_real']))
    node('Where', 'real best none', 'labels')
    node('Unsqueeze', 'order axis2', 'nms_order_each')
    node('Expand', 'order_each corners', 'nms_order_corners')  # (B, M, 1) -> (B, M, 4)
    node('GatherElements', 'candidate_boxes order_corners', 'boxes', axis=1)
    return nodes
