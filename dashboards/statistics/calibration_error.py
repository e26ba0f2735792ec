"""How far probabilities are from observed frequencies: ECE, ACE, the debiased L2 error and what chance alone gives.

Two flavours of pairs (outcome, probability), never mixed: *positive-class*, the probability of a label and whether it
is present (binary, each label of multilabel, one class of several), and *top-label*, the largest probability and
whether that class is right (multiclass; Guo et al. 2017). Every function below takes either.

Binned errors are biased upwards, the more the smaller the set: read an ECE beside its median under perfect calibration,
and compare sets of different size by the debiased error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, softmax

from dashboards.statistics.discrimination import image_correct
from dashboards.statistics.predictions import FloatArray, Predictions

ECE_BINS = 15
"""Number of bins unless another is given (Guo et al. 2017)."""

NULL_DRAWS = 200
_CHUNK_VALUES = 4_000_000
"""Random numbers held at a time when simulating."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BinnedGaps:
    """Outcome minus probability of the images of one label, by bin of the probability.

    Attributes:
        rows: (n,) row numbers of the images.
        bins: (n,) bin of each, 0 to B - 1.
        gaps: (n,) outcome minus probability, in [-1, 1]; NaN where logits are not finite.
    """

    rows: NDArray[np.intp]
    bins: NDArray[np.intp]
    gaps: FloatArray

    @property
    def value(self) -> float:
        """The expected calibration error; NaN without an image or with a NaN gap."""
        return _mean_gap(self.gaps, self.bins) if len(self.rows) else float("nan")

    def weighted(self, weights: FloatArray) -> FloatArray:
        """(B,) values under (B, N) non-negative weights of all images; NaN where these images have none."""
        own, bins = weights[:, self.rows], np.unique(self.bins)
        gaps = sum(np.abs(own[:, self.bins == b] @ self.gaps[self.bins == b]) for b in bins)
        total = own.sum(axis=1)
        return np.asarray(np.divide(gaps, total, out=np.full(len(weights), np.nan), where=total > 0))

    def derivative(self) -> FloatArray:
        """(n,): derivative of the value in the weight of each image, at equal weights; they sum to 0.

        It describes the value's spread where no bin's gap is near 0; near perfect calibration the value is not smooth.
        """
        signs = np.sign(np.bincount(self.bins, self.gaps))
        return np.asarray((signs[self.bins] * self.gaps - self.value) / len(self.rows))


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationError:
    """Calibration of one label (or of the top label) on one set.

    Attributes:
        ece: Expected calibration error, equal-width bins.
        null_median: Median ECE of a perfectly calibrated model with these probabilities.
        p_value: Share of such models with an ECE at least as large, ``(1 + k) / (1 + draws)``.
        ace: Adaptive calibration error, bins of equal mass.
        squared_l2: Debiased squared L2 error; may be negative, which means "none found".
        n_bins: Bins of all of them.
        n: Labelled images.
        n_positive: Those with outcome 1.
    """

    ece: float
    null_median: float
    p_value: float
    ace: float
    squared_l2: float
    n_bins: int
    n: int
    n_positive: int

    @property
    def l2(self) -> float:
        """Debiased L2 error, ``sqrt(max(0, squared_l2))``."""
        return float(np.sqrt(np.maximum(0.0, self.squared_l2)))


def outcome_pairs(predictions: Predictions, label: str | None = None) -> tuple[FloatArray, FloatArray]:
    """The pairs that calibration is about.

    Args:
        predictions: N images.
        label: One label, positive-class (softmax kinds: the class against the rest). None: the only label of a binary
            task, or the top label of a softmax kind.

    Returns:
        (N,) outcome 0 or 1, NaN where masked; (N,) probability, NaN where logits are not finite.

    Raises:
        ValueError: No label is given for a multilabel task.
    """
    if label is None and not predictions.labelwise:
        top = np.asarray(softmax(predictions.logits, axis=1)).max(axis=1)
        correct = image_correct(predictions)[:, 0]
        return np.where(predictions.labelled[:, 0] & np.isnan(correct), 0.0, correct), top
    if label is None and len(predictions.labels) > 1:
        raise ValueError(f"calibration of a multilabel task is per label; give one of {predictions.labels}")
    column = 0 if label is None else predictions.labels.index(label)
    z = predictions.logits
    p = expit(z[:, column]) if predictions.labelwise else softmax(z, axis=1)[:, column]
    return predictions.truth[:, column], np.asarray(p)


def binned_gaps(y: ArrayLike, p: ArrayLike, n_bins: int = ECE_BINS) -> BinnedGaps:
    """Gaps in ``n_bins`` bins (a, b] of equal width on [0, 1], 0 in the first.

    Args:
        y: (N,) of 0, 1 and NaN (masked).
        p: (N,) probabilities in [0, 1]; one that is NaN, on a labelled image, makes the error NaN.
        n_bins: At least 1.

    Raises:
        ValueError: Values outside these ranges, or lengths that differ.
    """
    outcome, probability = check_pairs(y, p)
    rows = np.flatnonzero(~np.isnan(outcome))
    edges = np.linspace(0.0, 1.0, _positive(n_bins) + 1)[1:-1]
    bins = np.searchsorted(edges, probability[rows], side="left")
    return BinnedGaps(rows=rows, bins=bins, gaps=outcome[rows] - probability[rows])


def expected_calibration_error(y: ArrayLike, p: ArrayLike, n_bins: int = ECE_BINS) -> float:
    """``sum_b n_b / N |mean outcome - mean probability|`` over bins of equal width (Naeini et al. 2015).

    Arguments as in ``binned_gaps``. In [0, 1]; NaN without a labelled image.
    """
    return binned_gaps(y, p, n_bins).value


def plug_in_l2_error(y: ArrayLike, p: ArrayLike, n_bins: int = ECE_BINS, *, equal_mass: bool = False) -> float:
    """``sqrt(sum_b n_b / N (mean outcome - mean probability)^2)`` (Kumar et al. 2019, equation 3).

    Biased upwards like the ECE, and here for comparison with other tools; ``squared_l2_error`` is the debiased form.

    Args:
        y: As in ``binned_gaps``, like p and n_bins.
        p: See y.
        n_bins: See y.
        equal_mass: Bins as in ``squared_l2_error`` instead of those of equal width.

    Returns:
        In [0, 1]; NaN without a labelled image.
    """
    if equal_mass:
        mass = _equal_mass(y, p, n_bins)
        gaps, bins = mass.outcome - mass.probability, mass.bins
    else:
        width = binned_gaps(y, p, n_bins)
        gaps, bins = width.gaps, width.bins
    sizes = np.maximum(np.bincount(bins), 1)
    return float(np.sqrt((np.bincount(bins, gaps) ** 2 / sizes).sum() / len(gaps))) if len(gaps) else float("nan")


def maximum_calibration_error(y: ArrayLike, p: ArrayLike, n_bins: int = ECE_BINS) -> float:
    """Largest gap of a bin of equal width (Naeini et al. 2015), however few images it has.

    Arguments as in ``binned_gaps``. In [0, 1]; NaN without a labelled image.
    """
    found = binned_gaps(y, p, n_bins)
    sums, sizes = np.bincount(found.bins, found.gaps), np.maximum(np.bincount(found.bins), 1)
    return float((np.abs(sums) / sizes).max()) if len(found.rows) else float("nan")


def adaptive_calibration_error(y: ArrayLike, p: ArrayLike, n_bins: int = ECE_BINS) -> float:
    """The same sum over bins of equal mass (Nixon et al. 2019); fewer bins if there are fewer images.

    Outcomes of equal probabilities are replaced by their mean first, so the order of images does not matter where a tie
    crosses a bin. Arguments as in ``binned_gaps``; NaN without a labelled image.
    """
    found = _equal_mass(y, p, n_bins)
    return _mean_gap(found.outcome - found.probability, found.bins) if len(found.bins) else float("nan")


def squared_l2_error(y: ArrayLike, p: ArrayLike, n_bins: int = ECE_BINS) -> float:
    """Debiased squared L2 calibration error over bins of equal mass (Kumar et al. 2019, definition 5.1).

    ``sum_b n_b / N [(mean outcome - mean probability)^2 - o_b (1 - o_b) / (n_b - 1)]``, o_b the mean outcome; bins of
    one image are skipped. Zero in expectation for a calibrated model, so it may be negative.

    Arguments as in ``binned_gaps``; NaN if no bin has two images.
    """
    found = _equal_mass(y, p, n_bins)
    sizes = np.bincount(found.bins)
    if not len(found.bins) or sizes.max() < 2:
        return float("nan")
    kept = sizes > 1
    outcome = np.bincount(found.bins, found.outcome)[kept] / sizes[kept]
    probability = np.bincount(found.bins, found.probability)[kept] / sizes[kept]
    noise = outcome * (1.0 - outcome) / (sizes[kept] - 1)
    return float((sizes[kept] * ((outcome - probability) ** 2 - noise)).sum() / sizes.sum())


def null_errors(
    p: ArrayLike, rng: np.random.Generator, n_bins: int = ECE_BINS, n_draws: int = NULL_DRAWS
) -> FloatArray:
    """(n_draws,) ECE if every outcome were drawn with its own probability, that is, under perfect calibration.

    Args:
        p: (N,) probabilities of the labelled images, finite.
        rng: Source of the outcomes.
        n_bins: As in ``binned_gaps``.
        n_draws: Number of draws.
    """
    probability = np.asarray(p, dtype=np.float64)
    bins = binned_gaps(np.zeros(len(probability)), probability, n_bins).bins
    order = np.argsort(bins, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(bins[order]) > 0])
    sorted_p = probability[order]
    chunk = max(1, _CHUNK_VALUES // max(1, len(probability)))
    found = []
    for size in [chunk] * (n_draws // chunk) + [n_draws % chunk]:
        gaps = (rng.random((size, len(sorted_p))) < sorted_p) - sorted_p
        found.append(np.abs(np.add.reduceat(gaps, starts, axis=1)).sum(axis=1) / len(sorted_p))
    return np.concatenate(found)


def assess_calibration(
    y: ArrayLike, p: ArrayLike, rng: np.random.Generator, n_bins: int = ECE_BINS, n_draws: int = NULL_DRAWS
) -> CalibrationError:
    """All calibration errors of one label, with what perfect calibration would give.

    Args:
        y: As in ``binned_gaps``, like p and n_bins.
        p: See y.
        rng: Source of the simulated outcomes.
        n_bins: See y.
        n_draws: Simulated sets of outcomes.
    """
    outcome, probability = check_pairs(y, p)
    known = ~np.isnan(outcome)
    ece = expected_calibration_error(outcome, probability, n_bins)
    null = null_errors(probability[known], rng, n_bins, n_draws) if np.isfinite(ece) else np.full(1, np.nan)
    return CalibrationError(
        ece=ece,
        null_median=float(np.median(null)),
        p_value=float((1 + (null >= ece).sum()) / (1 + len(null))) if np.isfinite(ece) else float("nan"),
        ace=adaptive_calibration_error(outcome, probability, n_bins),
        squared_l2=squared_l2_error(outcome, probability, n_bins),
        n_bins=n_bins,
        n=int(known.sum()),
        n_positive=int((outcome == 1).sum()),
    )


def check_pairs(y: ArrayLike, p: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Both as float64 of shape (N,).

    Raises:
        ValueError: Shapes that differ, an outcome other than 0, 1 or NaN, a probability outside [0, 1].
    """
    outcome, probability = np.asarray(y, dtype=np.float64), np.asarray(p, dtype=np.float64)
    if outcome.ndim != 1 or outcome.shape != probability.shape:
        raise ValueError(f"y and p must both have shape (N,), got {outcome.shape} and {probability.shape}")
    if bad := set(outcome[~np.isnan(outcome)].tolist()) - {0.0, 1.0}:
        raise ValueError(f"y may hold 0, 1 and NaN (masked), got {sorted(bad)[:5]}")
    finite = probability[~np.isnan(probability)]
    if len(finite) and not (finite.min() >= 0 and finite.max() <= 1):
        raise ValueError(
            f"p must lie in [0, 1], got {finite.min()} to {finite.max()}; logits need a sigmoid or softmax"
        )
    return outcome, probability


@dataclass(frozen=True, slots=True, kw_only=True)
class _EqualMass:
    """Outcomes (tied ones averaged) and probabilities in ascending order of probability, with their bins."""

    outcome: FloatArray
    probability: FloatArray
    bins: NDArray[np.intp]


def _equal_mass(y: ArrayLike, p: ArrayLike, n_bins: int) -> _EqualMass:
    outcome, probability = check_pairs(y, p)
    known = ~np.isnan(outcome)
    outcome, probability = outcome[known], probability[known]
    order = np.argsort(probability, kind="stable")
    _, tie = np.unique(probability[order], return_inverse=True)
    averaged = (np.bincount(tie, outcome[order]) / np.bincount(tie))[tie] if len(order) else outcome
    sizes = [len(part) for part in np.array_split(order, _positive(n_bins))]
    return _EqualMass(outcome=averaged, probability=probability[order], bins=np.repeat(np.arange(n_bins), sizes))


def _mean_gap(gaps: FloatArray, bins: NDArray[np.intp]) -> float:
    return float(np.abs(np.bincount(bins, gaps)).sum() / len(gaps))


def _positive(n_bins: int) -> int:
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1, got {n_bins}")
    return n_bins
