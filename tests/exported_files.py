"""Exported files for tests."""

from pathlib import Path

from mmengine.config import Config

from mmpoolformer.export.export import export_model
from mmpoolformer.export.sources import config_model

FORMATS = ('.onnx', '.xml')


def export_config(config: Path, checkpoint: Path, path: Path) -> None:
    """Export the model of a config as the command does, in each of `FORMATS`.

    Args:
        config: The config.
        checkpoint: Its weights.
        path: The files without their endings.
    """
    model, info, _ = config_model(Config.fromfile(config), str(checkpoint))
    for suffix in FORMATS:
        export_model(model, path.with_suffix(suffix), info=info)
