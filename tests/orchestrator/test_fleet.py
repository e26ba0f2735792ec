"""How many gangs of each shape there should be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.fleet import PATIENCE_S, Demand, Fleet, Slots

SIZES = {"big": (0.0, 4.0), "small": (0.0, 1.0)}


@dataclass
class Cpus:
    """A room of so many CPUs; a big gang takes four, a small one takes one."""

    number: int

    def packing(self) -> Cpus:
        return Cpus(self.number)

    def add(self, kind: str, /) -> bool:
        needed = int(SIZES[kind][1])
        if self.number < needed:
            return False
        self.number -= needed
        return True


def demands(big: int = 0, small: int = 0, **waiting: int) -> Mapping[str, Demand]:
    return {
        "big": Demand(ready=big, work=4.0 * big, waiting=waiting.get("big", 0)),
        "small": Demand(ready=small, work=1.0 * small, waiting=waiting.get("small", 0)),
    }


def test_one_shape_gets_all_the_room_but_no_more_than_it_can_use() -> None:
    fleet = Fleet({"small": (0.0, 1.0)})
    assert fleet.targets({"small": Demand(ready=10, work=10)}, Slots(4), 0) == {"small": 4}
    assert fleet.targets({"small": Demand(ready=1, running=2, work=1)}, Slots(4), 1) == {"small": 3}


def test_no_more_than_the_most() -> None:
    fleet = Fleet({"small": (0.0, 1.0)}, most=2)
    assert fleet.targets({"small": Demand(ready=10, work=10)}, Slots(4), 0) == {"small": 2}


def test_each_shape_gets_a_gang_and_what_is_left_goes_to_most_work_per_gang() -> None:
    assert Fleet(SIZES).targets(demands(big=1, small=100), Cpus(8), 0) == {"big": 1, "small": 4}
    assert Fleet(SIZES).targets(demands(big=9, small=2), Cpus(11), 0) == {"big": 2, "small": 2}


def test_the_large_shape_goes_first_and_keeps_its_gang_until_the_other_has_waited_long_enough() -> None:
    fleet = Fleet(SIZES)
    both = demands(big=9, small=9)
    assert fleet.targets(both, Cpus(4), 0) == {"big": 1, "small": 0}
    assert fleet.targets(both, Cpus(4), PATIENCE_S - 1) == {"big": 1, "small": 0}
    assert fleet.targets(both, Cpus(4), PATIENCE_S) == {"big": 0, "small": 4}, "its turn"
    assert fleet.targets(both, Cpus(4), PATIENCE_S + 1) == {"big": 0, "small": 4}, "and it keeps it"
    assert fleet.targets(both, Cpus(4), 2 * PATIENCE_S) == {"big": 1, "small": 0}, "neither starves"


def test_a_higher_priority_takes_the_room_and_keeps_it_while_its_last_trials_run() -> None:
    fleet = Fleet(SIZES)
    assert fleet.targets(demands(big=9, small=9), Cpus(4), 0) == {"big": 1, "small": 0}
    urgent = {"big": Demand(ready=9, work=36.0, priority=0), "small": Demand(ready=2, work=2.0, priority=1)}
    assert fleet.targets(urgent, Cpus(4), 1) == {"big": 0, "small": 2}, "not after five minutes"
    assert fleet.targets(urgent, Cpus(4), 1 + 2 * PATIENCE_S) == {"big": 0, "small": 2}, "no turn for the others"
    last = {"big": urgent["big"], "small": Demand(running=2)}
    assert fleet.targets(last, Cpus(4), 2 + 2 * PATIENCE_S) == {"big": 0, "small": 2}
    done = {"big": urgent["big"], "small": Demand()}
    assert fleet.targets(done, Cpus(4), 3 + 2 * PATIENCE_S) == {"big": 1, "small": 0}


def test_the_priority_of_two_demands_is_the_higher_one() -> None:
    assert (Demand(priority=1) + Demand(priority=3)).priority == 3
    assert (Demand() + Demand(priority=-2)).priority == -2
    assert (Demand() + Demand()).priority is None


def test_a_shape_without_trials_makes_room_at_once() -> None:
    fleet = Fleet(SIZES)
    assert fleet.targets(demands(big=1, small=9), Cpus(4), 0) == {"big": 1, "small": 0}
    assert fleet.targets(demands(small=9), Cpus(4), 1) == {"big": 0, "small": 4}


def test_an_idle_gang_stays_for_trials_that_wait_unless_its_room_is_needed() -> None:
    fleet = Fleet(SIZES)
    assert fleet.targets(demands(big=2, small=1), Cpus(9), 0) == {"big": 2, "small": 1}
    assert fleet.targets(demands(small=1, big=0) | {"big": Demand(waiting=3)}, Cpus(9), 1) == {"big": 2, "small": 1}
    assert fleet.targets(demands(small=9) | {"big": Demand(waiting=3)}, Cpus(9), 2) == {"big": 0, "small": 9}


def test_nothing_to_do_needs_no_gang() -> None:
    assert Fleet(SIZES).targets(demands(), Cpus(8), 0) == {"big": 0, "small": 0}


def test_a_shape_whose_last_trials_still_run_does_not_wait_yet() -> None:
    fleet = Fleet(SIZES)
    both = demands(big=9, small=9)
    assert fleet.targets(both, Cpus(4), 0) == {"big": 1, "small": 0}
    assert fleet.targets(both, Cpus(4), PATIENCE_S, live={"big": 1}) == {"big": 0, "small": 4}
    for now in (2 * PATIENCE_S, 9 * PATIENCE_S):
        assert fleet.targets(both, Cpus(4), now, live={"big": 1})["small"] == 4, "its turn has not begun"
    fleet.targets(both, Cpus(4), 10 * PATIENCE_S, live={"small": 4})
    assert fleet.targets(both, Cpus(4), 10.5 * PATIENCE_S, live={"small": 4})["small"] == 4
    assert fleet.targets(both, Cpus(4), 11 * PATIENCE_S, live={"small": 4}) == {"big": 1, "small": 0}


def test_a_trial_on_a_gang_that_is_to_go_counts_among_the_most() -> None:
    fleet = Fleet(SIZES, most=1)
    both = demands(big=9, small=9)
    assert fleet.targets(both, Cpus(9), 0, {}) == {"big": 1, "small": 0}
    assert fleet.targets(both, Cpus(9), PATIENCE_S, {"big": 1}) == {"big": 0, "small": 0}, "small's turn comes"
    assert fleet.targets(both, Cpus(9), PATIENCE_S + 60, {"big": 1}) == {"big": 0, "small": 0}
    assert fleet.targets(both, Cpus(9), PATIENCE_S + 61, {}) == {"big": 0, "small": 1}, "when the trial has ended"
    assert fleet.targets(both, Cpus(9), PATIENCE_S + 62, {"small": 1}) == {"big": 0, "small": 1}


def test_a_trial_of_a_single_process_counts_among_the_most_from_its_start() -> None:
    fleet = Fleet(SIZES, most=1)
    both = demands(big=9, small=9)
    assert fleet.targets(both, Cpus(9), 0, {}, {}) == {"big": 1, "small": 0}
    before_its_first_report = {"big": 1}
    assert fleet.targets(both, Cpus(9), PATIENCE_S, {}, before_its_first_report) == {"big": 0, "small": 0}


def test_shapes_share_the_most_with_what_runs() -> None:
    fleet = Fleet(SIZES, most=3)
    made = fleet.targets(demands(big=9, small=9), Cpus(99), 0, {"small": 2})
    assert made == {"big": 1, "small": 1}, "one more big one beside two small ones, of which one is to go"
