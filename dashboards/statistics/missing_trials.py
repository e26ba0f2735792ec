"""Trials that diverged or failed are not missing at random: do verdicts hold with them no better than guessing?"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from dashboards.statistics.contrasts import Runs, contrast
from dashboards.statistics.families import adjust_p_values
from dashboards.statistics.predictions import check_predictions
from dashboards.statistics.seeds import SeedKey
from dashboards.statistics.uncertainty import Influence, PatientIndex, patient_influence
from dashboards.statistics.verdicts import Verdict, classify
from search_spaces.names import Kind


def chance_run(
    metric: str,
    kind: Kind | str,
    labels: Sequence[str],
    y: ArrayLike,
    patient: ArrayLike | PatientIndex,
    class_set: Sequence[str] | None = None,
) -> Influence:
    """The run that knows nothing but the prevalences of the evaluation set: the best that guessing can do.

    Its AUC is 0.5, its accuracy that of the commonest class, its nll the entropy of the prevalences. Labels that have
    no positive or no negative image get a prevalence of half an image.

    Args:
        metric: As in ``patient_influence``, like all others.
        kind: See metric.
        labels: See metric.
        y: See metric.
        patient: See metric.
        class_set: See metric.

    Raises:
        ValueError: As ``patient_influence``.
    """
    predictions = check_predictions(kind, labels, y, np.zeros((len(np.asarray(y)), len(labels))), class_set)
    known = predictions.labelled.sum(axis=0)
    positives = np.clip(np.nansum(predictions.truth, axis=0), 0.5, np.maximum(known - 0.5, 0.5))
    share = positives / np.maximum(known, 1)
    logits = np.log(share / (1 - share)) if predictions.labelwise else np.log(share)
    rows = np.broadcast_to(logits, predictions.truth.shape)
    return patient_influence(metric, kind, labels, y, rows, patient, class_set)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One contrast A - B of a family with the trials that it lacks.

    Attributes:
        runs_a: Finished runs of A by seed.
        runs_b: Finished runs of B.
        lost_a: Seeds of A whose trial diverged, failed or is missing.
        lost_b: Likewise of B.
        chance: ``chance_run`` of the evaluation set.
    """

    runs_a: Runs
    runs_b: Runs
    lost_a: Collection[SeedKey]
    lost_b: Collection[SeedKey]
    chance: Influence

    def at_chance(self) -> tuple[Runs, Runs]:
        """Both sides with their lost seeds scored at chance.

        Raises:
            ValueError: A seed is both finished and lost.
        """
        for runs, lost in ((self.runs_a, self.lost_a), (self.runs_b, self.lost_b)):
            if both := [seed for seed in lost if seed in runs]:
                raise ValueError(f"seeds {both} are both finished and lost; give each once")
        return (
            {**self.runs_a, **dict.fromkeys(self.lost_a, self.chance)},
            {**self.runs_b, **dict.fromkeys(self.lost_b, self.chance)},
        )


def verdicts_at_chance(
    family: Sequence[Comparison],
    delta: float,
    *,
    alpha: float = 0.05,
    higher_is_better: bool | Sequence[bool] = True,
) -> tuple[Verdict, ...]:
    """The verdicts of a family, in its order, with every lost trial scored at chance and Holm's correction anew.

    Args:
        family: All contrasts of the primary family, those without lost trials too.
        delta: Smallest difference of practical meaning.
        alpha: Error level.
        higher_is_better: False for losses; one for all, or one per contrast of a family of several metrics.

    Raises:
        ValueError: Another number of directions than contrasts, or a seed that is both finished and lost.
    """
    better = [higher_is_better] * len(family) if isinstance(higher_is_better, bool) else list(higher_is_better)
    estimates = [contrast(*comparison.at_chance()) for comparison in family]
    adjusted = adjust_p_values([estimate.p for estimate in estimates])
    return tuple(
        classify(estimate, float(p), delta, alpha=alpha, higher_is_better=up)
        for estimate, p, up in zip(estimates, adjusted, better, strict=True)
    )


def verdict_holds(before: Verdict, at_chance: Verdict) -> bool:
    """Whether a verdict says the same with the lost trials at chance; how meaningful a help is may change."""
    return _direction(before) == _direction(at_chance)


def _direction(verdict: Verdict) -> str:
    return "helps" if verdict == "helps, meaningfully" else verdict
