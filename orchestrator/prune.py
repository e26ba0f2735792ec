"""What may be deleted from a study's storage and from the home, and deleting it.

Nothing that MLflow does not have is ever touched, nor weights that a trial of the study still has to start from.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from orchestrator.drivers import drivers_now, stale_notes
from orchestrator.estimate import size_text
from orchestrator.places import Places
from orchestrator.plan import Plan, PlannedTrial
from orchestrator.plan_representations import kept_by
from orchestrator.prune_rules import RepresentationsRule, WeightsRule
from orchestrator.record import Record
from orchestrator.record_states import TrialState
from orchestrator.searches import Search, settled_by
from search_spaces.exceptions import UserError
from search_spaces.names import Role, State
from search_spaces.selection import key_of, select
from trainables.library import TaskLibrary
from trainables.storage import Storage
from trainables.store_cache import UNLOCKED_HINT, CachedStore, cached_stores, delete_store, use_of
from trainables.store_use import Use

ATTEMPT_SEPARATOR = "-"
"""An attempt's id is its trial's, this, and eight digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing that may be deleted.

    Attributes:
        name: Trial id, attempt id or file name.
        size: Bytes.
        delete: Deletes it.
    """

    name: str
    size: int
    delete: Callable[[], object]


@dataclass(slots=True, kw_only=True)
class Prunable:
    """What may be deleted, by kind, and what the user should know before.

    Attributes:
        items: Kind -> items, in the order in which they are listed.
        notes: Sentences.
    """

    items: dict[str, list[Item]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of all together."""
        return sum(item.size for items in self.items.values() for item in items)

    def delete(self) -> None:
        """Delete everything found.

        Raises:
            OSError: The storage or the home cannot be written; what was deleted before stays deleted.
        """
        for items in self.items.values():
            for item in items:
                item.delete()


def find(
    plan: Plan,
    places: Places,
    *,
    weights: WeightsRule | None = None,
    representations: RepresentationsRule | None = None,
    stores: bool = False,
    only: str | None = None,
) -> Prunable:
    """Look for what may be deleted.

    Args:
        plan: The whole study.
        places: Its record, storage and home.
        weights: Which weights; none if None.
        representations: Which representations; none if None.
        stores: Also image stores whose data set is not imported (any more).
        only: Look at the trials that it selects alone, and what they start from; else also at those that are no longer
            in the study. See ``search_spaces.selection.select``.

    Raises:
        UserError: A run of the study goes on, and more than image stores was asked for; or ``only`` selects nothing.
        TrackingError: MLflow cannot be reached: what is done is then not known.
    """
    storage = places.storage_of(plan.study.name)
    found = Prunable()
    drivers = drivers_now(storage, plan.study.name)
    if drivers and (weights is not None or representations is not None or not stores):
        running = ", ".join(driver.label for driver in drivers)
        raise UserError(
            f"{plan.study.name} is running ({running}); prune when it has ended. Image stores of data sets that are no "
            "longer imported can go meanwhile: prune --stores"
        )
    if drivers:
        found.notes.append("the study is running, so only image stores were looked at")
    else:
        known = _Known.of(plan, places, storage, only)
        _find_in_storage(found, known, storage, weights)
        if representations is not None:
            _find_representations(found, known, storage, representations)
    if stores:
        _find_stores(found, places.home)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What the study, the record and the spool say.

    Attributes:
        plan: The whole study with the values that searches have chosen.
        mine: Its trials, those of searches among them.
        chosen: Those that are looked at; all, and what is not in the study any more, if None.
        searched: What the trials of searches start from -> whether one of these is not over.
        states: Of all trials that have anything in the storage.
        waiting: Finished ones that MLflow does not have yet.
    """

    plan: Plan
    mine: frozenset[str]
    chosen: frozenset[str] | None
    searched: Mapping[str, bool]
    states: Mapping[str, TrialState]
    waiting: frozenset[str]

    @classmethod
    def of(cls, plan: Plan, places: Places, storage: Storage, only: str | None) -> _Known:
        record = Record(plan.study, storage, places.tracking_uri)
        plan, searches = settled_by(plan, record.look)
        tried = {t.trial_id: t for s in searches.values() for generation in s.generations() for t in generation}
        mine = frozenset({t.trial_id for t in plan.trials} | tried.keys())
        ids = mine | storage.checkpoints().keys() | storage.weights().keys()
        ids |= storage.initials().keys() | storage.representations().keys()
        ids |= {_trial_of(attempt) for attempt in storage.delivered_failures()}
        return cls(
            plan=plan,
            mine=mine,
            chosen=None if only is None else _chosen(plan, only, tried.values()),
            searched=_searched(searches.values()),
            states=record.look(ids),
            waiting=frozenset(i.key for i in storage.undelivered() if i.state is State.COMPLETE),
        )

    def is_done(self, trial_id: str) -> bool:
        """Whether the record itself has the result."""
        return self.states[trial_id].state is State.COMPLETE and trial_id not in self.waiting

    def looks_at(self, trial_id: str) -> bool:
        """Whether a trial is among those that were asked for."""
        return self.chosen is None or trial_id in self.chosen

    def leaves(self, trial_id: str) -> bool:
        """Whether nothing will go on from what a trial has left."""
        return self.looks_at(trial_id) and (trial_id not in self.mine or self.is_done(trial_id))


def _searched(searches: Iterable[Search]) -> dict[str, bool]:
    """What trials of searches start from -> whether one of these searches is not over."""
    found: dict[str, bool] = {}
    for search in searches:
        for upstream_id in {t.upstream_id for t in search.planned.trials} - {None}:
            found[str(upstream_id)] = found.get(str(upstream_id), False) or not search.is_over
    return found


def _chosen(plan: Plan, only: str, tried: Iterable[PlannedTrial]) -> frozenset[str]:
    """The trials that ``only`` selects, what they start from, and those of their searches."""
    assert plan.expansion is not None
    keys = {key_of(t) for t in select(plan.expansion.trials, only) if t.role is Role.TARGET}
    narrowed = plan.narrowed([t.trial_id for t in plan.targets if key_of(t.trial) in keys])
    searches = {t.search_id for t in narrowed.targets} - {None}
    return frozenset({t.trial_id for t in narrowed.trials} | {t.trial_id for t in tried if t.search_id in searches})


def _find_in_storage(found: Prunable, known: _Known, storage: Storage, rule: WeightsRule | None) -> None:
    found.items["checkpoints of trials that are done or not in the study"] = [
        Item(name=i, size=size, delete=lambda i=i: storage.delete_checkpoint(i))  # type: ignore[misc]
        for i, size in storage.checkpoints().items()
        if known.leaves(i)
    ]
    found.items["first activations of such trials"] = [
        Item(name=i, size=size, delete=lambda i=i: storage.delete_initial(i))  # type: ignore[misc]
        for i, size in storage.initials().items()
        if known.leaves(i)
    ]
    found.items["details of delivered failures of such trials"] = [
        Item(name=i, size=size, delete=lambda i=i: storage.delete_delivered_failure(i))  # type: ignore[misc]
        for i, size in storage.delivered_failures().items()
        if known.leaves(_trial_of(i))
    ]
    found.items["half-written by processes that crashed"] = [
        *(Item(name=name, size=size, delete=storage.clean_tmp) for name, size in storage.tmp().items()),
        *(
            Item(name=name, size=len(storage.notes()[name]), delete=lambda name=name: storage.delete_note(name))  # type: ignore[misc]
            for name in stale_notes(storage)
        ),
    ]
    if rule is not None:
        _find_weights(found, known, storage, rule)


def _find_weights(found: Prunable, known: _Known, storage: Storage, rule: WeightsRule) -> None:
    plan = known.plan
    _require_its_record(plan, storage, known)
    needed = still_needed(plan, known.is_done, [i for i, is_open in known.searched.items() if is_open])
    starts = {t.upstream_id for t in plan.trials} | known.searched.keys()
    chosen: list[str] = []
    for trial_id in storage.weights():
        if trial_id in known.waiting or trial_id in needed or not known.looks_at(trial_id):
            continue
        if not known.is_done(trial_id):
            allowed = True
        elif trial_id in known.mine:
            allowed = rule is WeightsRule.ALL or (rule is WeightsRule.NOT_UPSTREAM and trial_id not in starts)
        else:
            allowed = rule is WeightsRule.ALL
        if allowed:
            chosen.append(trial_id)
    sizes = storage.weights()
    found.items[f"weights ({rule})"] = [
        Item(name=i, size=sizes[i], delete=lambda i=i: storage.delete_weights(i))  # type: ignore[misc]
        for i in chosen
    ]
    found.notes += _what_is_lost(plan, known, chosen)


def _find_representations(found: Prunable, known: _Known, storage: Storage, rule: RepresentationsRule) -> None:
    """Nothing trains from them, so all that counts is who still wants them."""
    plan = known.plan
    assert plan.resolver is not None
    wanted = {t.trial_id for t in plan.trials if kept_by(plan.study, t.trial, plan.resolver)}
    sizes = storage.representations()
    chosen = [
        trial_id
        for trial_id in sizes
        if trial_id not in known.waiting
        and known.looks_at(trial_id)
        and (rule is RepresentationsRule.ALL or trial_id not in wanted)
    ]
    found.items[f"representations ({rule})"] = [
        Item(name=i, size=sizes[i], delete=lambda i=i: storage.delete_representations(i))  # type: ignore[misc]
        for i in chosen
    ]
    if shown := wanted.intersection(chosen):
        again = sum(storage.has_weights(trial_id) for trial_id in shown)
        found.notes.append(
            f"the report will show no representations of {len(shown)} trials; the next run makes those of {again} "
            "again, whose weights were kept, as long as the study asks for them"
        )


def _require_its_record(plan: Plan, storage: Storage, known: _Known) -> None:
    """Of the wrong record, all weights would look like those of trials that are not done.

    Raises:
        UserError: The storage holds weights, and the record knows none of the trials they are of.
    """
    delivered = storage.weights().keys() - known.waiting
    if delivered and not any(known.is_done(trial_id) for trial_id in delivered):
        raise UserError(
            f"storage {storage.label} holds weights of {len(delivered)} trials of {plan.study.name}, but none of them "
            "is done in this record: is --tracking-uri the one that they were run with?"
        )


def still_needed(plan: Plan, is_done: Callable[[str], bool], searched: Collection[str] = ()) -> set[str]:
    """Trials whose weights a trial of the study still has to start from.

    Args:
        plan: The whole study.
        is_done: Whether a trial is.
        searched: What trials of searches still start from.

    An upstream trial that has lost its weights is trained again if it is needed, so what it starts from is needed then,
    too: a chain is kept from its first trial to the last one that is not done.
    """
    needed = set(searched)
    for planned in reversed(plan.trials):
        open_target = planned.trial.role is Role.TARGET and not is_done(planned.trial_id)
        if planned.upstream_id is not None and (open_target or planned.trial_id in needed):
            needed.add(planned.upstream_id)
    return needed


def _what_is_lost(plan: Plan, known: _Known, chosen: Iterable[str]) -> list[str]:
    """What can no longer be done once these weights are gone."""
    gone = set(chosen)
    targets = [t for t in plan.targets if t.trial_id in gone and known.is_done(t.trial_id)]
    starts = {t.upstream_id for t in plan.trials} & gone
    notes = []
    if targets:
        notes.append(
            f"evaluate --on, and new evaluation sets of the study file, will not score {len(targets)} done trials "
            "any more: that needs their weights"
        )
    if starts:
        notes.append(
            f"{len(starts)} trials from which others start will train again if the study gains trials that need them"
        )
    return notes


def _find_stores(found: Prunable, home: Path) -> None:
    """Image stores of content that no imported data set has, but for those in use."""
    library = TaskLibrary(home)
    contents = tuple(f"{library.content_hash(library.load(name))}-" for name in library.names())
    by_use: dict[Use, list[CachedStore]] = {use: [] for use in Use}
    for store in cached_stores(home):
        if not store.path.name.startswith(contents):
            by_use[use_of(store)].append(store)
    found.items["image stores of data sets that are not imported"] = [
        Item(name=store.path.name, size=store.size_bytes, delete=partial(delete_store, store))
        for store in by_use[Use.FREE]
    ]
    if kept := by_use[Use.UNKNOWN]:
        found.notes.append(f"{len(kept)} image stores stay: {Use.UNKNOWN}. When nothing runs: {UNLOCKED_HINT}")


def _trial_of(attempt_id: str) -> str:
    return attempt_id.rpartition(ATTEMPT_SEPARATOR)[0]


def prune_json(found: Prunable, deleted: bool) -> dict[str, Any]:
    """Plain data: per kind the number and bytes, the total, the notes, and whether it was deleted."""
    kinds = {kind: {"number": len(i), "bytes": sum(x.size for x in i)} for kind, i in found.items.items()}
    return {"deleted": deleted, "kinds": kinds, "bytes": found.size, "notes": found.notes}


def prune_view(found: Prunable, deleted: bool) -> Group:
    """The same for the terminal."""
    table = Table("", "number", "size", box=None, pad_edge=False)
    for kind, items in found.items.items():
        table.add_row(kind, str(len(items)), size_text(sum(item.size for item in items)))
    notes = [Text(note, style="yellow") for note in found.notes]
    total = f"{'deleted' if deleted else 'may be deleted'}: {size_text(found.size)}"
    hint = "" if deleted or not found.size else "; --yes deletes it"
    return Group(*notes, table, Text(total + hint, style="bold"))
