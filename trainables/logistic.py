"""Many regularised logistic regressions at once: subsets of images and labels side by side, penalties one by one.

Each problem minimises, as scikit-learn's ``LogisticRegression`` does,

    C * sum over known images of loss(image) + 1/2 * |weights|^2

with the softmax loss over three and more classes and the logistic loss for two classes or one label; the intercept is
not penalised. Divided by C this is sum of losses + lambda/2 |weights|^2 with lambda = 1/C, which is what is solved. Two
classes get logits -z/2 and z/2, so that their softmax is the sigmoid of z.

Nothing is approximated but by the tolerance: a few images span few directions, in which their weights lie (representer
theorem), so a subset of fewer images than features is solved in as many coordinates as it has images; subsets of
similar size are padded to one shape, in which rows that pad, and labels that are not known, have weight 0. How they are
solved is in ``trainables.logistic_path``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from search_spaces.exceptions import DataError
from trainables.logistic_path import LogisticPath

TOLERANCE = 5e-4
"""Bound on the error of a logit of an image as far from the centre as the farthest of the subset."""

_GROUP_BYTES = {"cpu": 32 * 2**20, "cuda": 512 * 2**20}
"""Of the images and Hessians of the problems that are solved together, by kind of device.

A step reads all of them: a processor should find them in its caches, a GPU wants many problems at once.
"""

_SHIFT = 4 * torch.finfo(torch.float64).eps
"""Of the diagonal of the products of images, relative to its sum: what rounding in its factor may amount to."""

_SHIFTS = 1e-3
"""Of the tolerance: what that shift may change."""

_ALIKE = 1.25
"""Largest over smallest number of images in a group: what padding may waste."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogisticFits:
    """The solutions, as maps from features as they were given to logits. S subsets, P penalties, K outputs.

    Attributes:
        weights: (S, P, K, D) float64.
        intercepts: (S, P, K) float64.
        losses: (S, P) mean negative log-likelihood of the known labels of the subset, in nats.
        errors: (S, P) bound on the error of the logits of the subset's images, see the module.
        steps: (S, P) steps of L-BFGS from the solution of the next stronger penalty; of several labels the most.
        converged: (S, P) whether the error is within the tolerance.
    """

    weights: Tensor
    intercepts: Tensor
    losses: NDArray[np.float64]
    errors: NDArray[np.float64]
    steps: NDArray[np.int64]
    converged: NDArray[np.bool_]

    def logits(self, features: Tensor, subset: int) -> Tensor:
        """(P, N, K) float64 logits of a subset's solutions.

        Args:
            features: (N, D) on any device.
            subset: Which one.
        """
        weights = self.weights[subset]
        found = torch.addmm(self.intercepts[subset].flatten()[:, None], weights.flatten(0, 1), features.to(weights).mT)
        return torch.unflatten(found, 0, weights.shape[:2]).mT


def fit_logistic(
    features: Tensor,
    targets: NDArray[np.generic],
    outputs: int,
    subsets: Sequence[NDArray[np.int64]],
    inverse_penalties: Sequence[float],
    *,
    standardise: bool = True,
    tolerance: float = TOLERANCE,
) -> LogisticFits:
    """Fit every penalty on every subset.

    Args:
        features: (N, D); its device is where everything is computed.
        targets: (N,) classes, -1 where not known; or (N, L) labels in [0, 1], NaN where not known, each a problem of
            its own. A label between 0 and 1 counts as drawn with that probability.
        outputs: Classes K, or labels L.
        subsets: Rows of each training subset; equal ones are solved once.
        inverse_penalties: C of each penalty, positive.
        standardise: Features less their mean over the subset and by their standard deviation there (those that are
            constant stay); else as they are.
        tolerance: Of the logits, see ``LogisticFits.errors``.

    Raises:
        DataError: A class, or one of the two values of a label, does not occur in a subset: there is no solution. The
            subsets of ``trainables.subsets`` hold all of them.
        ValueError: No subset or penalty, or a penalty that is not positive.
    """
    if not subsets or not inverse_penalties or min(inverse_penalties) <= 0:
        raise ValueError(f"needs subsets and positive inverse penalties, got {len(subsets)} and {inverse_penalties}")
    for subset in subsets:
        _require_outcomes(targets[subset], outputs)
    places: dict[bytes, int] = {}
    of_subset = [places.setdefault(np.asarray(rows, np.int64).tobytes(), len(places)) for rows in subsets]
    distinct = [np.frombuffer(rows, np.int64) for rows in places]
    coded = _coded(targets, outputs, features.device)
    found: dict[int, _Solved] = {}
    most_bytes = _GROUP_BYTES["cuda" if features.is_cuda else "cpu"]
    most_shift = _SHIFTS * tolerance / max(inverse_penalties)
    for group in _groups([len(rows) for rows in distinct], features.shape[1], coded.columns, most_bytes):
        designs = [_design(features, distinct[at], standardise, most_shift) for at in group]
        solved = _solved(designs, [coded.take(distinct[at]) for at in group], inverse_penalties, tolerance)
        found |= dict(zip(group, solved, strict=True))
    return _gathered([found[at] for at in of_subset], outputs, coded.are_classes, tolerance)


def _require_outcomes(targets: NDArray[np.generic], outputs: int) -> None:
    if targets.ndim == 1:
        absent = sorted(set(range(outputs)) - set(np.unique(targets).tolist()))
        if absent:
            raise DataError(f"classes {absent} have no image in a subset of {len(targets)}; nothing can be fitted")
        return
    for label, column in enumerate(np.asarray(targets, np.float64).T):
        known = column[~np.isnan(column)]
        if not len(known) or known.max() <= 0 or known.min() >= 1:
            raise DataError(
                f"label {label} has {len(known)} known values in a subset of {len(targets)}, all of them alike; "
                "nothing can be fitted"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Coded:
    """Targets as the losses want them.

    Attributes:
        values: (N, K, L) float64: classes one-hot with L = 1, labels with K = 1; 0 where not known.
        known: (N, 1, L) float64 in {0, 1}.
        are_classes: Whether the targets are classes.
    """

    values: Tensor
    known: Tensor
    are_classes: bool

    @property
    def columns(self) -> int:
        """Columns of logits that are fitted, K L."""
        return self.values.shape[1] * self.values.shape[2]

    def take(self, rows: NDArray[np.int64]) -> _Coded:
        index = torch.from_numpy(rows.copy()).to(self.values.device)
        return _Coded(values=self.values[index], known=self.known[index], are_classes=self.are_classes)


def _coded(targets: NDArray[np.generic], outputs: int, device: torch.device) -> _Coded:
    if targets.ndim == 1:
        classes = torch.from_numpy(np.asarray(targets, np.int64)).to(device)
        known = (classes >= 0).double()[:, None, None]
        if outputs == 2:
            return _Coded(values=(classes == 1).double()[:, None, None], known=known, are_classes=True)
        one_hot = torch.nn.functional.one_hot(classes.clamp_min(0), outputs).double()[:, :, None]
        return _Coded(values=one_hot * known, known=known, are_classes=True)
    values = torch.from_numpy(np.asarray(targets, np.float64)).to(device)[:, None, :]
    known = (~values.isnan()).double()
    return _Coded(values=values.nan_to_num(0.0), known=known, are_classes=False)


def _groups(sizes: Sequence[int], width: int, columns: int, most_bytes: int) -> Iterator[list[int]]:
    """Subsets that are solved together: of similar size, and no more than so many bytes."""
    group: list[int] = []
    for at in sorted(range(len(sizes)), key=lambda at: sizes[at]):
        rows = sizes[at]
        coordinates = rows if _spans_less(rows, width) else width
        needed = coordinates * (16 * rows + 12 * coordinates * columns)
        if group and ((len(group) + 1) * needed > most_bytes or rows > _ALIKE * sizes[group[0]]):
            yield group
            group = []
        group.append(at)
    yield group


def _spans_less(rows: int, width: int) -> bool:
    """Whether so few images have few enough directions for coordinates of their own to pay."""
    return rows < width


@dataclass(frozen=True, slots=True, kw_only=True)
class _Design:
    """The images of one subset, centred and scaled: x = (features - mean) / scale.

    Attributes:
        coordinates: (n, r) float64; (n, n) and lower triangular of a small subset, else ``x`` itself.
        axes: (r, D) float64, orthonormal, ``x = coordinates @ axes``; None where they are not needed.
        images: (n, D) float64, ``x`` of a small subset whose axes, ``coordinates.inverse() @ x``, were not computed.
        mean, scale: (D,) float64.
    """

    coordinates: Tensor
    axes: Tensor | None = None
    images: Tensor | None = None
    mean: Tensor
    scale: Tensor

    @property
    def is_triangular(self) -> bool:
        """Whether the coordinates are 0 above the diagonal."""
        return self.axes is not None or self.images is not None

    def weights(self, v: Tensor) -> Tensor:
        """(P, K, r) of coordinates to (P, K, D) of features as they were given."""
        if self.axes is not None:
            v = v @ self.axes
        elif self.images is not None:
            of_images = torch.linalg.solve_triangular(self.coordinates.mT, v.flatten(0, 1).mT, upper=True)
            v = torch.unflatten(of_images.mT @ self.images, 0, v.shape[:2])
        return v / self.scale


def _design(features: Tensor, rows: NDArray[np.int64], standardise: bool, most_shift: float) -> _Design:
    """The images of these rows. Centring costs nothing: the intercept, which is not penalised, takes it up.

    A small subset has the Cholesky factor of its products as coordinates, a tenth of the work of a QR decomposition.
    Centred images are never independent, so a shift of the diagonal is needed, which moves logits by up to the shift
    over lambda; if it would exceed ``most_shift``, QR is used.
    """
    x = features[torch.from_numpy(rows.copy()).to(features.device)].double()
    mean = x.mean(0)
    x = x - mean
    scale = torch.ones_like(mean)
    if standardise:
        deviation = x.square().mean(0).sqrt()
        scale = torch.where(deviation > 10 * torch.finfo(x.dtype).eps * mean.abs(), deviation, scale)
        x = x / scale
    if not _spans_less(*x.shape):
        return _Design(coordinates=x, mean=mean, scale=scale)
    products = x @ x.mT
    diagonal = products.diagonal()
    shift = _SHIFT * diagonal.sum()
    diagonal += shift
    factor, failed = torch.linalg.cholesky_ex(products)
    if shift <= most_shift and not failed:
        return _Design(coordinates=factor, images=x, mean=mean, scale=scale)
    axes, triangle = torch.linalg.qr(x.mT)
    return _Design(coordinates=triangle.mT, axes=axes.mT, mean=mean, scale=scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Solved:
    """One subset: weights (P, K, D), intercepts (P, K), and losses, errors, steps (P,)."""

    weights: Tensor
    intercepts: Tensor
    losses: NDArray[np.float64]
    errors: NDArray[np.float64]
    steps: NDArray[np.int64]


def _gathered(solved: list[_Solved], outputs: int, are_classes: bool, tolerance: float) -> LogisticFits:
    weights = torch.stack([one.weights for one in solved])
    intercepts = torch.stack([one.intercepts for one in solved])
    if are_classes and outputs == 2:
        halves = torch.tensor([-0.5, 0.5]).to(weights)
        weights, intercepts = weights * halves[:, None], intercepts * halves
    elif are_classes:  # softmax leaves their mean open
        intercepts = intercepts - intercepts.mean(2, keepdim=True)
    errors = np.stack([one.errors for one in solved])
    return LogisticFits(
        weights=weights,
        intercepts=intercepts,
        losses=np.stack([one.losses for one in solved]),
        errors=errors,
        steps=np.stack([one.steps for one in solved]),
        converged=errors <= tolerance,
    )


def _path(designs: Sequence[_Design], coded: Sequence[_Coded]) -> LogisticPath:
    """Subsets of similar size in one shape."""
    images = max(len(design.coordinates) for design in designs)
    width = max(design.coordinates.shape[1] for design in designs)
    columns, labels = coded[0].values.shape[1:]
    first = designs[0].coordinates
    z = first.new_zeros((len(designs), images, width + 1))
    y = first.new_zeros((len(designs), columns, labels, images))
    known = first.new_zeros((len(designs), 1, labels, images))
    for at, (design, targets) in enumerate(zip(designs, coded, strict=True)):
        n, r = design.coordinates.shape
        z[at, :n, :r] = design.coordinates
        z[at, :n, -1] = 1
        y[at, ..., :n], known[at, ..., :n] = targets.values.movedim(0, 2), targets.known.movedim(0, 2)
    return LogisticPath(z, y, known, triangular=all(design.is_triangular for design in designs))


def _solved(
    designs: Sequence[_Design], coded: Sequence[_Coded], inverse_penalties: Sequence[float], tolerance: float
) -> list[_Solved]:
    """The solutions of subsets of similar size, on features as they were given."""
    path = _path(designs, coded)
    strongest_first = np.argsort(inverse_penalties, kind="stable")
    points = [path.follow(1 / inverse_penalties[at], tolerance) for at in strongest_first]
    points = [points[at] for at in np.argsort(strongest_first)]
    solved = []
    for at, design in enumerate(designs):
        v = torch.stack([point.v[at].flatten(0, 1) for point in points])  # (P, K L, r + 1)
        weights = design.weights(v[..., : design.coordinates.shape[1]])
        losses, errors, steps = (
            np.stack([getattr(point, name)[at].cpu().numpy() for point in points])
            for name in ("losses", "errors", "steps")
        )
        solved.append(
            _Solved(
                weights=weights,
                intercepts=v[..., -1] - weights @ design.mean,
                losses=losses.mean(1),
                errors=errors.max(1),
                steps=steps.max(1),
            )
        )
    return solved
