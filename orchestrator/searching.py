"""The searches of one run: turns results of search trials into the trials that are to be trained next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from orchestrator.plan import Plan, PlannedTrial
from orchestrator.record_states import TrialState
from orchestrator.remaining import Remaining, remaining
from orchestrator.searches import SPENT, Search, settle
from search_spaces.names import Role, State
from search_spaces.results import Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What follows from a result.

    Attributes:
        trials: To be trained now: search trials, or final trials with their values.
        done: Final trials that the record has.
        diverged: Final trials that diverged before with these values, by id.
        lost: Final trials (under provisional ids) that never get values in this run.
        gone: Names of expected trials (``Searching.expected``) that these are, or that will not come.
    """

    trials: list[PlannedTrial] = field(default_factory=list)
    done: list[PlannedTrial] = field(default_factory=list)
    diverged: dict[str, TrialState] = field(default_factory=dict)
    lost: list[PlannedTrial] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class _Open:
    """A search that goes on, the final trials that wait for it, and the names under which its trials are expected."""

    search: Search
    finals: list[PlannedTrial]
    expected: list[str]


class Searching:
    """Follows the open searches of a plan.

    Args:
        plan: The plan, ``settled`` as far as the record goes.
        searches: Its searches.
        states: Of all trials in the record.
    """

    def __init__(self, plan: Plan, searches: Mapping[str, Search], states: Mapping[str, TrialState]) -> None:
        self._plan = plan
        self._searches = searches
        self._states = states
        self._trials: dict[str, str] = {}
        """Search trials of this run -> their search."""
        self._open: dict[str, _Open] = {}
        for planned in plan.open_searches:
            search = searches[planned.search_id]
            finals = [t for t in plan.trials if t.trial.is_open and t.search_id == planned.search_id]
            names = [f"{planned.search_id}/{k}" for k in range(search.counts["missing"])]
            self._open[planned.search_id] = _Open(search=search, finals=finals, expected=names)

    def __len__(self) -> int:
        """Most trials that may still become known."""
        return sum(each.search.to_propose + len(each.finals) for each in self._open.values())

    @property
    def expected(self) -> dict[str, PlannedTrial]:
        """Name -> a trial like the one that will come: search trials under made names, final ones under their ids."""
        made = {name: each.search.planned.trials[0] for each in self._open.values() for name in each.expected}
        return made | {t.trial_id: t for each in self._open.values() for t in each.finals}

    def holds(self, trial_id: str) -> bool:
        """Whether this is a search trial of this run."""
        return trial_id in self._trials

    def only_for(self, left_out: Callable[[PlannedTrial], bool]) -> list[str]:
        """Search trials of this run whose search goes on for nothing, as all that waits for it is left out."""
        idle = {search_id for search_id, each in self._open.items() if all(map(left_out, each.finals))}
        return [trial_id for trial_id, search_id in self._trials.items() if search_id in idle]

    def spends(self, trial_id: str, failure: Failure) -> bool:
        """Whether this failure is a result of a search: it follows from the values that were tried."""
        return self.holds(trial_id) and failure.failure_class in SPENT

    def weight(self, planned: PlannedTrial) -> float:
        """Expected work of a trial and, for a search trial, of all that waits for its search, one after the other."""
        each = self._open.get(planned.search_id or "")
        if planned.trial.role is not Role.SEARCH or each is None:
            return planned.cost
        return planned.cost * (1 + each.search.rounds) + max((t.cost for t in each.finals), default=0.0)

    def start(self) -> Step:
        """What all searches ask for at the start."""
        whole = Step()
        for search_id, each in list(self._open.items()):
            step = self._step(search_id, each.search.advance())
            whole.trials.extend(step.trials)
            whole.lost.extend(step.lost)
            whole.gone.extend(step.gone)
        return whole

    def ended(self, trial_id: str, value: float | None) -> Step:
        """A search trial has ended with this validation value; None if it was spent. Others change nothing."""
        search_id = self._trials.get(trial_id, "")
        if search_id not in self._open:
            return Step()
        search = self._open[search_id].search
        search.take(trial_id, value)
        return self._step(search_id, search.advance())

    def stop(self, trial_id: str) -> Step:
        """A search trial will have no result in this run, so its search ends here."""
        each = self._open.pop(self._trials.get(trial_id, ""), None)
        return Step() if each is None else Step(lost=each.finals, gone=each.expected)

    def settled(self, plan: Plan) -> Plan:
        """A plan of the same study with all values that are known by now."""
        return replace(plan, trials=tuple(settle(plan, t, self._searches) for t in plan.trials))

    def _step(self, search_id: str, waiting: list[PlannedTrial]) -> Step:
        each = self._open[search_id]
        if each.search.is_over:
            return self._over(search_id, each)
        fresh = [t for t in waiting if t.trial_id not in self._trials]
        self._trials |= {t.trial_id: search_id for t in fresh}
        gone, each.expected = each.expected[: len(fresh)], each.expected[len(fresh) :]
        return Step(trials=fresh, gone=gone)

    def _over(self, search_id: str, each: _Open) -> Step:
        del self._open[search_id]
        if each.search.chosen is None:
            return Step(lost=each.finals, gone=each.expected)
        finals = [settle(self._plan, final, self._searches) for final in each.finals]
        left = self._remaining(finals)
        return Step(
            trials=list(left.todo.values()),
            done=[t for t in finals if t.trial_id not in left.todo.keys() | left.diverged.keys()],
            diverged=left.diverged,
            gone=[*each.expected, *(t.trial_id for t in each.finals)],
        )

    def _remaining(self, finals: list[PlannedTrial]) -> Remaining:
        missing = TrialState(state=State.MISSING)
        states = {t.trial_id: self._states.get(t.trial_id, missing) for t in finals}
        return remaining(replace(self._plan, trials=tuple(finals)), states, lambda _: True)
