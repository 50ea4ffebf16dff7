"""Exported files for tests."""

import json
from pathlib import Path

import onnx
import openvino
from mmengine.config import Config

from mmpoolformer.export.export import export_model
from mmpoolformer.export.sources import config_model


def export_config(
    config: Path, checkpoint: Path, path: Path, size: tuple[int, int] | None = None
) -> None:
    """Export the model of a config as the command does, to .onnx."""
    model, info, _ = config_model(Config.fromfile(config), str(checkpoint))
    export_model(model, path, size, info=info)


def write_openvino(path: Path, described: bool = True) -> Path:
    """Write an ONNX file in OpenVINO's format beside it, with its description."""
    model = openvino.convert_model(path)
    [about] = onnx.load(path).metadata_props
    if described:
        model.set_rt_info(json.dumps(json.loads(about.value)), about.key)
    openvino.save_model(model, path.with_suffix('.xml'), compress_to_fp16=False)
    return path.with_suffix('.xml')
