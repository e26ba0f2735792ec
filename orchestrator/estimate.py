"""What a plan will cost: time, accelerators, money, disk."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cluster.capacity import Capacity, Node, Shape
from orchestrator.agenda import Entry
from orchestrator.assumed_speed import LAUNCH_S, AssumedSeconds, assumed_seconds
from orchestrator.budget import Budget, count_affordable, work_of
from orchestrator.forecast import Expected, Forecast, ScaleSeconds, Work, expected, forecast
from orchestrator.known_trials import KnownTrials
from orchestrator.pace import duration
from orchestrator.places import Places
from orchestrator.plan import Plan, PlannedTrial, import_paths, stores_needed
from orchestrator.plan_representations import kept_by
from orchestrator.run_terms import RunOptions
from search_spaces.exceptions import ScalecurvesError, UserError
from search_spaces.names import Role
from search_spaces.study import GangSpec
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
        gangs: Trial -> its gang.
        gpu_trials: Number of those that use GPUs, or may.
        on_gpus: Their seconds there, of which timed steps of a CPU say nothing.
        assumed: What seconds by operations rest on.
        price: Of a GPU-hour; None if not asked for.
        max_gpu_hours: Limit of the run that is planned; None for none.
        affordable: Trials that it would start within the limit; None without one, or while a scale is unknown.
        weights_bytes: Of the weights that they will keep.
        store_bytes: Of the image stores that they read, those that exist already included.
        kept_bytes: Of the activations that they keep.
        without_kept: Finished trials that have no representations although the study asks for them.
        kept_later: Those of them whose weights were kept, so that a run can make up for it.
    """

    forecast: Forecast
    finished: int
    silent: str
    gangs: dict[str, GangSpec]
    gpu_trials: int
    on_gpus: Expected
    assumed: AssumedSeconds
    price: float | None
    max_gpu_hours: float | None
    affordable: int | None
    weights_bytes: int
    store_bytes: int
    kept_bytes: int = 0
    without_kept: int = 0
    kept_later: int = 0

    @property
    def gpu_hours(self) -> float | None:
        """Hours of a GPU, of one per rank if the study leaves it to the cluster; None while a scale is unknown."""
        if self.gpu_trials > len(self.on_gpus.seconds):
            return None
        return self._hours(self.on_gpus.seconds, lambda gang: gang.ranks * _gpus(gang))

    @property
    def cpu_hours(self) -> float | None:
        """Hours of a CPU; None if not all scales are known."""
        if self.forecast.unknown:
            return None
        return self._hours(self.forecast.seconds, lambda gang: gang.ranks * gang.cpus_per_rank)

    def _hours(self, of: Mapping[str, float], share: Callable[[GangSpec], float]) -> float:
        return sum(seconds * share(self.gangs[i]) for i, seconds in of.items()) / 3600

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
            "gpu_hours_basis": dict(self.on_gpus.basis),
            "assumed": list(self.assumed.why),
            "cpu_hours": self.cpu_hours,
            "max_gpu_hours": self.max_gpu_hours,
            "affordable": self.affordable,
            "price": None if self.price is None or hours is None else self.price * hours,
            "relative_error": made.relative_error,
            "basis": dict(made.basis),
            "trial_s": {scale: asdict(each) for scale, each in made.of_scale.items()},
            "unknown_scales": list(made.unknown),
            "weights_bytes": self.weights_bytes,
            "store_bytes": self.store_bytes,
            "representations_bytes": self.kept_bytes,
            "without_representations": self.without_kept,
            "representations_later": self.kept_later,
            "record_silent": self.silent,
        }

    def lines(self) -> list[str]:
        """Sentences for the terminal."""
        silent = [f"the record does not answer, so nothing counts as done: {self.silent}"] if self.silent else []
        return [*silent, *self._cost_lines(), *self._missing_lines()]

    def _missing_lines(self) -> list[str]:
        if not self.without_kept:
            return []
        lost = self.without_kept - self.kept_later
        gone = f"; {lost} kept no weights and get none unless trained again under another study name" if lost else ""
        made = f"the next run makes those of {self.kept_later} from their kept weights" if self.kept_later else ""
        ways = made + gone if made else gone.removeprefix("; ")
        return [f"representations: kept from now on; {self.without_kept} finished trials have none: {ways}"]

    def _cost_lines(self) -> list[str]:
        made = self.forecast
        if not made.trials:
            return ["nothing is left to train"]
        kept = f"{size_text(self.kept_bytes)} of activations, " if self.kept_bytes else ""
        disk = (
            f"disk: {size_text(self.weights_bytes)} of weights to keep, {kept}"
            f"{size_text(self.store_bytes)} of image stores"
        )
        if not made.seconds:
            return [
                f"{made.trials} trials to train; how long they take is known once some have ended, or with --calibrate",
                *self._gpu_line(),
                disk,
            ]
        within = "" if made.relative_error is None else f", typically within {made.relative_error:.0%} of it"
        per_trial = made.busy_s / len(made.seconds)
        at_a_time = f"; {made.slots} at a time" if made.slots else ""
        lines = [
            f"{made.trials} trials to train, {duration(per_trial)} each on average ({self._basis()}{within}){at_a_time}"
        ]
        if len(made.of_scale) > 1:
            lines += [f"  {scale}: {_each(took)} ({made.basis[scale]})" for scale, took in made.of_scale.items()]
        if made.wall_s is None:
            unknown = f"nothing is known of {', '.join(made.unknown)}: add --calibrate"
            return [*lines, unknown, *self._gpu_line(), disk]
        return [*lines, f"about {duration(made.wall_s)} in all, after the start", *self._gpu_line(), disk]

    def _gpu_line(self) -> list[str]:
        several = set(self.gangs.values())
        if all(gang.gpus_per_rank == 0 for gang in several):
            return []
        hours = self.gpu_hours
        if hours is None:
            kinds = ", ".join(self.assumed.unlisted)
            ways = f", or with --tflops, as the speed of {kinds} is not listed here" if kinds else ""
            return [f"GPU-hours and their price are known once trials have ended on GPUs{ways}"]
        condition = " if every rank has a GPU" if any(gang.gpus_per_rank is None for gang in several) else ""
        money = "" if self.price is None else f", {self.price * hours:.2f} at {self.price:g} per GPU-hour"
        amount = f"{hours:.2f}" if hours >= 0.01 else f"{hours:.1g}"
        return [f"{amount} GPU-hours{money}{condition}", *self._assumed_line(), *self._limit_line()]

    def _assumed_line(self) -> list[str]:
        scales = [scale for scale, basis in self.on_gpus.basis.items() if basis == "operations"]
        if not scales:
            return []
        return [
            f"an assumption for {', '.join(scales)}, not a measurement: 3 forward passes per trained image and 1 per "
            f"evaluated one, at {'; at '.join(self.assumed.why)} (--tflops says another); no ghost batch below "
            f"{LAUNCH_S * 1000:g} ms"
        ]

    def _limit_line(self) -> list[str]:
        if self.affordable is None:
            return []
        return [f"{self.affordable} of {self.forecast.trials} trials fit {self.max_gpu_hours:g} GPU-hours"]

    def _basis(self) -> str:
        words = {
            "record": f"from {self.finished} trials that ended",
            "calibration": "from a few steps on this machine's CPU",
            "other scales": "from other scales, by their size",
            "operations": "from operations, at an assumed speed",
        }
        return "; ".join(words[basis] for basis in dict.fromkeys(self.forecast.basis.values()))


def estimate(
    known: KnownTrials,
    places: Places,
    *,
    slots: int | None = None,
    nodes: Sequence[Node] = (),
    price: float | None = None,
    tflops: float | None = None,
    calibrate: bool = False,
    note: Callable[[str], None] = lambda _: None,
    options: RunOptions | None = None,
) -> Estimate:
    """Time a few steps if asked to, and add up.

    Args:
        known: A plan without problems, and what the record says of it.
        places: Where tasks and stores are.
        slots: Trials at a time, at least 1; as many as fit the nodes if not given.
        nodes: The cluster; the CPUs of this machine if not given.
        price: Of a GPU-hour, in any currency, not negative.
        tflops: What one GPU sustains in training, in 1e12 operations per second; assumed by its type if not given.
        calibrate: Time a few steps of each scale of which no trial has ended, on the CPU.
        note: Told what is being timed.
        options: How the run differs from what the study says.

    Raises:
        UserError: TFLOPS that are none; a gang that does not fit the nodes; a limit of GPU-hours for trials that use
            no GPU.
    """
    plan = known.plan
    execution = plan.study.execution
    speeds = _speeds(plan, known, nodes, note) if calibrate else {}
    assumed = _assumed(plan, known, places, nodes, tflops)
    options = options or RunOptions()
    gangs = known.gangs
    works = [dataclasses.replace(work, gang=Shape.of(gangs[work.trial_id], nodes)) for work in known.works]
    most = options.max_concurrent or execution.max_concurrent
    room = slots or _room({work.gang for work in works}, nodes)
    room = min(room, most) if isinstance(room, int) and most else room
    # A GPU per rank where the study leaves it to the cluster, as for the GPU-hours.
    priced = [dataclasses.replace(work, gang=_with_gpus(gangs[work.trial_id])) for work in works]
    elsewhere = [dataclasses.replace(work_of(t), gang=_with_gpus(t.gang)) for t in known.elsewhere]
    on_gpus = [work for work in (*priced, *elsewhere) if work.gang.gpus]
    here = {w.trial_id: assumed.seconds[w.trial_id] for w in works if w.gang.gpus and w.trial_id in assumed.seconds}
    made = forecast(
        [*works, *elsewhere], known.took, room, done=known.done, most=most, images_per_s=speeds, assumed_s=here
    )
    with_gpus = expected(on_gpus, known.took, done=known.done, assumed_s=assumed.seconds)
    done = set(known.done)
    return Estimate(
        forecast=made,
        finished=len(known.took),
        silent=known.silent,
        gangs=gangs,
        gpu_trials=sum(work.trial_id not in done for work in on_gpus),
        on_gpus=with_gpus,
        assumed=assumed,
        price=price,
        max_gpu_hours=options.max_gpu_hours,
        affordable=_affordable(priced, elsewhere, known, with_gpus, options.max_gpu_hours),
        weights_bytes=sum(BYTES_PER_WEIGHT * t.parameters for t in known.todo if _keeps_weights(plan, t)),
        store_bytes=_store_bytes(plan, places, known.todo),
        kept_bytes=sum(_kept_bytes(plan, t) for t in known.todo),
        without_kept=len(known.without_kept),
        kept_later=sum(known.without_kept.values()),
    )


def _each(took: ScaleSeconds) -> str:
    spread = "" if took.least == took.most else f", {duration(took.least)} to {duration(took.most)}"
    return f"{took.trials} trials of {duration(took.mean)}{spread}"


def _kept_bytes(plan: Plan, planned: PlannedTrial) -> int:
    assert plan.resolver is not None
    cell, kept = planned.trial.cell, kept_by(plan.study, planned.trial, plan.resolver)
    return plan.kept_bytes.get((cell.model_scale, cell.task), 0) if kept else 0


_NODES = re.compile(r"(\d+)x\((\d+)(?:,(\d+)(?:,([A-Za-z0-9][\w.-]*))?)?\)")


def parse_nodes(text: str) -> list[Node]:
    """Nodes as people write them: ``2x(32,8,A100)+4x(16)`` are two of 32 CPUs and 8 GPUs, and four without GPUs.

    Raises:
        UserError: Written otherwise.
    """
    nodes: list[Node] = []
    for part in text.replace(" ", "").split("+"):
        found = _NODES.fullmatch(part)
        if not found:
            raise UserError(
                f"--nodes is NUMBERx(CPUS,GPUS,TYPE), several joined by +, such as '2x(32,8,A100)+4x(16)'; got {text!r}"
            )
        number, cpus, gpus, kind = found.groups()
        resources = {"CPU": float(cpus), "GPU": float(gpus or 0)}
        nodes += [{"Resources": resources | ({f"accelerator_type:{kind}": 1.0} if kind else {})}] * int(number)
    return nodes


def _room(shapes: set[Shape], nodes: Sequence[Node]) -> int | Capacity:
    """What fits: a number if there is one shape."""
    if not nodes and len(shapes) == 1:
        [shape] = shapes
        return max(1, _cpus() // (shape.ranks * shape.cpus))
    capacity = Capacity.of(nodes or _this_machine())
    most = {shape: capacity.require(shape) for shape in shapes}
    return most.popitem()[1] if len(most) == 1 else capacity


def _this_machine() -> list[Node]:
    return [{"Resources": {"CPU": float(_cpus())}}]


def _cpus() -> int:
    return os.cpu_count() or 1


def _gpus(gang: GangSpec) -> float:
    return 1.0 if gang.gpus_per_rank is None else gang.gpus_per_rank


def _with_gpus(gang: GangSpec) -> Shape:
    return Shape.of(gang, [{"Resources": {"GPU": 1.0}}])


def _affordable(
    works: Sequence[Work],
    elsewhere: Sequence[Work],
    known: KnownTrials,
    made: Expected,
    max_gpu_hours: float | None,
) -> int | None:
    if max_gpu_hours is None:
        return None
    budget = Budget(max_gpu_hours, works, known.took, elsewhere)
    done = set(known.done)
    if any(w.gang.gpus and w.trial_id not in done and w.trial_id not in made.seconds for w in works):
        return None
    entries: list[Entry[object]] = [
        Entry(trial_id=w.trial_id, cost=made.seconds.get(w.trial_id, 0.0), upstream_id=w.upstream_id)
        for w in works
        if w.trial_id not in done
    ]
    return count_affordable(budget, entries)


def _assumed(
    plan: Plan, known: KnownTrials, places: Places, nodes: Sequence[Node], tflops: float | None
) -> AssumedSeconds:
    """Of what is left, as long as no trial has ended: then others are judged by those that have."""
    done = set(known.done)
    left = [] if known.took else [t for trial_id, t in known.planned.items() if trial_id not in done]
    return assumed_seconds(plan, left, places.home, nodes, tflops)


def _speeds(plan: Plan, known: KnownTrials, nodes: Sequence[Node], note: Callable[[str], None]) -> dict[str, float]:
    """Scale without a trial that ended -> images per second of a whole gang; not of those that cannot be timed here.

    Scales that only train on GPUs are not timed.
    """
    from trainables.calibration import training_speed

    assert plan.resolver is not None
    trials = (*plan.trials, *known.elsewhere)
    ended = {t.trial.cell.model_scale for t in trials if t.trial_id in known.took}
    workspace = Workspace(home="", storage="", import_paths=import_paths(plan.loaded))
    speeds: dict[str, float] = {}
    for planned in known.todo:
        scale = planned.trial.cell.model_scale
        if scale in ended or scale in speeds or Shape.of(planned.gang, nodes).gpus:
            continue
        note(f"timing a few steps of {scale}")
        trial = plan.resolver.resolved(planned.trial, "plan", workspace)
        ranks = min(planned.gang.ranks, trial.protocol.ghost_batches)
        try:
            speeds[scale] = ranks * training_speed(trial, planned.gang.cpus_per_rank)
        except ScalecurvesError as error:
            note(f"{scale} cannot be timed here: {error}")
    return speeds


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
