"""Many tasks in one number, with intervals over seeds (Agarwal et al. 2021; Bouthillier et al. 2021).

The tasks are fixed here and the seeds of each the sample: the intervals say what other seeds would have given on these
tasks, nothing about other tasks and nothing about other patients. Secondary beside the contrasts of each task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from dashboards.statistics.predictions import FloatArray

DRAWS = 2000
"""Draws of the stratified bootstrap."""

MIN_SEEDS_PER_TASK = 3
"""Fewer seeds of a task say too little of its spread to be drawn from."""

MEANINGFUL_IMPROVEMENT = 0.75
"""Probability of improvement from which on Bouthillier et al. (2021, section 4) call a difference meaningful."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverTasks:
    """One number over tasks.

    Attributes:
        value: Of the seeds that there are.
        low: Lower end of its percentile interval; NaN with fewer than ``MIN_SEEDS_PER_TASK`` seeds on some task.
        high: Upper end.
    """

    value: float
    low: float
    high: float


def normalised_scores(values: FloatArray, chance: float, best: float) -> FloatArray:
    """Scores with chance at 0 and the best possible value at 1.

    Args:
        values: Of any shape.
        chance: What is reached without looking at the images.
        best: 1 of an AUC, 0 of a loss.

    Raises:
        ValueError: Chance and best are the same.
    """
    if chance == best:
        raise ValueError(f"chance and best are both {best}; nothing can be told between them")
    return (values - chance) / (best - chance)


def interquartile_mean(scores: Sequence[FloatArray], rng: np.random.Generator, level: float = 0.95) -> OverTasks:
    """Mean of the middle half of all runs on all tasks (Agarwal et al. 2021, section 4.2).

    Args:
        scores: Task -> (S,) scores of its seeds, comparable between tasks (``normalised_scores``).
        rng: Source of draws of seeds within each task.
        level: Of the interval.

    Raises:
        ValueError: No score, or one that is NaN.
    """
    _check(scores)
    drawn = np.concatenate([_resampled(of_task, rng) for of_task in scores], axis=1)
    return _with_interval(_trimmed(np.concatenate(scores)[None])[0], _trimmed(drawn), scores, level)


def improvement(
    ours: Sequence[FloatArray], theirs: Sequence[FloatArray], rng: np.random.Generator, level: float = 0.95
) -> OverTasks:
    """Probability that a run of ours is better than one of theirs on the same task, mean over tasks; a tie is a half.

    Runs are independent: all pairs of a task count, as in Mann and Whitney's test (Agarwal et al. 2021, equation 3).

    Args:
        ours: Task -> (S,) scores, more is better.
        theirs: Task -> (S',) scores.
        rng: Source of draws of seeds within each task, on each side.
        level: Of the interval.

    Raises:
        ValueError: No score, one that is NaN, or other tasks on the two sides.
    """
    _check(ours, theirs)
    pairs = list(zip(ours, theirs, strict=True))
    drawn = [_wins(_resampled(a, rng)[:, :, None], _resampled(b, rng)[:, None]).mean(axis=(1, 2)) for a, b in pairs]
    value = np.mean([_wins(a[:, None], b).mean() for a, b in pairs])
    return _with_interval(value, np.mean(drawn, axis=0), [*ours, *theirs], level)


def paired_improvement(
    ours: Sequence[FloatArray], theirs: Sequence[FloatArray], rng: np.random.Generator, level: float = 0.95
) -> OverTasks:
    """The same of runs that are pairs (same subset and seed): only the two of a pair are compared.

    Args:
        ours: Task -> (S,) scores, more is better.
        theirs: Task -> (S,) scores of the same seeds in the same order.
        rng: Source of draws of pairs within each task.
        level: Of the interval.

    Raises:
        ValueError: As ``improvement``, or sides of different length.
    """
    _check(ours, theirs)
    if [len(a) for a in ours] != [len(b) for b in theirs]:
        raise ValueError("pairs need as many seeds on both sides of each task")
    won = [_wins(a, b) for a, b in zip(ours, theirs, strict=True)]
    drawn = np.mean([_resampled(of_task, rng).mean(axis=1) for of_task in won], axis=0)
    return _with_interval(np.mean([of_task.mean() for of_task in won]), drawn, won, level)


def _check(*sides: Sequence[FloatArray]) -> None:
    for side in sides:
        if not len(side) or any(not len(of_task) or np.isnan(of_task).any() for of_task in side):
            raise ValueError("every task needs at least one score, and none may be NaN")
    if len({len(side) for side in sides}) > 1:
        raise ValueError(f"both sides need the same tasks, got {' and '.join(str(len(side)) for side in sides)}")


def _wins(ours: FloatArray, theirs: FloatArray) -> FloatArray:
    return np.asarray((ours > theirs) + 0.5 * (ours == theirs))


def _resampled(values: FloatArray, rng: np.random.Generator) -> FloatArray:
    """(DRAWS, S) values drawn with replacement."""
    return np.asarray(values[rng.integers(0, len(values), (DRAWS, len(values)))])


def _trimmed(values: FloatArray) -> FloatArray:
    """(B,) means of the middle halves of (B, n); with fewer than four values nothing is cut off."""
    return np.asarray(stats.trim_mean(values, 0.25, axis=1))


def _with_interval(value: float, draws: FloatArray, scores: Sequence[FloatArray], level: float) -> OverTasks:
    if min(len(of_task) for of_task in scores) < MIN_SEEDS_PER_TASK:
        return OverTasks(value=float(value), low=float("nan"), high=float("nan"))
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return OverTasks(value=float(value), low=float(low), high=float(high))
