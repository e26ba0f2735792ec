"""The time that a run will still take."""

from __future__ import annotations

import pytest

from orchestrator.progress import Pace, duration


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_nothing_is_said_before_the_first_trial_has_ended() -> None:
    pace = Pace({"a": 1, "b": 2}, Clock())
    assert pace.eta_s() is None
    pace.finished("a", None)
    assert pace.eta_s() is None, "a failure says nothing about the others"
    pace.finished("b", 1.0)
    assert pace.eta_s() == 0


@pytest.mark.parametrize("at_a_time", [1, 4])
def test_constant_and_growing_part_are_told_apart(at_a_time: int) -> None:
    clock = Clock()
    costs = {str(n): 1e9 * n for n in range(1, 21)}
    seconds = {i: 3.0 + cost / 1e9 for i, cost in costs.items()}
    pace = Pace(costs, clock)
    for trial_id in reversed(costs):  # most work first, as in a run
        if len(pace_left := [i for i in costs if int(i) < int(trial_id)]) < 5:
            break
        clock.now += seconds[trial_id] / at_a_time
        pace.finished(trial_id, seconds[trial_id])
    left = [i for i in costs if int(i) <= len(pace_left) + 1]
    assert pace.eta_s() == pytest.approx(sum(seconds[i] for i in left) / at_a_time)


@pytest.mark.parametrize(("seconds", "text"), [(41.6, "42 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")])
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text
