"""How long trials take: from those that ended, else from a few steps that were timed. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster.capacity import Capacity, Shape
from orchestrator.agenda import Entry, makespan


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a trial has to do.

    Attributes:
        trial_id: Its id.
        upstream_id: Trial that it starts from.
        scale: Its model scale.
        cost: Images seen x pixels x parameters, to compare scales.
        images: Training images seen, plus a third of the images it is evaluated on: a forward pass alone.
        gang: Shape of the gang that trains it.
        priority: A higher one starts first.
    """

    trial_id: str
    upstream_id: str | None
    scale: str
    cost: float
    images: float
    gang: Shape
    priority: int = 0


class SecondsModel:
    """Seconds as a constant and a part that grows with the work, neither negative; least squares.

    Args:
        took: (work, seconds) of trials that ended; at least one.
    """

    def __init__(self, took: Sequence[tuple[float, float]]) -> None:
        self.trials = len(took)
        work, seconds = np.array(took, dtype=float).T
        self._unit = float(work.mean()) or 1.0
        self._constant, self._slope = _non_negative_line(work / self._unit, seconds)
        predicted = self._constant + self._slope * work / self._unit
        self.spread_s = float(np.sqrt(np.mean((seconds - predicted) ** 2)))
        """Root mean square of measured around expected seconds."""
        self.relative_error = float(self.spread_s / seconds.mean()) if seconds.mean() > 0 else 0.0

    def seconds(self, work: float) -> float:
        """Expected seconds of that much work."""
        return float(self._constant + self._slope * work / self._unit)


def _non_negative_line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Constant and slope, neither negative, of least squares: the best of the free line, the flat one and the one
    through the origin. (``scipy.optimize.nnls`` gives the same, but takes half a second to import.)

    Args:
        x: (N,), not negative, N at least 1.
        y: (N,), not negative.
    """
    spread = x - x.mean()
    slope = float(spread @ y / (spread @ spread)) if spread.any() else 0.0
    constant = float(y.mean() - slope * x.mean())
    if slope >= 0 and constant >= 0:
        return constant, slope
    lines = [(float(y.mean()), 0.0), (0.0, float(x @ y / (x @ x)) if x.any() else 0.0)]
    return min(lines, key=lambda line: float(np.sum((line[0] + line[1] * x - y) ** 2)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleSeconds:
    """Expected seconds of the trials of one scale that are not done.

    Attributes:
        trials: Number of them.
        mean: Of one trial.
        least: Of the shortest.
        most: Of the longest.
    """

    trials: int
    mean: float
    least: float
    most: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> ScaleSeconds:
        """Of at least one trial."""
        return cls(trials=len(seconds), mean=sum(seconds) / len(seconds), least=min(seconds), most=max(seconds))


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What the trials that are not done will take.

    Attributes:
        trials: Number of them.
        seconds: Trial -> expected seconds; only those for which something is known.
        basis: Scale -> what its seconds rest on: ``record``, ``calibration``, ``other scales`` or ``operations``.
        unknown: Scales of which nothing is known.
        relative_error: Root mean square of measured around expected seconds of one trial, as a share; None unless all
            scales rest on the record and each on at least three trials.
        room: What fits at once; a number of trials, or nodes.
        wall_s: Until the last one ends; None while a scale is unknown.
        of_scale: Scale -> expected seconds of a trial, of the scales that are not unknown.
    """

    trials: int
    seconds: Mapping[str, float]
    basis: Mapping[str, str]
    unknown: tuple[str, ...]
    relative_error: float | None
    room: int | Capacity
    wall_s: float | None
    of_scale: Mapping[str, ScaleSeconds]

    @property
    def busy_s(self) -> float:
        """Seconds of all trials together."""
        return sum(self.seconds.values())

    @property
    def slots(self) -> int | None:
        """Trials at a time; None if that depends on their gangs."""
        return self.room if isinstance(self.room, int) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Seconds of trials that have not ended.

    Attributes:
        seconds: Trial -> seconds; only those for which something is known.
        basis: Scale -> what they rest on, see ``Forecast``.
        models: Scale -> its own trials, of those that have any.
    """

    seconds: dict[str, float]
    basis: dict[str, str]
    models: dict[str, SecondsModel]


def expected(
    works: Sequence[Work],
    took: Mapping[str, float],
    *,
    done: Collection[str],
    images_per_s: Mapping[str, float] | None = None,
    assumed_s: Mapping[str, float] | None = None,
) -> Expected:
    """Seconds of every trial that is not done: of trials of its scale, else timed, else of other scales, else assumed.

    Args:
        works: All trials.
        took: Trial -> seconds, of those that ended.
        done: Trials that need not be trained.
        images_per_s: Scale -> training speed that was timed on a CPU; says nothing of trials on GPUs.
        assumed_s: Trial -> seconds by its operations.
    """
    speeds, assumed = images_per_s or {}, assumed_s or {}
    known = [w for w in works if w.trial_id in took]
    over_all = SecondsModel([(w.cost, took[w.trial_id]) for w in known]) if known else None
    of_scale = {
        scale: SecondsModel([(w.images, took[w.trial_id]) for w in known if w.scale == scale])
        for scale in dict.fromkeys(w.scale for w in known)
    }
    ended = set(done)
    seconds: dict[str, float] = {}
    basis: dict[str, str] = {}
    for work in works:
        if work.trial_id in ended:
            continue
        if work.scale in of_scale:
            basis[work.scale], seconds[work.trial_id] = "record", of_scale[work.scale].seconds(work.images)
        elif speeds.get(work.scale) and not work.gang.gpus:
            basis[work.scale], seconds[work.trial_id] = "calibration", work.images / speeds[work.scale]
        elif over_all is not None:
            basis[work.scale], seconds[work.trial_id] = "other scales", over_all.seconds(work.cost)
        elif work.trial_id in assumed:
            basis[work.scale], seconds[work.trial_id] = "operations", assumed[work.trial_id]
    return Expected(seconds=seconds, basis=basis, models=of_scale)


def forecast(
    works: Iterable[Work],
    took: Mapping[str, float],
    room: int | Capacity,
    *,
    done: Collection[str],
    most: int | None = None,
    images_per_s: Mapping[str, float] | None = None,
    assumed_s: Mapping[str, float] | None = None,
) -> Forecast:
    """Expected seconds of every trial that is not done, and of all together.

    Args:
        works: All trials.
        took: Trial -> seconds, of those that ended.
        room: What fits at once: a number of trials, at least 1, or nodes.
        done: Trials that need not be trained.
        most: Most trials at a time, whatever fits.
        images_per_s: See ``expected``.
        assumed_s: See ``expected``.
    """
    works = list(works)
    made = expected(works, took, done=done, images_per_s=images_per_s, assumed_s=assumed_s)
    seconds, basis = made.seconds, made.basis
    ended = set(done)
    todo = [w for w in works if w.trial_id not in ended]
    unknown = tuple(dict.fromkeys(w.scale for w in todo if w.trial_id not in seconds))
    entries = [
        Entry(
            trial_id=w.trial_id,
            cost=seconds[w.trial_id],
            upstream_id=w.upstream_id,
            gang=w.gang,
            priority=w.priority,
        )
        for w in todo
        if w.trial_id in seconds
    ]
    sizes = {entry.gang: entry.gang.size for entry in entries}
    used = [made.models[scale] for scale, why in basis.items() if why == "record"]
    measured = len(used) == len(basis) and all(model.trials >= 3 for model in used)
    return Forecast(
        trials=len(todo),
        seconds=seconds,
        basis=basis,
        unknown=unknown,
        relative_error=max(m.relative_error for m in used) if used and measured else None,
        room=room,
        wall_s=None if unknown else makespan(entries, room, sizes=sizes, most=most),
        of_scale={
            scale: ScaleSeconds.of([seconds[w.trial_id] for w in todo if w.scale == scale and w.trial_id in seconds])
            for scale in basis
        },
    )
