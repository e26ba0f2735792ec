"""First-order contributions of images to selective risks, so that patients, seeds and contrasts follow one formula.

The bootstrap of ``selective.risk_at_coverage_interval`` is the reference and costs thousands of sortings per run; these
contributions cost one. Values are those of ``selective.risk_coverage``, ties included.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dashboards.statistics.predictions import BoolArray, FloatArray, run_slices, taken_along
from dashboards.statistics.selective import COVERAGES

_WINDOW = 0.1
"""Share of the images nearest the border of acceptance whose mean error stands for the error at the border."""
_LEAST_WINDOW = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectiveInfluence:
    """Selective prediction of R runs on n labelled images; a single run has no axis R.

    Attributes:
        rows: (n,) row numbers of the labelled images.
        values: Name -> (R,) values: ``aurc``, ``augrc``, ``risk_at_<percent>``, and ``error`` at full coverage.
        image: Name -> (R, n) contribution of each image, sum about 0; NaN if the value is.
    """

    rows: NDArray[np.intp]
    values: dict[str, FloatArray]
    image: dict[str, FloatArray]


def selective_influence(
    confidence: ArrayLike, error: ArrayLike, coverages: tuple[float, ...] = COVERAGES
) -> SelectiveInfluence:
    """Values and contributions of one run, or of many on the same images.

    With c(i) the coverage at which image i is accepted and e its error: AURC is ``mean e(i) * (-log c(i))`` to first
    order, AUGRC ``mean e(i) * share of images at most as confident``, and the risk at coverage c the mean error above a
    quantile, whose own chance enters with the error at the border (as of any mean beyond a quantile).

    Args:
        confidence: (N,) or (R, N); higher means more certain.
        error: Likewise, of 1, 0 and NaN (masked, in all runs alike).
        coverages: At which the risk is asked for.

    Returns:
        A run is all NaN if a labelled image has no finite confidence, or with fewer than two labelled images.
    """
    kappa, wrong = np.asarray(confidence, dtype=np.float64), np.asarray(error, dtype=np.float64)
    if kappa.ndim == 1:
        found = selective_influence(kappa[None], wrong[None], coverages)
        return SelectiveInfluence(rows=found.rows, values=_first(found.values), image=_first(found.image))
    rows = np.flatnonzero(~np.isnan(wrong[0]))
    parts = [_influence(kappa[at][:, rows], wrong[at][:, rows], coverages) for at in run_slices(*kappa.shape)]
    values, image = ({name: np.concatenate([part[k][name] for part in parts]) for name in parts[0][k]} for k in (0, 1))
    return SelectiveInfluence(rows=rows, values=values, image=image)


def _influence(
    kappa: FloatArray, wrong: FloatArray, coverages: tuple[float, ...]
) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """Values and contributions of a few runs, (R, n) of labelled images."""
    n = kappa.shape[1]
    finite: BoolArray = np.asarray(np.isfinite(kappa).all(axis=1) & (n > 1))
    names = [risk_name(c) for c in coverages]
    if n < 2:
        nothing = np.full(len(wrong), np.nan)
        empty = ("error", "aurc", "augrc", *names)
        image = {name: np.full(wrong.shape, np.nan) for name in empty}
        return dict.fromkeys(empty, nothing), image
    order, tie, sizes = _ranked(np.where(finite[:, None], kappa, 0.0))
    ordered = taken_along(wrong, order)
    lost = _sums(ordered, tie)
    expected = taken_along(lost / np.maximum(sizes, 1), tie)
    steps = np.arange(1, n + 1)
    errors = np.cumsum(expected, axis=1)
    risk, mean = errors / steps, wrong.mean(axis=1)
    values = {"error": mean, "aurc": risk.mean(axis=1)}
    share = np.concatenate([np.zeros((len(wrong), 1)), errors / n], axis=1)
    values["augrc"] = np.trapezoid(share, np.r_[0.0, steps / n], axis=1)
    sorted_psi = {"error": ordered - mean[:, None]} | _areas(ordered, lost, tie, sizes)
    for coverage, name in zip(coverages, names, strict=True):
        accepted = int(np.ceil(coverage * n - 1e-9))
        values[name] = risk[:, accepted - 1]
        sorted_psi[name] = _risk_psi(expected, accepted)
    image = {}
    for name, psi in sorted_psi.items():
        centred = psi - psi.mean(axis=1, keepdims=True)
        centred[~finite] = np.nan
        image[name] = np.empty(centred.shape)
        np.put_along_axis(image[name], order, centred, axis=1)
    return {name: np.where(finite, value, np.nan) for name, value in values.items()}, image


def _first(of_runs: dict[str, FloatArray]) -> dict[str, FloatArray]:
    return {name: values[0] for name, values in of_runs.items()}


def _ranked(kappa: FloatArray) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """(R, n) images in descending confidence; (R, n) number of the tie of each; (R, n) sizes of the ties."""
    order = np.argsort(-kappa, axis=1, kind="stable")
    ordered = taken_along(kappa, order)
    tie = np.zeros(kappa.shape, dtype=np.intp)
    np.cumsum(ordered[:, 1:] < ordered[:, :-1], axis=1, out=tie[:, 1:])
    return order, tie, _sums(np.ones(kappa.shape), tie).astype(np.intp)


def _sums(values: FloatArray, tie: NDArray[np.intp]) -> FloatArray:
    """(R, n) sums over each tie; 0 beyond the last."""
    runs, n = tie.shape
    flat = (tie + n * np.arange(runs)[:, None]).ravel()
    return np.asarray(np.bincount(flat, values.ravel(), runs * n).reshape(runs, n))


def risk_name(coverage: float) -> str:
    """``risk_at_90`` of 0.9."""
    return f"risk_at_{100 * coverage:g}"


def _areas(
    wrong: FloatArray, lost: FloatArray, tie: NDArray[np.intp], sizes: NDArray[np.intp]
) -> dict[str, FloatArray]:
    """(R, n) contributions to AUGRC and AURC of images in descending confidence; ties share their mean coverage.

    Args:
        wrong: (R, n) errors, in that order.
        lost: (R, n) errors of each tie.
        tie: (R, n) number of the tie of each image.
        sizes: (R, n) of the ties.
    """
    n = wrong.shape[1]

    def of_images(values: FloatArray) -> FloatArray:
        return taken_along(values, tie)

    middle = np.cumsum(sizes, axis=1) - (sizes - 1) / 2
    coverage = of_images(middle) / n  # of the middle of a tie
    below = 1.0 - coverage + 0.5 / n  # share of images at most as confident, ties and itself half
    up_to = of_images(np.cumsum(lost, axis=1) - lost / 2) / n  # errors of images at least as confident
    augrc = wrong * below + up_to
    weighted = lost / (middle / n)
    beyond = (
        of_images(np.cumsum(weighted[:, ::-1], axis=1)[:, ::-1] - weighted / 2) / n
    )  # of images at most as confident
    return {"augrc": augrc, "aurc": -wrong * np.log(coverage) - beyond}


def _risk_psi(expected: FloatArray, accepted: int) -> FloatArray:
    n = expected.shape[1]
    half = max(int(_WINDOW * n / 2), _LEAST_WINDOW // 2)
    border = expected[:, max(0, accepted - half) : accepted + half].mean(axis=1, keepdims=True)
    inside = np.arange(n) < accepted
    return np.asarray(np.where(inside, expected - border, 0.0) * n / accepted)
