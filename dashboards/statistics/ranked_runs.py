"""Many runs in the order of their scores for one label: sorted once, ranked in every subgroup without another sort."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dashboards.statistics.discrimination import twice_below_in_order
from dashboards.statistics.predictions import BoolArray, FloatArray, run_slices, taken_along
from dashboards.statistics.uncertainty import AucSides


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedRuns:
    """R runs on n images that have the label; made by ``rank_runs``.

    Attributes:
        rows: (n,) row numbers of these images, ascending.
        positive: (n,) whether each is positive.
        order: (R, n) positions in ``rows``, smallest score first.
        level: (R, n) number of distinct scores before each in that order; None if no two are equal.
        finite: (R,) whether all scores of a run are finite; of other runs every number is NaN.
    """

    rows: NDArray[np.intp]
    positive: BoolArray
    order: NDArray[np.intp]
    level: NDArray[np.intp] | None
    finite: BoolArray

    def within(self, rows: NDArray[np.intp], n_images: int) -> RankedRuns:
        """The same runs on some of the images: those of a subgroup that have the label.

        Args:
            rows: Row numbers of the subgroup.
            n_images: Images of the evaluation set.
        """
        chosen = np.zeros(n_images, dtype=bool)
        chosen[rows] = True
        inside = chosen[self.rows]
        shape = (len(self.order), int(inside.sum()))
        kept = np.flatnonzero(inside[self.order])  # a mask of two axes would take several times as long
        position = np.cumsum(inside) - 1
        return RankedRuns(
            rows=self.rows[inside],
            positive=self.positive[inside],
            order=position[self.order.ravel()[kept]].reshape(shape),
            level=None if self.level is None else self.level.ravel()[kept].reshape(shape),
            finite=self.finite,
        )

    def placements(self) -> tuple[FloatArray, FloatArray]:
        """(R, m) share of negatives below each positive, (R, k) share of positives above each negative.

        Ties count half. NaN with a score that is not finite. Images are in the order of ``rows``.
        """
        placed = np.empty(self.order.shape)
        for at, part in self._parts():
            placed[at][np.arange(len(part.order))[:, None], part.order] = part._placed()[0]
        placed[~self.finite] = np.nan
        return placed[:, self.positive], placed[:, ~self.positive]

    def sides(self, codes: NDArray[np.intp], n_patients: int) -> list[AucSides]:
        """Each run's AUC with what patients contribute to it, as ``uncertainty`` defines it.

        Args:
            codes: (n,) patient of each of ``rows``.
            n_patients: P.
        """
        return [side for _, part in self._parts() for side in part._sides(codes, n_patients)]

    def _sides(self, codes: NDArray[np.intp], n_patients: int) -> list[AucSides]:
        placed, positive, wins = self._placed()
        m, k = int(self.positive.sum()), int((~self.positive).sum())
        value = np.where(self.finite, wins / (2 * m * k), np.nan)
        # One bin per run, side and patient.
        runs = np.arange(len(self.order))[:, None]
        bins = codes[self.order] + n_patients * (2 * runs + ~positive)
        sums = np.bincount(bins.ravel(), (placed - value[:, None]).ravel(), 2 * n_patients * len(self.order))
        of_sides = sums.reshape(len(self.order), 2, n_patients) / np.array([[m], [k]])
        counts = {
            "n_positive": int(np.count_nonzero(np.bincount(codes[self.positive]))),
            "n_negative": int(np.count_nonzero(np.bincount(codes[~self.positive]))),
        }
        own = [
            AucSides(positive=a, negative=b, auc=v, **counts)
            for (a, b), v in zip(of_sides, value.tolist(), strict=True)
        ]
        nothing = np.full(n_patients, np.nan)
        return [
            side if ok else AucSides(positive=nothing, negative=nothing, auc=float("nan"), **counts)
            for side, ok in zip(own, self.finite, strict=True)
        ]

    def crossed(self, groups: NDArray[np.intp], n_groups: int) -> FloatArray:
        """AUC of the positives of one group against the negatives of another, with the bits of ``cross_group_auc``.

        Args:
            groups: (n,) group of each of ``rows``; -1 for none.
            n_groups: G.

        Returns:
            (R, G, G), positives by row; NaN where a group has no positive or no negative, and of a run that has a score
            that is not finite.
        """
        return np.concatenate([part._crossed(groups, n_groups) for _, part in self._parts()])

    def _crossed(self, groups: NDArray[np.intp], n_groups: int) -> FloatArray:
        positive, of = self.positive[self.order], groups[self.order]
        tied = self._tied()
        runs = len(self.order)
        bins = (np.where(positive, of, -1) + 1 + (n_groups + 1) * np.arange(runs)[:, None]).ravel()
        sides = [
            np.bincount(groups[side & (groups >= 0)], minlength=n_groups) for side in (self.positive, ~self.positive)
        ]
        found = np.empty((runs, n_groups, n_groups))
        for b in range(n_groups):
            below, _ = twice_below_in_order(~positive & (of == b), tied)
            wins = np.bincount(bins, below.ravel(), runs * (n_groups + 1)).reshape(runs, n_groups + 1)
            with np.errstate(invalid="ignore"):
                found[:, :, b] = wins[:, 1:] / (2 * sides[0] * sides[1][b])
        found[~self.finite] = np.nan
        return found

    def _parts(self) -> Iterator[tuple[slice, RankedRuns]]:
        """The runs, a few at a time."""
        for at in run_slices(*self.order.shape):
            level = None if self.level is None else self.level[at]
            yield at, replace(self, order=self.order[at], level=level, finite=self.finite[at])

    def _tied(self) -> BoolArray | None:
        """(R, n - 1) whether each score equals the next one, in that order; None if no two are equal."""
        return None if self.level is None else self.level[:, 1:] == self.level[:, :-1]

    def _placed(self) -> tuple[FloatArray, BoolArray, NDArray[np.intp]]:
        """In the order of scores: placement and side of each image; and (R,) twice the pairs that are won."""
        positive = self.positive[self.order]
        positives_below, negatives_below = twice_below_in_order(positive, self._tied())
        m, k = int(self.positive.sum()), int((~self.positive).sum())
        placed = np.where(positive, negatives_below / (2 * k), 1.0 - positives_below / (2 * m))
        return placed, positive, np.sum(negatives_below, axis=1, where=positive)


def rank_runs(truth: FloatArray, scores: FloatArray) -> RankedRuns:
    """Sort the runs.

    Args:
        truth: (N,) of 1, 0 and NaN (masked).
        scores: (R, N); NaN where a run has none.
    """
    rows = np.flatnonzero(~np.isnan(truth))
    known = scores[:, rows]
    finite = np.asarray(np.isfinite(known).all(axis=1))
    known = np.where(finite[:, None], known, 0.0)
    order = np.argsort(known, axis=1)
    ordered = taken_along(known, order)
    new = np.ones(ordered.shape, dtype=bool)
    np.not_equal(ordered[:, 1:], ordered[:, :-1], out=new[:, 1:])
    level = None if new.all() else np.cumsum(new, axis=1) - 1
    return RankedRuns(rows=rows, positive=truth[rows] == 1, order=order, level=level, finite=finite)
