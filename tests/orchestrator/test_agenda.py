"""Which trial starts next, and when the last one would end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.agenda import Agenda, Entry, makespan


def entry(trial_id: str, cost: float = 1.0, upstream: str | None = None) -> Entry:
    return Entry(trial_id=trial_id, cost=cost, upstream_id=upstream)


def drain(agenda: Agenda) -> list[str]:
    taken = []
    while (trial_id := agenda.next()) is not None:
        taken.append(trial_id)
    return taken


def test_longest_first_and_of_equals_the_first() -> None:
    assert drain(Agenda([entry("a", 1), entry("b", 3), entry("c", 1), entry("d", 2)])) == ["b", "d", "a", "c"]


def test_what_others_wait_for_counts_their_work_too() -> None:
    agenda = Agenda([entry("long", 5), entry("up", 1), entry("down", 4.5, "up")])
    assert agenda.next() == "up"
    assert drain(agenda) == ["long"]
    assert len(agenda) == 1
    agenda.complete("up")
    assert drain(agenda) == ["down"]
    assert len(agenda) == 0


def test_an_upstream_that_is_not_on_the_agenda_exists() -> None:
    assert drain(Agenda([entry("a", upstream="done before")])) == ["a"]


def test_what_starts_from_a_failure_is_taken_off_along_its_whole_chain() -> None:
    agenda = Agenda([entry("a"), entry("b", upstream="a"), entry("c", upstream="b"), entry("other")])
    assert agenda.next() == "a"
    assert agenda.fail("a") == ["b", "c"]
    assert drain(agenda) == ["other"]
    assert len(agenda) == 0


def test_a_failure_from_before_takes_ready_trials_off() -> None:
    agenda = Agenda([entry("a", upstream="diverged before"), entry("b")])
    assert agenda.fail("diverged before") == ["a"]
    assert drain(agenda) == ["b"]


def test_chosen_trials_are_left_with_what_starts_from_them() -> None:
    agenda = Agenda([entry("a", 9), entry("b", 3), entry("c", 1, "b"), entry("d", 2), entry("e", 1, "d")])
    assert agenda.next() == "a"
    assert agenda.leave(lambda i: i in ("a", "b", "e")) == ["b", "c", "e"]
    assert drain(agenda) == ["d"]
    agenda.complete("d")
    assert len(agenda) == 0


def test_what_was_left_does_not_fail_too() -> None:
    agenda = Agenda([entry("up"), entry("down", upstream="up"), entry("other", upstream="up")])
    assert agenda.next() == "up"
    assert agenda.leave(lambda i: i == "down") == ["down"]
    assert agenda.fail("up") == ["other"]


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([entry("a"), entry("a")], "twice"),
        ([entry("a", upstream="b"), entry("b", upstream="a")], "start from each other: a, b"),
    ],
)
def test_an_impossible_agenda_is_refused(entries: list[Entry], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Agenda(entries)


def test_makespan_of_known_schedules() -> None:
    assert makespan([], 2) == 0
    assert makespan([entry("a", 3), entry("b", 2), entry("c", 1)], 1) == 6
    assert makespan([entry("a", 3), entry("b", 2), entry("c", 1)], 2) == 3
    assert makespan([entry("a", 1), entry("b", 2, "a"), entry("c", 3, "b")], 9) == 6
    with pytest.raises(ValueError, match="at least 1 slot"):
        makespan([], 0)


@st.composite
def forests(draw: st.DrawFn) -> list[Entry]:
    entries: list[Entry] = []
    for n in range(draw(st.integers(1, 30))):
        above = draw(st.none() | st.integers(0, n - 1)) if n else None
        cost = draw(st.integers(1, 20))
        entries.append(entry(str(n), cost, None if above is None else str(above)))
    return entries


@given(forests(), st.integers(1, 6))
def test_makespan_is_within_the_bounds_of_list_scheduling(entries: list[Entry], slots: int) -> None:
    work = sum(e.cost for e in entries)
    ends: dict[str, float] = {}
    for e in entries:
        ends[e.trial_id] = e.cost + (ends[e.upstream_id] if e.upstream_id else 0)
    chain = max(ends.values())
    lower = max(chain, work / slots)
    assert lower - 1e-9 <= makespan(entries, slots) <= work / slots + chain * (1 - 1 / slots) + 1e-9  # Graham 1969
