"""What the record knows of a plan: trials that ended with their seconds, and what is left to train."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cluster.capacity import Node
from orchestrator.budget import work_of
from orchestrator.forecast import Work
from orchestrator.further_representations import without_kept
from orchestrator.places import Places
from orchestrator.plan import Plan, PlannedTrial
from orchestrator.plan_whole import whole_of
from orchestrator.record import Record
from orchestrator.record_states import TrialState
from orchestrator.remaining import remaining
from orchestrator.searches import Search, searches_of, settled
from search_spaces.exceptions import OtherSchemaError, TrackingError, UserError
from search_spaces.names import State
from search_spaces.study import GangSpec
from trainables.library import TaskLibrary


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownTrials:
    """What the record says: seconds of trials that ended, trials to train, and why it says nothing if it does not.

    ``plan`` has the values that searches have chosen; ``planned`` all trials, those of searches included;
    ``elsewhere`` trials that ended and that ``--only`` leaves out, whose ids are in ``took`` and ``done``, too;
    ``without_kept`` finished trials without the representations that the study asks for, and whether their weights were
    kept.
    """

    plan: Plan
    works: list[Work]
    planned: dict[str, PlannedTrial]
    took: dict[str, float]
    todo: list[PlannedTrial]
    done: list[str]
    silent: str = ""
    elsewhere: list[PlannedTrial] = field(default_factory=list)
    without_kept: dict[str, bool] = field(default_factory=dict)

    @property
    def gangs(self) -> dict[str, GangSpec]:
        """Trial -> its gang."""
        return {trial_id: planned.gang for trial_id, planned in self.planned.items()}


def known_trials(plan: Plan, places: Places) -> KnownTrials:
    """Look into the record; one that does not answer counts as empty.

    Args:
        plan: A plan without problems.
        places: Where the record is.
    """
    try:
        storage = places.storage_of(plan.study.name)
        states = Record(plan.study, storage, places.tracking_uri).look()
        spooled = {item.key for item in storage.undelivered() if item.state is State.COMPLETE}
    except OtherSchemaError:
        raise
    except (TrackingError, UserError) as error:
        searches = searches_of(plan, {})
        return KnownTrials(
            plan=plan,
            works=works_of(plan, searches),
            planned=_planned(plan, searches),
            took={},
            todo=list(plan.trials),
            done=[],
            silent=str(error),
        )
    searches = searches_of(plan, states)
    plan = settled(plan, searches)
    works = works_of(plan, searches)
    at = {work.trial_id: states.get(work.trial_id, TrialState(state=State.MISSING)) for work in works}
    elsewhere = ended_elsewhere(lambda: whole_of(plan, TaskLibrary(places.home)), at, states)
    left = remaining(plan, at, storage.has_weights).todo
    left = {trial_id: t for trial_id, t in left.items() if trial_id not in spooled}
    ended = [t.trial_id for s in searches.values() for g in s.generations() for t in g if s.has_ended(t.trial_id)]
    done = [*ended, *spooled, *(t.trial_id for t in plan.trials if t.trial_id not in left)]
    others = {t.trial_id: states[t.trial_id] for t in elsewhere}
    return KnownTrials(
        plan=plan,
        works=works,
        planned=_planned(plan, searches),
        took=took_by(at | others),
        todo=[t for t in plan.trials if t.trial_id in left],
        done=[*done, *others],
        elsewhere=elsewhere,
        without_kept={t.trial_id: storage.has_weights(t.trial_id) for t in without_kept(plan, done, storage)},
    )


def took_by(states: Mapping[str, TrialState]) -> dict[str, float]:
    """Trial -> seconds, of those that are complete."""
    return {i: s.seconds for i, s in states.items() if s.state is State.COMPLETE and s.seconds is not None}


def ended_elsewhere(
    plan_whole: Callable[[], Plan], mine: Collection[str], states: Mapping[str, TrialState]
) -> list[PlannedTrial]:
    """Trials of a study that are complete and not ``mine``: what they took says what others of their kind will take.

    Args:
        plan_whole: Gives the plan of the whole study, without problems; not asked if the record has no other trials.
        mine: Ids of trials that are known otherwise.
        states: Of all trials in the record.
    """
    ended = took_by(states).keys() - set(mine)
    if not ended:
        return []
    whole = plan_whole()
    searches = searches_of(whole, states)
    found = _planned(settled(whole, searches), searches)
    sized = (_sized(planned, states[trial_id]) for trial_id, planned in found.items() if trial_id in ended)
    return [planned for planned in sized if planned.parameters]  # without, no cost that others could be compared by


def _sized(planned: PlannedTrial, state: TrialState) -> PlannedTrial:
    """With the parameters that the record knows, if the plan was made without: costs are compared with others."""
    if planned.parameters or not state.parameters:
        return planned
    return replace(planned, parameters=state.parameters, cost=planned.cost * state.parameters)


def _planned(plan: Plan, searches: Mapping[str, Search]) -> dict[str, PlannedTrial]:
    tried = [t for search in searches.values() for generation in search.generations() for t in generation]
    return {t.trial_id: t for t in (*tried, *plan.trials)}


def works_of(plan: Plan, searches: Mapping[str, Search], nodes: Sequence[Node] = ()) -> list[Work]:
    """Everything to train. What waits for a whole generation of a search waits for one trial of it: they take alike.

    Args:
        plan: A plan without problems.
        searches: Of the plan, as far as they are known.
        nodes: As of ``orchestrator.budget.work_of``.
    """
    works: list[Work] = []
    last: dict[str, str] = {}
    for search_id, search in searches.items():
        before: list[PlannedTrial] = []
        for generation in search.generations():
            links: list[str | None] = [t.trial_id for t in before] or [t.upstream_id for t in generation]
            works += [work_of(t, upstream_id=links[k], nodes=nodes) for k, t in enumerate(generation)]
            before = generation
            last[search_id] = generation[0].trial_id
    finals = (work_of(t, upstream_id=last.get(t.search_id or "", t.upstream_id), nodes=nodes) for t in plan.trials)
    return [*works, *finals]
