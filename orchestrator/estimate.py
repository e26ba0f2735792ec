"""What a plan will cost: time, accelerators, money, disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.engine import Places
from orchestrator.forecast import Forecast, Work, forecast
from orchestrator.plan import Plan, PlannedTrial, import_paths, stores_needed
from orchestrator.progress import duration
from orchestrator.record import Record
from search_spaces.exceptions import TrackingError, UserError
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
        ranks: Per trial.
        cpus: Per trial.
        gpus: Per trial; None if the study leaves it to the cluster.
        price: Of a GPU-hour; None if not asked for.
        weights_bytes: Of the weights that they will keep.
        store_bytes: Of the image stores that they read, those that exist already included.
    """

    forecast: Forecast
    finished: int
    ranks: int
    cpus: int
    gpus: float | None
    price: float | None
    weights_bytes: int
    store_bytes: int

    @property
    def gpu_hours(self) -> float:
        """Hours of a GPU; of one per rank if the study leaves it to the cluster."""
        return self.forecast.busy_s / 3600 * (self.ranks if self.gpus is None else self.gpus)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        made = self.forecast
        return {
            "trials_left": made.trials,
            "slots": made.slots,
            "wall_s": made.wall_s,
            "busy_s": made.busy_s,
            "gpu_hours": self.gpu_hours,
            "cpu_hours": made.busy_s / 3600 * self.cpus,
            "price": None if self.price is None else self.price * self.gpu_hours,
            "relative_error": made.relative_error,
            "basis": dict(made.basis),
            "unknown_scales": list(made.unknown),
            "weights_bytes": self.weights_bytes,
            "store_bytes": self.store_bytes,
        }

    def lines(self) -> list[str]:
        """Sentences for the terminal."""
        made = self.forecast
        if not made.trials:
            return ["nothing is left to train"]
        disk = f"disk: {_size(self.weights_bytes)} of weights to keep, {_size(self.store_bytes)} of image stores"
        if not made.seconds:
            return [
                f"{made.trials} trials to train; how long they take is known once some have ended, or with --calibrate",
                disk,
            ]
        within = "" if made.relative_error is None else f", each within {made.relative_error:.0%} of it"
        per_trial = made.busy_s / len(made.seconds)
        lines = [
            f"{made.trials} trials to train, {duration(per_trial)} each on average "
            f"({self._basis()}{within}); {made.slots} at a time"
        ]
        if made.wall_s is None:
            lines.append(f"nothing is known of {', '.join(made.unknown)}: add --calibrate")
        else:
            lines.append(f"about {duration(made.wall_s)} in all, after the start")
        if self.gpus != 0:
            condition = " if every rank has a GPU" if self.gpus is None else ""
            money = "" if self.price is None else f", {self.price * self.gpu_hours:.2f} at {self.price:g} per GPU-hour"
            lines.append(f"{self.gpu_hours:.2f} GPU-hours{money}{condition}")
        return [*lines, disk]

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
) -> Estimate:
    """Look into the record, time a few steps if asked to, and add up.

    Args:
        plan: A plan without problems.
        places: Where the record is; a record that does not answer counts as empty.
        slots: Trials at a time; as many as fit the CPUs of this machine if not given.
        price: Of a GPU-hour, in any currency.
        calibrate: Time a few steps of each scale of which no trial has ended, on the CPU.
        note: Told what is being timed.

    Raises:
        UserError: The plan has problems; fewer than 1 slot.
    """
    if plan.resolver is None:
        raise UserError("\n".join(plan.problems))
    if slots is not None and slots < 1:
        raise UserError(f"--slots is the number of trials at a time, at least 1, got {slots}")
    gang = plan.study.execution.gang
    took, done = _ended(plan, places)
    speeds = _speeds(plan, took, note) if calibrate else {}
    made = forecast(_works(plan), took, slots or _fit_here(plan), done=done, images_per_s=speeds)
    todo = [t for t in plan.trials if t.trial_id not in done]
    return Estimate(
        forecast=made,
        finished=len(took),
        ranks=gang.ranks,
        cpus=gang.ranks * gang.cpus_per_rank,
        gpus=None if gang.gpus_per_rank is None else gang.ranks * gang.gpus_per_rank,
        price=price,
        weights_bytes=sum(BYTES_PER_WEIGHT * t.parameters for t in todo if _keeps_weights(plan, t)),
        store_bytes=_store_bytes(plan, places, todo),
    )


def _works(plan: Plan) -> list[Work]:
    return [
        Work(
            trial_id=t.trial_id,
            upstream_id=t.upstream_id,
            scale=t.trial.cell.model_scale,
            cost=t.cost,
            images=t.images,
        )
        for t in plan.trials
    ]


def _ended(plan: Plan, places: Places) -> tuple[dict[str, float], set[str]]:
    record = Record(plan.study, places.storage_of(plan.study.name), places.tracking_uri)
    try:
        states = record.look(t.trial_id for t in plan.trials)
    except TrackingError:
        return {}, set()
    done = {i for i, state in states.items() if state.state is State.COMPLETE}
    return {i: s.seconds for i, s in states.items() if i in done and s.seconds is not None}, done


def _speeds(plan: Plan, took: Mapping[str, float], note: Callable[[str], None]) -> dict[str, float]:
    """Scale without a trial that ended -> images per second of a whole gang."""
    from trainables.calibration import training_speed

    assert plan.resolver is not None
    known = {t.trial.cell.model_scale for t in plan.trials if t.trial_id in took}
    gang = plan.study.execution.gang
    workspace = Workspace(home="", storage="", import_paths=import_paths(plan.loaded))
    speeds: dict[str, float] = {}
    for planned in plan.trials:
        scale = planned.trial.cell.model_scale
        if scale not in known and scale not in speeds:
            note(f"timing a few steps of {scale}")
            trial = plan.resolver.resolved(planned.trial, "plan", workspace)
            speeds[scale] = gang.ranks * training_speed(trial, gang.cpus_per_rank)
    return speeds


def _fit_here(plan: Plan) -> int:
    execution = plan.study.execution
    fit = (os.cpu_count() or 1) // (execution.gang.ranks * execution.gang.cpus_per_rank)
    return max(1, min(fit, execution.max_concurrent or fit))


def _keeps_weights(plan: Plan, planned: PlannedTrial) -> bool:
    return planned.trial.role is Role.UPSTREAM or plan.study.execution.keep_weights != "none"


def _store_bytes(plan: Plan, places: Places, todo: list[PlannedTrial]) -> int:
    assert plan.resolver is not None
    library = TaskLibrary(places.home)
    return sum(len(library.load(name)) * side * side * 3 for name, _, side in stores_needed(plan.resolver, todo))


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
