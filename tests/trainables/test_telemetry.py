"""Where the time of training goes."""

from __future__ import annotations

import pytest
import torch

from tests.stand_ins import Clock
from trainables.telemetry import DeviceUse, Phase, StepClock

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("trainables.telemetry.time.perf_counter", made)
    return made


def test_each_second_counts_for_the_phase_it_was_spent_in(clock: Clock) -> None:
    steps = StepClock(CPU)
    for step in range(2):
        steps.begin_step(step)
        for phase, seconds in ((Phase.LOAD, 1.0), (Phase.FORWARD, 2.0), (Phase.BACKWARD, 4.0), (Phase.UPDATE, 0.5)):
            steps.enter(phase)
            clock.now += seconds
        steps.enter(None)
        clock.now += 50.0
    with steps.waiting():
        clock.now += 3.0
    assert steps.seconds() == {"load": 2.0, "forward": 4.0, "backward": 8.0, "update": 1.0, "wait": 3.0}


def test_nothing_was_done_in_no_time() -> None:
    assert set(StepClock(CPU).seconds().values()) == {0.0}


def test_use_of_the_processor_is_a_share_and_memory_is_there() -> None:
    use = DeviceUse(CPU)
    use.sample()
    product = torch.randn(400, 400)
    for _ in range(50):
        product = (product @ product).clamp(-1, 1)
    share = use.utilisation()
    assert share is not None
    assert 0.0 < share <= 1.0
    assert use.memory_bytes() > 10 * 2**20


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_events_on_a_device_are_scaled_up_to_all_steps() -> None:
    device = torch.device("cuda", 0)
    steps = StepClock(device)
    work = torch.randn(4000, 4000, device=device)
    for step in range(32):
        steps.begin_step(step)
        steps.enter(Phase.FORWARD)
        for _ in range(10):
            work = (work @ work).clamp(-1, 1)
        steps.enter(Phase.UPDATE)
        steps.enter(None)
        if step % 10 == 9:
            torch.cuda.synchronize()
            steps.settle()
    seconds = steps.seconds()
    assert seconds["forward"] > 100 * max(seconds["update"], 1e-6)
