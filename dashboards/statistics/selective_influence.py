"""First-order contributions of images to selective risks, so that patients, seeds and contrasts follow one formula.

The bootstrap of ``selective.risk_at_coverage_interval`` is the reference and costs thousands of sortings per run; these
contributions cost one. Values are those of ``selective.risk_coverage``, ties included.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dashboards.statistics.predictions import FloatArray
from dashboards.statistics.selective import COVERAGES

_WINDOW = 0.1
"""Share of the images nearest the border of acceptance whose mean error stands for the error at the border."""
_LEAST_WINDOW = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectiveInfluence:
    """Selective prediction of one run on n labelled images.

    Attributes:
        rows: (n,) row numbers of the labelled images.
        values: Name -> value: ``aurc``, ``augrc``, ``risk_at_<percent>``, and ``error`` at full coverage.
        image: Name -> (n,) contribution of each image, sum about 0; NaN if the value is.
    """

    rows: NDArray[np.intp]
    values: dict[str, float]
    image: dict[str, FloatArray]


def selective_influence(
    confidence: ArrayLike, error: ArrayLike, coverages: tuple[float, ...] = COVERAGES
) -> SelectiveInfluence:
    """Values and contributions of one run.

    With c(i) the coverage at which image i is accepted and e its error: AURC is ``mean e(i) * (-log c(i))`` to first
    order, AUGRC ``mean e(i) * share of images at most as confident``, and the risk at coverage c the mean error above a
    quantile, whose own chance enters with the error at the border (as of any mean beyond a quantile).

    Args:
        confidence: (N,) higher means more certain.
        error: (N,) of 1, 0 and NaN (masked).
        coverages: At which the risk is asked for.

    Returns:
        All NaN if a labelled image has no finite confidence, or with fewer than two labelled images.
    """
    kappa, wrong = np.asarray(confidence, dtype=np.float64), np.asarray(error, dtype=np.float64)
    rows = np.flatnonzero(~np.isnan(wrong))
    kappa, wrong, n = kappa[rows], wrong[rows], len(rows)
    names = [risk_name(c) for c in coverages]
    if n < 2 or not np.isfinite(kappa).all():
        nothing = dict.fromkeys(("error", "aurc", "augrc", *names), float("nan"))
        return SelectiveInfluence(rows=rows, values=nothing, image={k: np.full(n, np.nan) for k in nothing})
    order = np.argsort(-kappa, kind="stable")
    tie = np.cumsum(np.r_[0, np.diff(-kappa[order]) > 0])
    sizes = np.bincount(tie)
    expected = (np.bincount(tie, wrong[order]) / sizes)[tie]
    steps = np.arange(1, n + 1)
    risk = np.cumsum(expected) / steps
    values = {"error": float(wrong.mean()), "aurc": float(risk.mean())}
    values["augrc"] = float(np.trapezoid(np.r_[0.0, np.cumsum(expected) / n], np.r_[0.0, steps / n]))
    sorted_psi = {"error": wrong[order] - wrong.mean()} | _areas(wrong[order], tie, sizes)
    for coverage, name in zip(coverages, names, strict=True):
        accepted = int(np.ceil(coverage * n - 1e-9))
        values[name] = float(risk[accepted - 1])
        sorted_psi[name] = _risk_psi(expected, accepted)
    image = {}
    for name, psi in sorted_psi.items():
        image[name] = np.empty(n)
        image[name][order] = psi - psi.mean()
    return SelectiveInfluence(rows=rows, values=values, image=image)


def risk_name(coverage: float) -> str:
    """``risk_at_90`` of 0.9."""
    return f"risk_at_{100 * coverage:g}"


def _areas(wrong: FloatArray, tie: NDArray[np.intp], sizes: NDArray[np.intp]) -> dict[str, FloatArray]:
    """Contributions to AUGRC and AURC of images in descending confidence; ties share their mean coverage."""
    n = len(wrong)
    last = np.cumsum(sizes)
    coverage = (last - (sizes - 1) / 2)[tie] / n  # of the middle of a tie
    below = 1.0 - coverage + 0.5 / n  # share of images at most as confident, ties and itself half
    mean_error = np.bincount(tie, wrong)
    up_to = (np.cumsum(mean_error) - mean_error / 2)[tie] / n  # errors of images at least as confident
    augrc = wrong * below + up_to
    weighted = mean_error / ((last - (sizes - 1) / 2) / n)
    beyond = (np.cumsum(weighted[::-1])[::-1] - weighted / 2)[tie] / n  # of images at most as confident
    return {"augrc": augrc, "aurc": -wrong * np.log(coverage) - beyond}


def _risk_psi(expected: FloatArray, accepted: int) -> FloatArray:
    n = len(expected)
    half = max(int(_WINDOW * n / 2), _LEAST_WINDOW // 2)
    border = float(expected[max(0, accepted - half) : accepted + half].mean())
    inside = np.arange(n) < accepted
    return np.asarray(np.where(inside, expected - border, 0.0) * n / accepted)
