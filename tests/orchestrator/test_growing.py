"""An agenda that grows: what came later keeps to the order and to what it starts from."""

from __future__ import annotations

from orchestrator.agenda import Entry
from orchestrator.growing import GrowingAgenda


def entry(trial_id: str, cost: float = 1.0, upstream_id: str | None = None) -> Entry:
    return Entry(trial_id=trial_id, cost=cost, upstream_id=upstream_id)


def everything(agenda: GrowingAgenda) -> list[str]:
    found = []
    while (trial_id := agenda.next()) is not None:
        found.append(trial_id)
    return found


def test_what_more_depends_on_goes_first_and_the_rest_of_what_came_later_last():
    agenda = GrowingAgenda([entry("a", 2), entry("b", 3)])
    agenda.add(entry("final", 9), urgent=False)
    agenda.add(entry("short", 1), urgent=False)
    agenda.add(entry("try", 1), urgent=True)
    agenda.add(entry("longer", 4), urgent=True)
    assert len(agenda) == 6
    assert everything(agenda) == ["longer", "try", "b", "a", "final", "short"]
    assert len(agenda) == 0


def test_what_came_later_waits_for_what_it_starts_from():
    agenda = GrowingAgenda([entry("up"), entry("below", upstream_id="up")])
    agenda.add(entry("late", upstream_id="up"), urgent=False)
    agenda.add(entry("free", upstream_id="done before"), urgent=False)
    assert everything(agenda) == ["up", "free"]
    assert len(agenda) == 2
    agenda.complete("up")
    agenda.add(entry("later", upstream_id="up"), urgent=True)
    assert everything(agenda) == ["later", "below", "late"]


def test_what_starts_from_a_failed_trial_is_lost():
    agenda = GrowingAgenda([entry("up"), entry("mid", upstream_id="up")])
    agenda.add(entry("late", upstream_id="mid"), urgent=False)
    agenda.add(entry("other"), urgent=False)
    assert agenda.next() == "up"
    assert agenda.fail("up") == ["mid", "late"]
    assert everything(agenda) == ["other"]
    assert len(agenda) == 0


def test_chosen_trials_are_left_wherever_they_are():
    agenda = GrowingAgenda([entry("x1"), entry("up"), entry("y1")])
    agenda.add(entry("x2"), urgent=True)
    agenda.add(entry("y2"), urgent=False)
    agenda.add(entry("x3", upstream_id="up"), urgent=False)
    assert sorted(agenda.leave(lambda trial_id: trial_id.startswith("x"))) == ["x1", "x2", "x3"]
    agenda.complete("up")
    assert everything(agenda) == ["up", "y1", "y2"]
    lost = GrowingAgenda([entry("up")])
    lost.add(entry("below", upstream_id="up"), urgent=False)
    assert lost.leave(lambda trial_id: trial_id == "up") == ["up", "below"]
    assert len(lost) == 0
