"""Memory that stays as it is, however long a run."""

import ctypes
import gc
import os
from pathlib import Path

import pytest
from mmengine.hooks import Hook
from timm.data import create_transform
from tiny_data import write_classes
from tiny_training import settings

from mmpoolformer.classification.prediction import predict_pictures
from mmpoolformer.engine.runner import ToolRunner
from mmpoolformer.models import MetaFormerClassifier

pytestmark = pytest.mark.slow

# Iterations, those for warming up, and those between two readings.
SHORT, LONG, WARM, EVERY = 300, 2000, 100, 100
SLACK = 6 * 2**20  # bytes; a leak of a float32 image of 32 x 32 a step is above it


def resident() -> int:
    """Return the bytes of memory that this process has in use.

    What is free already goes back to the system first: mmengine's histories of losses
    grow by copying, which leaves gaps.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)  # glibc's
    if trim is not None:
        trim(0)
    pages = Path('/proc/self/statm').read_text().split()[1]
    return int(pages) * os.sysconf('SC_PAGE_SIZE')


class Memory(Hook):
    priority = 'LOWEST'

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def after_train_iter(self, runner: ToolRunner, **_: object) -> None:
        if (runner.iter + 1) % EVERY == 0:
            self.sizes.append(resident())


def check_flat(sizes: list[int], steps: int) -> None:
    """Compare the memory after warming up with that at the end."""
    assert len(sizes) == steps // EVERY
    grown = sizes[-1] - max(sizes[: WARM // EVERY])
    assert grown < SLACK, f'{grown / 2**20:.1f} MiB in {steps - WARM} steps'


def test_memory_of_a_training_is_flat(tmp_path: Path, long_mode: bool) -> None:
    steps = LONG if long_mode else SHORT
    config = settings(tmp_path, steps)
    config.train_cfg.val_interval = steps
    config.default_hooks.checkpoint.interval = 50
    memory = Memory()
    runner = ToolRunner.from_cfg(config)
    runner.register_hook(memory)
    runner.prepare_training()
    runner.train()
    check_flat(memory.sizes, steps)


def test_memory_of_predictions_is_flat(tmp_path: Path, long_mode: bool) -> None:
    count = LONG if long_mode else SHORT
    write_classes(tmp_path, ['a', 'b'], 5)
    paths = sorted(str(path) for path in tmp_path.glob('*/*.png'))
    network = MetaFormerClassifier(
        dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)), num_classes=5
    ).eval()
    found = predict_pictures(
        network,
        paths * (count // len(paths)),
        create_transform(input_size=64),
        batch_size=1,
    )
    sizes = [resident() for i, _ in enumerate(found, 1) if i % EVERY == 0]
    check_flat(sizes, count)
