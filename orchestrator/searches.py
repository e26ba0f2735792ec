"""The searches of a plan as far as their results are known: what is still to be tried, and what was chosen.

A search has no state of its own. It is played again from the record: what its trials were trained with comes from their
tags (so that a newer sampler changes nothing that is done), what follows from their results is proposed anew, and what
is proposed and recorded is not trained again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from orchestrator.plan import Plan, PlannedSearch, PlannedTrial
from orchestrator.proposals import Tried, best, next_generation
from orchestrator.record_states import TrialState
from search_spaces.names import FailureClass, Role, State
from search_spaces.resolve import Resolver
from search_spaces.results import TrialResult
from search_spaces.tuning import Proposal, Tuning

SPENT = (FailureClass.DIVERGENCE, FailureClass.MEMORY)
"""Failures that follow from the values themselves: the proposal counts and is the worst. Lost nodes, unreadable images
and mistakes in the study say nothing about the values; such a trial is tried again."""

NO_VALUE = "none of the proposals of its search gave a validation value; change tuning.space"
"""Why a final trial cannot be trained when the whole budget was spent in vain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the record says of searches.

    Attributes:
        ended: Trial id -> validation value, None if it was spent without one.
        proposals: Search id -> number -> what was proposed.
        frozen: Search id -> the values that recorded final trials were trained with.
    """

    ended: Mapping[str, float | None] = field(default_factory=dict)
    proposals: Mapping[str, Mapping[int, Proposal]] = field(default_factory=dict)
    frozen: Mapping[str, Proposal] = field(default_factory=dict)

    @classmethod
    def of(cls, states: Mapping[str, TrialState]) -> Known:
        """What follows from all trials of the record.

        Args:
            states: Trial id -> where it stands.
        """
        proposals: dict[str, dict[int, Proposal]] = {}
        frozen: dict[str, Proposal] = {}
        # Of final trials that disagree (a search that was lost and made again) a complete one counts.
        for _, state in sorted(states.items(), key=lambda item: (item[1].state is not State.COMPLETE, item[0])):
            if state.proposal is None:
                continue
            if state.role == Role.SEARCH:
                proposals.setdefault(state.search_id, {}).setdefault(state.proposal.number, state.proposal)
            else:
                frozen.setdefault(state.search_id, state.proposal)
        ended = {i: s.best_value for i, s in states.items() if s.state is State.COMPLETE or s.failure_class in SPENT}
        return cls(ended=ended, proposals=proposals, frozen=frozen)


class Search:
    """One cell's search.

    Args:
        tuning: What is searched, and how long.
        planned: The search in the plan.
        metric: Primary metric of its task.
        resolver: Gives search trials their ids.
        known: What the record says.

    Attributes:
        planned: The search in the plan.
    """

    def __init__(self, tuning: Tuning, planned: PlannedSearch, metric: str, resolver: Resolver, known: Known) -> None:
        self.planned = planned
        self._tuning, self._metric, self._resolver = tuning, metric, resolver
        self._ended = dict(known.ended)
        self._recorded = known.proposals.get(planned.search_id, {})
        self._frozen = known.frozen.get(planned.search_id)
        self._proposals: list[Proposal] = []
        self._trials: list[list[PlannedTrial]] = []
        """Of each proposal, one per search seed."""

    def advance(self) -> list[PlannedTrial]:
        """Propose, generation after generation, until a result is not known.

        Returns:
            The trials of the last generation that have no result, each once; none if the search is over.
        """
        while not self.is_over:
            waiting = self._waiting()
            if waiting:
                return waiting
            for proposal in self._next_proposals():
                self._proposals.append(proposal)
                self._trials.append([self._trial(planned, proposal) for planned in self.planned.trials])
        return []

    def take(self, trial_id: str, value: float | None) -> None:
        """A search trial has ended with this validation value; None if it was spent without one."""
        self._ended[trial_id] = value

    @property
    def is_over(self) -> bool:
        """Whether nothing more will be tried."""
        return self._frozen is not None or (len(self._proposals) == self._tuning.trials and not self._waiting())

    @property
    def chosen(self) -> Proposal | None:
        """What the final trials are trained with; None while the search is open, and if no proposal has a value."""
        if self._frozen is not None or not self.is_over:
            return self._frozen
        winner = best(self._metric, self._tried())
        return None if winner is None else winner.proposal

    @property
    def to_propose(self) -> int:
        """Search trials that will be proposed later."""
        return 0 if self.is_over else (self._tuning.trials - len(self._proposals)) * len(self.planned.trials)

    @property
    def rounds(self) -> int:
        """Generations that will be proposed later, one after the other."""
        left = 0 if self.is_over else self._tuning.trials - len(self._proposals)
        return math.ceil(left / self._tuning.generation_size)

    @property
    def counts(self) -> dict[str, int]:
        """Search trials: all, done, spent without a value, and missing (0 once the values are frozen)."""
        values = [self._ended[t.trial_id] for t in self._known_trials() if t.trial_id in self._ended]
        done = sum(value is not None for value in values)
        total = self._tuning.trials_per_cell
        return {
            "trials": total,
            "done": done,
            "failed": len(values) - done,
            "missing": 0 if self._frozen else total - len(values),
        }

    def generations(self) -> list[list[PlannedTrial]]:
        """All search trials in the order in which they may run; those that are not proposed yet under made ids."""
        trials = self._known_trials()
        if self._frozen is None:
            per = len(self.planned.trials)
            for k in range(len(trials), self._tuning.trials_per_cell):
                made = f"{self.planned.search_id}/{k}"
                trials.append(replace(self.planned.trials[k % per], trial_id=made, search_id=self.planned.search_id))
        trials = list({t.trial_id: t for t in trials}.values())
        size = self._tuning.generation_size * len(self.planned.trials)
        return [trials[k : k + size] for k in range(0, len(trials), size)]

    def has_ended(self, trial_id: str) -> bool:
        """Whether a search trial has a result, a spent one included."""
        return trial_id in self._ended

    def _known_trials(self) -> list[PlannedTrial]:
        """Of what was proposed, and of what the record has beyond that (once the values are frozen)."""
        beyond = [p for number, p in sorted(self._recorded.items()) if number >= len(self._proposals)]
        recorded = [self._trial(planned, proposal) for proposal in beyond for planned in self.planned.trials]
        return [*(t for trials in self._trials for t in trials), *recorded]

    def _waiting(self) -> list[PlannedTrial]:
        waiting = {t.trial_id: t for trials in self._trials for t in trials if t.trial_id not in self._ended}
        return list(waiting.values())

    def _next_proposals(self) -> list[Proposal]:
        first = len(self._proposals)
        numbers = range(first, min(self._tuning.trials, first + self._tuning.generation_size))
        if all(number in self._recorded for number in numbers):
            return [self._recorded[number] for number in numbers]
        fresh = next_generation(self._tuning, self._metric, self._tried())
        return [self._recorded.get(proposal.number, proposal) for proposal in fresh]

    def _tried(self) -> list[Tried]:
        return [Tried(p, self._value(trials)) for p, trials in zip(self._proposals, self._trials, strict=True)]

    def _value(self, trials: list[PlannedTrial]) -> float | None:
        values = [self._ended[t.trial_id] for t in trials]
        known = [value for value in values if value is not None]
        return math.fsum(known) / len(known) if len(known) == len(values) else None

    def _trial(self, planned: PlannedTrial, proposal: Proposal) -> PlannedTrial:
        templates = tuple(t.trial for t in self.planned.trials)
        trial = replace(planned.trial, proposal=proposal, search=templates)
        trial_id = self._resolver.trial_id(trial)
        return replace(planned, trial=trial, trial_id=trial_id, search_id=self.planned.search_id)


def searches_of(plan: Plan, states: Mapping[str, TrialState]) -> dict[str, Search]:
    """Search id -> search, played as far as the record goes.

    Args:
        plan: A plan without problems.
        states: Of all trials in the record.
    """
    tuning = plan.study.tuning
    if tuning is None or plan.resolver is None:
        return {}
    known = Known.of(states)
    made: dict[str, Search] = {}
    for planned in plan.searches:
        metric = plan.resolver.task(planned.cell.task).primary
        made[planned.search_id] = search = Search(tuning, planned, metric, plan.resolver, known)
        search.advance()
    return made


def settled_by(plan: Plan, look: Callable[[], Mapping[str, TrialState]]) -> tuple[Plan, dict[str, Search]]:
    """The plan ``settled`` as far as the record goes, and its searches; of a study without any nothing is asked.

    Args:
        plan: A plan without problems.
        look: Gives the states of all trials of the record.
    """
    if not plan.searches:
        return plan, {}
    searches = searches_of(plan, look())
    return settled(plan, searches), searches


def settled(plan: Plan, searches: Mapping[str, Search]) -> Plan:
    """The plan with the final trials of every search that has chosen under the ids that they are trained with."""
    return replace(plan, trials=tuple(settle(plan, trial, searches) for trial in plan.trials))


def settle(plan: Plan, planned: PlannedTrial, searches: Mapping[str, Search]) -> PlannedTrial:
    """The same for one trial; it is returned as it is while its search has not chosen."""
    search = searches.get(planned.search_id or "")
    if not planned.trial.is_open or search is None or search.chosen is None or plan.resolver is None:
        return planned
    trial = replace(planned.trial, proposal=search.chosen)
    return replace(planned, trial=trial, trial_id=plan.resolver.trial_id(trial))


def validation_value(result: TrialResult) -> float | None:
    """The number that a search compares, as the record gives it back; None if it is not defined."""
    value = result.best_value
    return value if value is not None and math.isfinite(value) else None
