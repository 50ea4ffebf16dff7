"""Where the time of a test goes."""

from collections import Counter
from time import perf_counter

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mmpoolformer.checkpoints.filling import unwrapped
from mmpoolformer.models.neck_and_heads import is_roi_extractor, network_parts

READING, PREPARING = 'reading', 'pre-processing'
MODEL, FINISHING = 'model', 'post-processing'
PARTS = (READING, PREPARING, MODEL, FINISHING)


class PartTimes(Hook):
    """Measure the parts of a test's time in this process.

    Reading is how long the test waits for its data loader, whose workers may read
    ahead; the model is backbone, neck and heads as far as they compute maps. The first
    batch does not count if there are others.
    """

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.images, self.part, self.since = 0, '', 0.0

    def before_test(self, runner: Runner) -> None:
        """Begin, and watch the parts of the model."""
        model = unwrapped(runner.model)
        self._watch(model, 'test_step', FINISHING)  # all of it that is no other part
        self._watch(model.data_preprocessor, 'forward', PREPARING)
        extractors = [part for part in model.modules() if is_roi_extractor(part)]
        for part in (*dict(network_parts(model)).values(), *extractors):
            self._watch(part, 'forward', MODEL)
        self._switch(READING)

    def before_test_iter(self, *_: object, **__: object) -> None:
        """End the reading."""
        self._switch('')

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: object, outputs: list
    ) -> None:
        """Count the images, and go on with reading."""
        self.images += len(outputs)
        if batch_idx == 0 and len(runner.test_dataloader) > 1:
            self.seconds.clear()
            self.images = 0
        self._switch(READING)

    def per_image(self) -> dict[str, float]:
        """Return the seconds of an image by part."""
        return {part: self.seconds[part] / max(self.images, 1) for part in PARTS}

    def text(self) -> str:
        """Return the time of an image in words."""
        times = {part: f'{1000 * time:.1f}' for part, time in self.per_image().items()}
        total = 1000 * sum(self.per_image().values())
        parts = ', '.join(f'{part} {time}' for part, time in times.items())
        return f'time per image: {total:.1f} ms ({parts})'

    def _switch(self, part: str) -> str:
        """Begin another part and return the one before."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        now, before = perf_counter(), self.part
        self.seconds[before] += now - self.since
        self.part, self.since = part, now
        return before

    def _watch(self, owner: nn.Module, name: str, part: str) -> None:
        method = getattr(owner, name)

        def timed(*args: object, **options: object) -> object:
            before = self._switch(part)
            try:
                return method(*args, **options)
            finally:
                self._switch(before)

        # In place of the method: mmseg's heads call `forward`, which no hooks see.
        setattr(owner, name, timed)
