"""What a plan will cost: time, accelerators, money, disk."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from orchestrator.agenda import Entry
from orchestrator.budget import Budget, count_affordable, works_of
from orchestrator.forecast import Forecast, forecast
from orchestrator.places import Places
from orchestrator.plan import Plan, PlannedTrial, import_paths, stores_needed
from orchestrator.progress import duration
from orchestrator.record import Record
from orchestrator.remaining import remaining
from orchestrator.run_terms import RunOptions
from search_spaces.exceptions import ScalecurvesError, TrackingError, UserError
from search_spaces.names import Role, State
from search_spaces.trial import Workspace
from trainables.library import TaskLibrary

BYTES_PER_WEIGHT = 4
"""Weights are kept in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What the trials that are not done will cost.

    Attributes:
        forecast: Their seconds.
        finished: Trials whose seconds it rests on.
        silent: Why the record does not answer; then every trial counts as not done.
        ranks: Per trial.
        cpus: Per trial.
        gpus: Per trial; None if the study leaves it to the cluster.
        price: Of a GPU-hour; None if not asked for.
        max_gpu_hours: Limit of the run that is planned; None for none.
        affordable: Trials that it would start within the limit; None without one, or while a scale is unknown.
        weights_bytes: Of the weights that they will keep.
        store_bytes: Of the image stores that they read, those that exist already included.
    """

    forecast: Forecast
    finished: int
    silent: str
    ranks: int
    cpus: int
    gpus: float | None
    price: float | None
    max_gpu_hours: float | None
    affordable: int | None
    weights_bytes: int
    store_bytes: int

    @property
    def gpu_hours(self) -> float | None:
        """Hours of a GPU, of one per rank if the study leaves it to the cluster; None where only CPUs were timed."""
        if self.forecast.unknown or "calibration" in self.forecast.basis.values():
            return None
        return self.forecast.busy_s / 3600 * (self.ranks if self.gpus is None else self.gpus)

    def to_json(self) -> dict[str, Any]:
        """Plain data; None for what is not known."""
        made, hours = self.forecast, self.gpu_hours
        whole = not made.unknown
        return {
            "trials_left": made.trials,
            "slots": made.slots,
            "wall_s": made.wall_s,
            "busy_s": made.busy_s if whole else None,
            "gpu_hours": hours,
            "cpu_hours": made.busy_s / 3600 * self.cpus if whole else None,
            "max_gpu_hours": self.max_gpu_hours,
            "affordable": self.affordable,
            "price": None if self.price is None or hours is None else self.price * hours,
            "relative_error": made.relative_error,
            "basis": dict(made.basis),
            "unknown_scales": list(made.unknown),
            "weights_bytes": self.weights_bytes,
            "store_bytes": self.store_bytes,
            "record_silent": self.silent,
        }

    def lines(self) -> list[str]:
        """Sentences for the terminal."""
        silent = [f"the record does not answer, so nothing counts as done: {self.silent}"] if self.silent else []
        return [*silent, *self._cost_lines()]

    def _cost_lines(self) -> list[str]:
        made = self.forecast
        if not made.trials:
            return ["nothing is left to train"]
        disk = (
            f"disk: {size_text(self.weights_bytes)} of weights to keep, {size_text(self.store_bytes)} of image stores"
        )
        if not made.seconds:
            return [
                f"{made.trials} trials to train; how long they take is known once some have ended, or with --calibrate",
                disk,
            ]
        within = "" if made.relative_error is None else f", typically within {made.relative_error:.0%} of it"
        per_trial = made.busy_s / len(made.seconds)
        lines = [
            f"{made.trials} trials to train, {duration(per_trial)} each on average "
            f"({self._basis()}{within}); {made.slots} at a time"
        ]
        if made.wall_s is None:
            return [*lines, f"nothing is known of {', '.join(made.unknown)}: add --calibrate", disk]
        return [*lines, f"about {duration(made.wall_s)} in all, after the start", *self._gpu_line(), disk]

    def _gpu_line(self) -> list[str]:
        if self.gpus == 0:
            return []
        hours = self.gpu_hours
        if hours is None:
            return ["GPU-hours and their price are known once trials have ended on GPUs"]
        condition = " if every rank has a GPU" if self.gpus is None else ""
        money = "" if self.price is None else f", {self.price * hours:.2f} at {self.price:g} per GPU-hour"
        return [f"{hours:.2f} GPU-hours{money}{condition}", *self._limit_line()]

    def _limit_line(self) -> list[str]:
        if self.affordable is None:
            return []
        return [f"{self.affordable} of {self.forecast.trials} trials fit {self.max_gpu_hours:g} GPU-hours"]

    def _basis(self) -> str:
        words = {
            "record": f"from {self.finished} trials that ended",
            "calibration": "from a few steps on this machine's CPU",
            "other scales": "from other scales, by their size",
        }
        return "; ".join(words[basis] for basis in dict.fromkeys(self.forecast.basis.values()))


def estimate(
    plan: Plan,
    places: Places,
    *,
    slots: int | None = None,
    price: float | None = None,
    calibrate: bool = False,
    note: Callable[[str], None] = lambda _: None,
    options: RunOptions | None = None,
) -> Estimate:
    """Look into the record, time a few steps if asked to, and add up.

    Args:
        plan: A plan without problems.
        places: Where the record is; a record that does not answer counts as empty.
        slots: Trials at a time; as many as fit the CPUs of this machine if not given.
        price: Of a GPU-hour, in any currency.
        calibrate: Time a few steps of each scale of which no trial has ended, on the CPU.
        note: Told what is being timed.
        options: How the run differs from what the study says.

    Raises:
        UserError: The plan has problems; fewer than 1 slot; a limit of GPU-hours for trials that use no GPU.
    """
    if plan.resolver is None:
        raise UserError("\n".join(plan.problems))
    if slots is not None and slots < 1:
        raise UserError(f"--slots is the number of trials at a time, at least 1, got {slots}")
    execution = plan.study.execution
    known = _known(plan, places)
    speeds = _speeds(plan, known, note) if calibrate else {}
    ids = {t.trial_id for t in known.todo}
    options = options or RunOptions()
    at_a_time = min(slots or _fit_here(plan), options.max_concurrent or execution.max_concurrent or sys.maxsize)
    done = [t.trial_id for t in plan.trials if t.trial_id not in ids]
    gpus = execution.gang.gpus_per_rank
    made = forecast(works_of(plan.trials), known.took, at_a_time, done=done, images_per_s=speeds)
    return Estimate(
        forecast=made,
        finished=len(known.took),
        silent=known.silent,
        ranks=execution.gang.ranks,
        cpus=execution.gang.ranks * execution.gang.cpus_per_rank,
        gpus=None if gpus is None else execution.gang.ranks * gpus,
        price=price,
        max_gpu_hours=options.max_gpu_hours,
        affordable=_affordable(plan, known, made, options.max_gpu_hours),
        weights_bytes=sum(BYTES_PER_WEIGHT * t.parameters for t in known.todo if _keeps_weights(plan, t)),
        store_bytes=_store_bytes(plan, places, known.todo),
    )


def _affordable(plan: Plan, known: _Known, made: Forecast, max_gpu_hours: float | None) -> int | None:
    if max_gpu_hours is None:
        return None
    gang = plan.study.execution.gang
    works = works_of(plan.trials)
    budget = Budget(
        max_gpu_hours, gang.ranks * (1.0 if gang.gpus_per_rank is None else gang.gpus_per_rank), works, known.took
    )
    if made.unknown:
        return None
    entries = [Entry(trial_id=t.trial_id, cost=made.seconds[t.trial_id], upstream_id=t.upstream_id) for t in known.todo]
    return count_affordable(budget, entries)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What the record says: seconds of trials that ended, trials to train, and why it says nothing if it does not."""

    took: dict[str, float]
    todo: list[PlannedTrial]
    silent: str = ""


def _known(plan: Plan, places: Places) -> _Known:
    try:
        storage = places.storage_of(plan.study.name)
        states = Record(plan.study, storage, places.tracking_uri).look(t.trial_id for t in plan.trials)
        spooled = {item.key for item in storage.undelivered() if item.state is State.COMPLETE}
    except (TrackingError, UserError) as error:
        return _Known(took={}, todo=list(plan.trials), silent=str(error))
    took = {i: s.seconds for i, s in states.items() if s.state is State.COMPLETE and s.seconds is not None}
    todo = remaining(plan, states, storage.has_weights).todo
    return _Known(took=took, todo=[t for t in plan.trials if t.trial_id in todo and t.trial_id not in spooled])


def _speeds(plan: Plan, known: _Known, note: Callable[[str], None]) -> dict[str, float]:
    """Scale without a trial that ended -> images per second of a whole gang; not of those that cannot be timed here."""
    from trainables.calibration import training_speed

    assert plan.resolver is not None
    ended = {t.trial.cell.model_scale for t in plan.trials if t.trial_id in known.took}
    gang = plan.study.execution.gang
    workspace = Workspace(home="", storage="", import_paths=import_paths(plan.loaded))
    speeds: dict[str, float] = {}
    for planned in known.todo:
        scale = planned.trial.cell.model_scale
        if scale in ended or scale in speeds:
            continue
        note(f"timing a few steps of {scale}")
        trial = plan.resolver.resolved(planned.trial, "plan", workspace)
        ranks = min(gang.ranks, trial.protocol.ghost_batches)
        try:
            speeds[scale] = ranks * training_speed(trial, gang.cpus_per_rank)
        except ScalecurvesError as error:
            note(f"{scale} cannot be timed here: {error}")
    return speeds


def _fit_here(plan: Plan) -> int:
    execution = plan.study.execution
    return max(1, (os.cpu_count() or 1) // (execution.gang.ranks * execution.gang.cpus_per_rank))


def _keeps_weights(plan: Plan, planned: PlannedTrial) -> bool:
    return planned.trial.role is Role.UPSTREAM or plan.study.execution.keep_weights != "none"


def _store_bytes(plan: Plan, places: Places, todo: list[PlannedTrial]) -> int:
    assert plan.resolver is not None
    library = TaskLibrary(places.home)
    return sum(len(library.load(name)) * side * side * 3 for name, _, side in stores_needed(plan.resolver, todo))


def size_text(size: float) -> str:
    """Short text: ``3.2 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
