"""How long trials will take, from those that ended and from timed steps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.capacity import Shape
from orchestrator.forecast import SecondsModel, Work, forecast

GANG = Shape(ranks=1, cpus=1, gpus=0)


def work(trial_id: str, scale: str = "small", images: float = 100, upstream: str | None = None) -> Work:
    size = {"small": 1.0, "large": 10.0}[scale]
    return Work(trial_id=trial_id, upstream_id=upstream, scale=scale, cost=images * size, images=images, gang=GANG)


def test_constant_and_growing_part_are_recovered_and_the_spread_is_told() -> None:
    model = SecondsModel([(100, 3.0), (200, 5.0), (400, 9.0)])
    assert model.seconds(300) == pytest.approx(7.0)
    assert model.relative_error == pytest.approx(0, abs=1e-9)
    noisy = SecondsModel([(100, 2.0), (100, 4.0)])
    assert noisy.seconds(100) == pytest.approx(3.0)
    assert noisy.relative_error == pytest.approx(1 / 3)


def test_less_time_for_more_work_is_no_model() -> None:
    model = SecondsModel([(100, 9.0), (400, 3.0)])
    assert model.seconds(10_000) == model.seconds(0) == pytest.approx(6.0)


def test_a_scale_is_judged_by_its_own_trials_then_by_timed_steps_then_by_size() -> None:
    works = [work("a"), work("b"), work("c", images=300), work("x", "large")]
    took = {"a": 2.0, "b": 4.0}
    made = forecast(works, took, 1, done=took)
    assert made.trials == 2
    assert made.relative_error is None, "the large scale was not measured"
    assert made.basis == {"small": "record", "large": "other scales"}
    assert made.seconds["x"] == pytest.approx(SecondsModel([(100, 2.0), (100, 4.0)]).seconds(1000))
    timed = forecast(works, took, 1, done=took, images_per_s={"large": 20.0, "small": 1.0})
    assert timed.basis == {"small": "record", "large": "calibration"}
    assert timed.seconds["x"] == pytest.approx(5.0)
    assert timed.wall_s == pytest.approx(timed.busy_s)


def test_timed_steps_of_a_cpu_say_nothing_of_a_gpu_and_operations_come_last() -> None:
    on_gpu = replace(work("g"), gang=Shape(ranks=1, cpus=1, gpus=1))
    works = [on_gpu, work("x", "large")]
    made = forecast(works, {}, 1, done=(), images_per_s={"small": 1.0, "large": 50.0}, assumed_s={"g": 7.0, "x": 9.0})
    assert made.basis == {"small": "operations", "large": "calibration"}
    assert made.seconds == {"g": 7.0, "x": 2.0}
    ended = forecast([*works, work("a")], {"a": 3.0}, 1, done=["a"], assumed_s={"g": 7.0, "x": 9.0})
    assert set(ended.basis.values()) == {"record", "other scales"}, "what was measured comes first"


def test_an_error_needs_three_trials_of_each_scale() -> None:
    works = [work(n, images=i) for n, i in (("a", 100), ("b", 100), ("c", 100), ("d", 100))]
    took = {"a": 2.0, "b": 3.0, "c": 4.0}
    made = forecast(works, took, 1, done=took)
    assert made.relative_error == pytest.approx((2 / 3) ** 0.5 / 3)
    assert forecast(works, {"a": 2.0, "b": 3.0}, 1, done=("a", "b")).relative_error is None


def test_nothing_is_said_of_what_nothing_is_known_of() -> None:
    works = [work("a"), work("x", "large")]
    made = forecast(works, {}, 2, done=(), images_per_s={"small": 50.0})
    assert made.unknown == ("large",)
    assert made.wall_s is None
    assert made.seconds == {"a": 2.0}


def test_wall_time_follows_slots_and_stages() -> None:
    works = [work("up"), work("one", upstream="up"), work("two", upstream="up")]
    speeds = {"small": 100.0}
    assert [forecast(works, {}, n, done=(), images_per_s=speeds).wall_s for n in (1, 2, 9)] == [3.0, 2.0, 2.0]
    assert forecast(works, {"up": 1.0}, 2, done={"up"}, images_per_s=speeds).wall_s == pytest.approx(1.0)
    assert forecast(works, {}, 2, done={"up", "one", "two"}).wall_s == 0
