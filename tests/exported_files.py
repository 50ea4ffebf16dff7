"""Exported files for tests."""

from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from mmpoolformer.export.export import export_model
from mmpoolformer.export.sources import config_model

FORMATS = ('.onnx', '.xml')


def export_config(
    config: Path, checkpoint: Path, path: Path, suffixes: Sequence[str] = FORMATS
) -> None:
    """Export the model of a config as the command does.

    Args:
        config: The config.
        checkpoint: Its weights.
        path: The files without their endings.
        suffixes: The endings, each of one format.
    """
    model, info, _ = config_model(Config.fromfile(config), str(checkpoint))
    for suffix in suffixes:
        export_model(model, path.with_suffix(suffix), info=info)
