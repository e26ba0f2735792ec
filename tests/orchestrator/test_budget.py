"""GPU-hours that a run may spend."""

from __future__ import annotations

import dataclasses

import pytest

from cluster.capacity import Shape
from orchestrator.agenda import Entry
from orchestrator.budget import Budget, count_affordable, work_of
from orchestrator.forecast import Work
from search_spaces.exceptions import UserError
from tests.orchestrator.planned_trials import planned

TRIALS = [planned(f"{n:016x}", cost=float(n), seed=n) for n in range(1, 11)]
"""Of 1 to 10 units of work."""

TOOK = {t.trial_id: 360.0 * t.cost for t in TRIALS[:3]}
"""0.1 h per unit, known of three trials."""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def works(gpus: float = 1.0) -> list[Work]:
    shape = Shape(ranks=1, cpus=1, gpus=gpus)
    return [dataclasses.replace(work_of(t), gang=shape) for t in TRIALS]


def budget(hours: float, took=TOOK, gpus: float = 1.0, clock=None) -> Budget:
    return Budget(hours, works(gpus), took, clock=clock or Clock())


def refused(of: Budget) -> set[int]:
    """Work of the trials that do not fit."""
    refuses = of.unaffordable()
    return {int(t.cost) for t in TRIALS if refuses and refuses(t.trial_id)}


def test_a_trial_fits_if_spent_running_and_expected_hours_do():
    of = budget(1.15)
    assert refused(of) == set()
    of.started(TRIALS[5].trial_id)
    assert refused(of) == {6, 7, 8, 9, 10}, "0.6 of 1.15 h are taken by what runs"
    of.ended(TRIALS[5].trial_id, 0.6 * 3600)
    assert refused(of) == {6, 7, 8, 9, 10}, "it took what was expected"
    assert of.spent_gpu_hours == pytest.approx(0.6)


def test_trials_that_come_later_are_expected_to_take_their_time() -> None:
    of = budget(1.15)
    late = planned("f" * 16, cost=12.0, seed=99)
    assert of.unaffordable() is None, "nothing that is known exceeds the limit"
    work = dataclasses.replace(work_of(late), gang=Shape(ranks=1, cpus=1, gpus=1.0))
    of.know([work, work])
    refuses = of.unaffordable()
    assert refuses is not None
    assert refuses(late.trial_id), "1.2 of 1.15 h"
    assert not refuses(TRIALS[9].trial_id)


def test_trials_that_are_not_in_the_plan_say_what_others_take_and_nothing_else() -> None:
    of = Budget(0.65, works()[3:], TOOK, works()[:3], Clock())
    assert refused(of) == {7, 8, 9, 10}
    assert Budget(1.05, works()[3:], TOOK, works(gpus=8.0)[:3], Clock()).unaffordable() is None, (
        "theirs are not asked for"
    )
    with pytest.raises(UserError, match="uses a GPU"):
        Budget(1.0, works(gpus=0.0)[3:], TOOK, works()[:3])


def test_what_a_resumed_trial_took_before_is_not_spent_and_yet_expected_of_others() -> None:
    of = budget(4.0, took={})
    of.started(TRIALS[0].trial_id)
    of.ended(TRIALS[0].trial_id, 360.0, 3600.0)
    assert of.spent_gpu_hours == pytest.approx(0.1)
    for trial in TRIALS[1:4]:
        of.started(trial.trial_id)
    assert refused(of) == set(range(1, 11)), "three are expected to take an hour each, and 0.9 are left"


def test_hours_count_for_every_gpu_of_a_trial():
    assert refused(budget(1.0, gpus=2.0)) == {6, 7, 8, 9, 10}
    assert refused(budget(1.0, gpus=0.5)) == set()


def test_what_is_not_known_counts_as_free_until_something_has_ended():
    clock = Clock()
    of = budget(0.5, took={}, clock=clock)
    assert refused(of) == set()
    of.started(TRIALS[0].trial_id)
    of.reported(TRIALS[0].trial_id)
    clock.now = 0.6 * 3600
    assert refused(of) == set(range(1, 11)), "what runs has used everything up"
    of.ended(TRIALS[0].trial_id)
    assert of.spent_gpu_hours == pytest.approx(0.6), "a failure costs the time since its first report"
    assert refused(of) == set(range(1, 11))


def test_what_lost_ranks_ran_counts_and_the_wait_for_new_ones_does_not():
    clock = Clock()
    of = budget(9.0, clock=clock)
    trial_id = TRIALS[0].trial_id
    of.started(trial_id)
    for hours, step in ((0.0, 10), (0.5, 50), (0.8, 40), (0.9, 60)):
        clock.now = hours * 3600
        of.reported(trial_id, step)
    clock.now = 1.0 * 3600
    assert refused(budget(0.6)) != refused(of)
    of.ended(trial_id, 0.25 * 3600)
    assert of.spent_gpu_hours == pytest.approx(0.5 + 0.25)


def test_steps_that_are_counted_anew_are_no_loss():
    clock = Clock()
    of = budget(9.0, clock=clock)
    trial_id = TRIALS[0].trial_id
    of.started(trial_id)
    for hours, step in ((0.0, 0), (0.4, 900), (0.4, 1)):
        clock.now = hours * 3600
        of.reported(trial_id, step)
    of.ended(trial_id, 0.45 * 3600)
    assert of.spent_gpu_hours == pytest.approx(0.45)


def test_a_failure_before_its_first_report_costs_nothing():
    of = budget(0.5, took={})
    of.started(TRIALS[0].trial_id)
    of.ended(TRIALS[0].trial_id)
    assert of.spent_gpu_hours == 0


def test_trials_that_fit_are_counted_as_a_run_would_start_them():
    def entries():
        return [Entry(trial_id=t.trial_id, cost=360.0 * t.cost) for t in TRIALS]

    assert count_affordable(budget(5.5), entries()) == 10, "1 + 2 + ... + 10 = 55 units"
    assert count_affordable(budget(1.9), entries()) == 2, "10 and 9; then nothing is left"
    assert count_affordable(budget(1.35), entries()) == 2, "10 and 3"
    assert count_affordable(budget(0.05), entries()) == 0


def test_what_starts_from_a_trial_that_does_not_fit_is_not_counted():
    chain = [
        Entry(trial_id=TRIALS[9].trial_id, cost=3600.0),
        Entry(trial_id=TRIALS[0].trial_id, cost=360.0, upstream_id=TRIALS[9].trial_id),
    ]
    assert count_affordable(budget(0.9), chain) == 0


@pytest.mark.parametrize(("hours", "gpus", "named"), [(0.0, 1.0, "above 0"), (1.0, 0.0, "uses a GPU")])
def test_a_limit_that_limits_nothing_is_refused(hours, gpus, named):
    with pytest.raises(UserError, match=named):
        budget(hours, gpus=gpus)
