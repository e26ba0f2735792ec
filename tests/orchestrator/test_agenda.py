"""Which trial starts next, and when the last one would end."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.agenda import Agenda, Entry, makespan, schedule
from orchestrator.fleet import PATIENCE_S, Demand


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


def shaped(name: str, gang: str, cost: float = 1.0, **more: object) -> Entry[str]:
    return Entry(trial_id=name, cost=cost, gang=gang, **more)  # type: ignore[arg-type]


def test_only_gangs_that_have_a_place_are_served() -> None:
    agenda = Agenda([shaped("large", "eight", 9.0), shaped("small", "one", 1.0), shaped("tiny", "one", 0.5)])
    assert agenda.next(["one"]) == "small"
    assert agenda.next([]) is None
    assert agenda.next(["one", "eight"]) == "large"
    assert agenda.next(["eight"]) is None
    assert agenda.next() == "tiny"


def test_what_there_is_to_do_for_each_gang() -> None:
    entries = [shaped("a", "one", 2.0), shaped("b", "one", 3.0), shaped("c", "eight", 5.0, upstream_id="a")]
    agenda = Agenda(entries)
    assert agenda.demands({}) == {"one": Demand(ready=2, work=5.0, priority=0), "eight": Demand(waiting=1)}
    assert agenda.next() == "a", "it and what starts from it weigh most"
    assert agenda.demands({"one": 1}) == {
        "one": Demand(ready=1, running=1, work=3.0, priority=0),
        "eight": Demand(waiting=1),
    }
    agenda.complete("a")
    assert agenda.demands({})["eight"] == Demand(ready=1, work=5.0, priority=0)
    agenda.leave(lambda trial_id: trial_id == "b")
    assert agenda.demands({})["one"] == Demand()


def test_a_demand_has_the_priority_of_the_chain_that_goes_first() -> None:
    agenda = Agenda([shaped("source", "one", 1.0), shaped("urgent", "eight", 1.0, upstream_id="source", priority=2)])
    assert agenda.demands({})["one"].priority == 2
    agenda.add(shaped("found", "eight", 1.0, priority=1), first=True)
    assert agenda.demands({})["eight"].priority == 1, "first of its shape, not of all shapes"


def test_a_higher_priority_starts_first_and_so_does_what_it_starts_from() -> None:
    entries = [
        shaped("long", "one", 9.0),
        shaped("source", "one", 1.0),
        shaped("urgent", "one", 1.0, upstream_id="source", priority=1),
    ]
    agenda = Agenda(entries)
    assert agenda.next() == "source"
    assert agenda.next() == "long"
    agenda.complete("source")
    assert agenda.next() == "urgent"


def test_a_trial_that_is_put_back_is_handed_out_again() -> None:
    agenda = Agenda([shaped("a", "one")])
    assert agenda.next() == "a"
    agenda.put_back("a")
    assert len(agenda) == 1
    assert agenda.next() == "a"


@dataclass
class Cpus:
    """A room of so many CPUs; the name of a gang says how many it takes."""

    number: int

    def packing(self) -> Cpus:
        return Cpus(self.number)

    def add(self, kind: str, /) -> bool:
        if self.number < int(kind):
            return False
        self.number -= int(kind)
        return True


SIZES = {"1": (0.0, 1.0), "4": (0.0, 4.0)}


def test_several_shapes_share_the_room() -> None:
    entries = [shaped("wide", "4", 10.0), *(shaped(f"n{k}", "1", 5.0) for k in range(8))]
    assert makespan(entries, Cpus(8), sizes=SIZES) == 10.0
    assert makespan(entries, Cpus(4), sizes=SIZES) == 20.0, "first the wide one, then the others four at a time"


def test_starting_a_gang_takes_time_once() -> None:
    entries = [shaped(f"n{k}", "1", 5.0) for k in range(4)]
    assert makespan(entries, Cpus(2), sizes=SIZES, start_s=3.0) == 13.0


def test_a_gang_that_never_fits_is_said() -> None:
    with pytest.raises(ValueError, match="1 trials need gangs that never fit"):
        makespan([shaped("wide", "4")], Cpus(2), sizes=SIZES)


def test_neither_large_nor_small_gangs_starve() -> None:
    """Each shape alone would fill the room for a long time; both get their turns."""
    entries = [shaped(f"w{k}", "4", 100.0) for k in range(20)] + [shaped(f"n{k}", "1", 100.0) for k in range(80)]
    times = schedule(entries, Cpus(4), sizes=SIZES)
    for gang in ("w", "n"):
        starts = sorted(start for trial_id, (start, _) in times.items() if trial_id.startswith(gang))
        assert starts[0] <= PATIENCE_S + 100.0
        assert max(later - earlier for earlier, later in pairwise(starts)) <= PATIENCE_S + 300.0


def test_what_more_depends_on_goes_first_and_the_rest_of_what_came_later_by_its_length() -> None:
    agenda = Agenda([entry("a", 2), entry("b", 3)])
    agenda.add(entry("final", 9))
    agenda.add(entry("short", 1))
    agenda.add(entry("try", 1), first=True)
    agenda.add(entry("longer", 4), first=True)
    assert len(agenda) == 6
    assert drain(agenda) == ["longer", "try", "final", "b", "a", "short"]
    assert len(agenda) == 0


def test_what_came_later_waits_for_what_it_starts_from() -> None:
    agenda = Agenda([entry("up"), entry("below", upstream="up")])
    agenda.add(entry("late", upstream="up"))
    agenda.add(entry("free", upstream="done before"))
    assert drain(agenda) == ["up", "free"]
    assert len(agenda) == 2
    agenda.complete("up")
    agenda.add(entry("later", upstream="up"), first=True)
    assert drain(agenda) == ["later", "below", "late"]


def test_what_starts_from_a_failed_trial_is_lost() -> None:
    agenda = Agenda([entry("up"), entry("mid", upstream="up")])
    agenda.add(entry("late", upstream="mid"))
    agenda.add(entry("other"))
    assert agenda.next() == "up"
    assert agenda.fail("up") == ["mid", "late"]
    assert drain(agenda) == ["other"]
    assert len(agenda) == 0


def test_chosen_trials_are_left_wherever_they_are() -> None:
    agenda = Agenda([entry("x1"), entry("up"), entry("y1")])
    agenda.add(entry("x2"), first=True)
    agenda.add(entry("y2"))
    agenda.add(entry("x3", upstream="up"))
    assert sorted(agenda.leave(lambda trial_id: trial_id.startswith("x"))) == ["x1", "x2", "x3"]
    agenda.complete("up")
    assert drain(agenda) == ["up", "y1", "y2"]
    lost = Agenda([entry("up")])
    lost.add(entry("below", upstream="up"))
    assert lost.leave(lambda trial_id: trial_id == "up") == ["up", "below"]
    assert len(lost) == 0


def test_what_was_taken_off_is_not_taken_off_again() -> None:
    agenda = Agenda([entry("up"), entry("mid", upstream="up"), entry("end", upstream="mid")])
    assert agenda.leave(lambda trial_id: trial_id == "mid") == ["mid", "end"]
    assert agenda.leave(lambda trial_id: trial_id == "up") == ["up"]
    assert len(agenda) == 0
