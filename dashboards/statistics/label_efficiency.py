"""How many labels a source saves, by inverting tests instead of reading a crossing off noisy curves.

Let B(1) be the baseline with all labels and A(f) the source with the amount f. Three statements, each with its own
error control at ``alpha / 2`` one-sided, on contrasts of ``linear_contrast`` paired by the order that subsets are
prefixes of:

* f is *excluded* as the crossing if A(f) is significantly below B(1). What remains is a confidence set of the crossing.
* A *reaches* B(1) at f if it is non-inferior within delta. Amounts are tested from the largest down and testing stops
  at the first that fails, which needs no further correction (fixed sequence, Maurer et al. 1995).
* The source *saves* labels at f if A reaches B(1) there and is better than the baseline with the same amount (Holm over
  the amounts). Without the second part a baseline that has long levelled off would be said to save labels by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dashboards.statistics.contrasts import MIN_TEST_PATIENTS, Estimate, Runs, contrast, is_lost
from dashboards.statistics.families import adjust_p_values
from dashboards.statistics.learning_curves import Censoring, Crossing, crossing_amount
from dashboards.statistics.margins import noninferiority_p


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Labels that a cell uses, counted once, whatever the number of epochs.

    Attributes:
        images: Labelled training images.
        patients: Patients that they are of.
        val_images: Labelled validation images that stopped, selected or tuned: they are labels too.
        val_patients: Their patients.
    """

    images: float
    patients: float
    val_images: float = 0.0
    val_patients: float = 0.0

    @property
    def all_images(self) -> float:
        """Training and validation images."""
        return self.images + self.val_images

    @property
    def all_patients(self) -> float:
        """Training and validation patients."""
        return self.patients + self.val_patients


@dataclass(frozen=True, slots=True, kw_only=True)
class AmountTest:
    """The source at one amount.

    Attributes:
        amount: Its name.
        labels: What it costs.
        to_full: A(f) - B(1).
        to_same: A(f) - B(f); None if the baseline was not run there.
        excluded: Whether A(f) is significantly below B(1).
        reaches: Whether A reaches B(1) here within delta.
        saves: Whether the source saves labels here.
    """

    amount: str
    labels: Labels
    to_full: Estimate
    to_same: Estimate | None
    excluded: bool
    reaches: bool
    saves: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelEfficiency:
    """Label efficiency of a source against the baseline with all labels.

    Attributes:
        tests: One per amount, fewest labels first.
        full: Labels of the baseline with all of them.
        point: The interpolated crossing in training images: to be drawn, not claimed.
        delta: Margin of "reaches".
        alpha: Two-sided level.
    """

    tests: tuple[AmountTest, ...]
    full: Labels
    point: Crossing
    delta: float
    alpha: float

    @property
    def possible(self) -> tuple[AmountTest, ...]:
        """Confidence set of the crossing: amounts that are not excluded."""
        return tuple(test for test in self.tests if not test.excluded)

    @property
    def left_censored(self) -> bool:
        """Whether even the smallest amount tried is possible: the crossing may lie below it."""
        return bool(self.tests) and not self.tests[0].excluded

    @property
    def right_censored(self) -> bool:
        """Whether reaching B(1) is not shown at any amount: the crossing may lie above the largest."""
        return not any(test.reaches for test in self.tests)

    @property
    def reached(self) -> AmountTest | None:
        """Smallest amount at which A is shown to reach B(1)."""
        return next((test for test in self.tests if test.reaches), None)

    @property
    def saving(self) -> AmountTest | None:
        """Smallest amount at which the source is shown to save labels."""
        return next((test for test in self.tests if test.saves), None)

    def share_saved(self, *, patients: bool = False, with_validation: bool = True) -> float:
        """Labels saved at ``saving`` as a share of the baseline's, in [0, 1); NaN if no saving is shown.

        Args:
            patients: Count patients instead of images.
            with_validation: Count the labels of validation on both sides.
        """
        if self.saving is None:
            return float("nan")
        used, all_of_them = (_count(labels, patients, with_validation) for labels in (self.saving.labels, self.full))
        return 1.0 - used / all_of_them


def label_efficiency(
    source: Mapping[str, Runs],
    baseline: Mapping[str, Runs],
    labels: Mapping[str, Labels],
    delta: float,
    *,
    alpha: float = 0.05,
    higher_is_better: bool = True,
    min_test_patients: int = MIN_TEST_PATIENTS,
) -> LabelEfficiency:
    """Test every amount of the source against the baseline with all labels.

    Args:
        source: Amount -> runs of the source. Subsets of one seed must be prefixes of one order over all amounts.
        baseline: Amount -> runs of the baseline; its largest amount is "all labels".
        labels: Labels of every amount of both.
        delta: Largest difference of no practical meaning, at least 0.
        alpha: Two-sided level; each statement is one-sided at half of it.
        higher_is_better: False for losses.
        min_test_patients: As of ``linear_contrast``.

    Raises:
        ValueError: No amount on a side, or an amount without its labels.
    """
    if not source or not baseline:
        raise ValueError(f"both sides need an amount, got {sorted(source)} of the source, {sorted(baseline)} else")
    if missing := sorted({*source, *baseline} - set(labels)):
        raise ValueError(f"no labels are given for the amounts {missing}; known: {sorted(labels)}")
    ordered = sorted(source, key=lambda amount: labels[amount].images)
    everything = max(baseline, key=lambda amount: labels[amount].images)
    to_full = [contrast(source[f], baseline[everything], min_test_patients=min_test_patients) for f in ordered]
    to_same = [
        contrast(source[f], baseline[f], min_test_patients=min_test_patients) if f in baseline else None
        for f in ordered
    ]
    below = [noninferiority_p(e, 0.0, higher_is_better=not higher_is_better) <= alpha / 2 for e in to_full]
    reaches = _stepping_down(
        [noninferiority_p(e, delta, higher_is_better=higher_is_better) <= alpha / 2 for e in to_full]
    )
    fewer = [labels[f].images < labels[everything].images for f in ordered]
    lost = sum(e is not None and few and is_lost(e, min_test_patients) for e, few in zip(to_same, fewer, strict=True))
    better = _better(to_same, fewer, alpha, higher_is_better, lost)
    tests = tuple(
        AmountTest(
            amount=f,
            labels=labels[f],
            to_full=to_full[i],
            to_same=to_same[i],
            excluded=below[i],
            reaches=reaches[i],
            saves=reaches[i] and better[i],
        )
        for i, f in enumerate(ordered)
    )
    point = _point(source, baseline[everything], {f: labels[f].images for f in ordered}, higher_is_better)
    return LabelEfficiency(tests=tests, full=labels[everything], point=point, delta=delta, alpha=alpha)


def _stepping_down(passes: list[bool]) -> list[bool]:
    """Whether each amount and all larger ones pass."""
    return [all(passes[i:]) for i in range(len(passes))]


def _better(
    to_same: list[Estimate | None], fewer: list[bool], alpha: float, higher_is_better: bool, lost: int
) -> list[bool]:
    """Whether the source is better at each amount; ``lost`` amounts without a test count in Holm's family."""
    raw = [
        noninferiority_p(e, 0.0, higher_is_better=higher_is_better) if e is not None and few else float("nan")
        for e, few in zip(to_same, fewer, strict=True)
    ]
    return [bool(p <= alpha / 2) for p in adjust_p_values(raw, "holm", absent=lost)]


def _point(source: Mapping[str, Runs], full: Runs, images: Mapping[str, float], higher_is_better: bool) -> Crossing:
    amounts = list(images.values())
    if len(set(amounts)) < len(amounts):
        return Crossing(amount=float("nan"), censoring=Censoring.UNDEFINED)
    curve = [_mean(source[f]) for f in images]
    return crossing_amount(amounts, curve, _mean(full), higher_is_better=higher_is_better)


def _mean(runs: Runs) -> float:
    values = [run.value for run in runs.values() if np.isfinite(run.value)]
    return float(np.mean(values)) if values else float("nan")


def _count(labels: Labels, patients: bool, with_validation: bool) -> float:
    if patients:
        return labels.all_patients if with_validation else labels.patients
    return labels.all_images if with_validation else labels.images
