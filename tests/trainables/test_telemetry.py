"""Where the time of training goes."""

from __future__ import annotations

import sys
import tomllib
from types import ModuleType

import pytest
import torch

from tests.conftest import ROOT
from tests.stand_ins import Clock
from trainables.telemetry import DeviceUse, Phase, StepClock

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


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


class _NVMLError(Exception):
    """What NVIDIA's library raises; no RuntimeError."""


def test_use_of_a_gpu_is_the_mean_of_what_the_driver_says(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([70, 90])
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: next(answers))
    use = DeviceUse(GPU)
    assert use.utilisation() is None
    use.sample()
    use.sample()
    assert use.utilisation() == pytest.approx(0.8)


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("nvidia-ml-py"), _NVMLError("Not Supported"), RuntimeError("no driver")]
)
def test_why_the_use_of_a_gpu_is_not_known_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def refuse(device: torch.device) -> int:
        raise error

    library = ModuleType("pynvml")
    monkeypatch.setattr(library, "NVMLError", _NVMLError, raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(torch.cuda, "utilization", refuse)
    use = DeviceUse(GPU)
    use.sample()
    use.sample()
    assert use.utilisation() is None
    [said] = caplog.messages
    assert said == f"the use of cuda:0 is not recorded: {type(error).__name__}: {error}"


def test_an_error_of_ours_is_not_taken_for_a_silent_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: "many")
    with pytest.raises(TypeError):
        DeviceUse(GPU).sample()


def test_the_library_that_torch_asks_with_is_a_dependency() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    assert any(text.startswith("nvidia-ml-py") for text in wanted)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_driver_says_how_much_a_busy_device_is_used() -> None:
    use = DeviceUse(torch.device("cuda", 0))
    work = torch.randn(4000, 4000, device="cuda:0")
    for _ in range(200):
        work = (work @ work).clamp(-1, 1)
    use.sample()
    torch.cuda.synchronize()
    assert use.utilisation() is not None


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
