"""The time that a run will still take."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.pace import Pace, TimeLeft, duration
from tests.stand_ins import Clock


def test_nothing_is_said_before_the_first_trial_has_ended() -> None:
    pace = Pace({"a": 1, "b": 2}, Clock())
    assert pace.left() is None
    assert pace.per_minute() is None
    pace.finished("a", None)
    assert pace.left() is None, "a failure says nothing about the others"
    pace.finished("b", 1.0)
    assert pace.left() == TimeLeft(0.0)


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
    assert (expected := pace.left()) is not None
    assert expected.seconds == pytest.approx(sum(seconds[i] for i in left) / at_a_time)


def test_the_error_of_the_time_left_covers_what_it_takes() -> None:
    """Alike trials of 60 +- 15 s: the truth lies within two standard errors in 95 of 100 runs, to simulation error."""
    generator = np.random.default_rng(0)
    covered = 0
    runs, ended, all_ = 400, 20, 60
    for _ in range(runs):
        clock = Clock()
        seconds = generator.normal(60, 15, size=all_)
        pace = Pace(dict.fromkeys(map(str, range(all_)), 1.0), clock)
        for n in range(ended):
            clock.now += seconds[n]
            pace.finished(str(n), float(seconds[n]))
        left = pace.left()
        assert left is not None
        assert left.error_s is not None
        covered += abs(left.seconds - seconds[ended:].sum()) <= left.error_s
    assert 0.90 < covered / runs < 0.985


def test_no_error_is_given_before_three_trials_have_ended() -> None:
    clock = Clock()
    pace = Pace(dict.fromkeys("abcd", 1.0), clock)
    for trial_id in "ab":
        clock.now += 2.0
        pace.finished(trial_id, 2.0)
    assert pace.left() == TimeLeft(4.0)
    assert pace.per_minute() == pytest.approx(30)


@pytest.mark.parametrize(("seconds", "text"), [(41.6, "42 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")])
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text
    assert TimeLeft(seconds, 7.0).text == f"about {text} left (± 7 s)"
