from types import SimpleNamespace

import pytest
from mmengine.model import BaseModel
from torch import nn

from mmpoolformer.engine.hooks import times


class Network(nn.Linear):
    def __init__(self, clock: list[float], inner: nn.Module | None = None) -> None:
        super().__init__(1, 1)
        self.clock, self.inner = clock, inner

    def forward(self) -> None:
        self.clock[0] += 3
        if self.inner:
            self.inner()


class Preprocessor(nn.Module):
    def __init__(self, clock: list[float]) -> None:
        super().__init__()
        self.clock = clock

    def forward(self, data: list, training: bool) -> list:
        self.clock[0] += 2
        return data


class Model(BaseModel):
    def __init__(self, clock: list[float]) -> None:
        super().__init__(Preprocessor(clock))
        self.clock = clock
        self.backbone = Network(clock, Network(clock))
        self.decode_head = Network(clock)

    def forward(self, *images: int, mode: str) -> list[int]:
        self.backbone()
        self.clock[0] += 40  # boxes, say
        self.decode_head.forward()  # as mmseg does
        return list(images)


@pytest.mark.parametrize(('batches', 'images'), [(1, 4), (3, 4), (3, 2)])
def test_each_part_gets_its_own_time(
    monkeypatch: pytest.MonkeyPatch, batches: int, images: int
) -> None:
    clock = [7.0]
    monkeypatch.setattr(times, 'perf_counter', lambda: clock[0])
    model = Model(clock)
    runner = SimpleNamespace(model=model, test_dataloader=range(batches))
    hook = times.PartTimes()
    hook.before_test(runner)
    for number in range(batches):
        clock[0] += 500 if number == 0 and batches > 1 else 1  # starts its workers
        hook.before_test_iter(runner, number)
        found = model.test_step(list(range(images)))
        clock[0] += 1000  # metrics
        hook.after_test_iter(runner, number, None, found)
    expected = {'reading': 1, 'pre-processing': 2, 'model': 9, 'post-processing': 40}
    expected = {part: time / images for part, time in expected.items()}
    assert hook.per_image() == pytest.approx(expected)
    if images == 2:
        assert hook.text() == (
            'time per image: 26000.0 ms (reading 500.0, pre-processing 1000.0, '
            'model 4500.0, post-processing 20000.0)'
        )
