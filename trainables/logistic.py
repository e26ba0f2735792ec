"""Many regularised logistic regressions at once: subsets of images and labels side by side, penalties one by one.

Each problem minimises, as scikit-learn's ``LogisticRegression`` does,

    C * sum over known images of loss(image) + 1/2 * |weights|^2

with the softmax loss over three and more classes and the logistic loss for two classes or one label; the intercept is
not penalised. Divided by C this is sum of losses + lambda/2 |weights|^2 with lambda = 1/C, which is what is solved. Two
classes get logits -z/2 and z/2, so that their softmax is the sigmoid of z.

Nothing is approximated but by the tolerance:

1. A few images span few directions, in which their weights lie (representer theorem): a subset of fewer images than
   half the features is solved in as many coordinates as it has images.
2. Subsets of similar size are padded to one shape; rows that pad, and labels that are not known, have weight 0.
3. Penalties are solved from the strongest to the weakest, each from the solution of the one before.
4. L-BFGS in float64, with the inverse of the Hessian (of each class by itself) from a few steps ago in place of the
   usual multiple of the identity. A Hessian costs as much as ten to fifty steps and saves hundreds where penalties are
   weak; in float32 it is half as dear and good enough, as it changes the path and not where it ends.

It ends by a bound on the error of the logits. The objective is lambda-strongly convex in the weights, so these are
within |gradient| / lambda of the optimum, and the logit of an image with centred features x within |x| times that; the
intercept answers by no more than the same again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from search_spaces.exceptions import DataError

TOLERANCE = 5e-4
"""Bound on the error of a logit of an image as far from the centre as the farthest of the subset."""

MOST_STEPS = 500
"""Of one penalty; 1 to 70 are usual."""

_MEMORY = 10
_HESSIAN_AFTER, _HESSIAN_EVERY = 4, 12
"""Steps of a penalty until its first Hessian, and between two; before, the last one of the penalty before serves."""

_RIDGES = (1e-5, 1e-3, 1e-1)
"""Added to the diagonal of a Hessian, relative, until rounding to float32 leaves it positive."""

_SUFFICIENT = 1e-4
_ROUNDING = 1e-13
"""Of an objective, relative: smaller changes say nothing."""

_HALVINGS = 30
_GROUP_BYTES = 512 * 2**20
"""Of the images and Hessians of the problems that are solved together."""

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
        return features.to(weights) @ weights.mT + self.intercepts[subset, :, None]


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
    for group in _groups([len(rows) for rows in distinct], features.shape[1], coded.columns):
        designs = [_design(features, distinct[at], standardise) for at in group]
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


def _groups(sizes: Sequence[int], width: int, columns: int) -> Iterator[list[int]]:
    """Subsets that are solved together: of similar size, and no more than memory should hold."""
    group: list[int] = []
    for at in sorted(range(len(sizes)), key=lambda at: sizes[at]):
        rows = sizes[at]
        coordinates = rows if _spans_less(rows, width) else width
        needed = coordinates * (16 * rows + 20 * coordinates * columns)
        if group and ((len(group) + 1) * needed > _GROUP_BYTES or rows > _ALIKE * sizes[group[0]]):
            yield group
            group = []
        group.append(at)
    yield group


def _spans_less(rows: int, width: int) -> bool:
    """Whether so few images have few enough directions for coordinates of their own to pay."""
    return rows < width


@dataclass(frozen=True, slots=True, kw_only=True)
class _Design:
    """The images of one subset, centred and scaled: ``(features - mean) / scale = axes @ coordinates``.

    Attributes:
        coordinates: (n, r) float64; r is n of a small subset, else D.
        axes: (D, r) float64, orthonormal; None where the coordinates are the features.
        mean, scale: (D,) float64.
        radius: Distance of the farthest image from the centre.
    """

    coordinates: Tensor
    axes: Tensor | None
    mean: Tensor
    scale: Tensor
    radius: float


def _design(features: Tensor, rows: NDArray[np.int64], standardise: bool) -> _Design:
    """The images of these rows. Centring costs nothing: the intercept, which is not penalised, takes it up."""
    x = features[torch.from_numpy(rows.copy()).to(features.device)].double()
    mean = x.mean(0)
    x = x - mean
    scale = torch.ones_like(mean)
    if standardise:
        deviation = x.square().mean(0).sqrt()
        scale = torch.where(deviation > 10 * torch.finfo(x.dtype).eps * mean.abs(), deviation, scale)
        x = x / scale
    radius = float(x.square().sum(1).max().sqrt())
    if not _spans_less(*x.shape):
        return _Design(coordinates=x, axes=None, mean=mean, scale=scale, radius=radius)
    axes, triangle = torch.linalg.qr(x.mT)
    return _Design(coordinates=triangle.mT, axes=axes, mean=mean, scale=scale, radius=radius)


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


def _solved(
    designs: Sequence[_Design], coded: Sequence[_Coded], inverse_penalties: Sequence[float], tolerance: float
) -> list[_Solved]:
    """The solutions of subsets of similar size, on features as they were given."""
    path = _Path(designs, coded)
    strongest_first = np.argsort(inverse_penalties, kind="stable")
    points = [path.follow(1 / inverse_penalties[at], tolerance) for at in strongest_first]
    points = [points[at] for at in np.argsort(strongest_first)]
    solved = []
    for at, design in enumerate(designs):
        v = torch.stack([point.v[at].flatten(0, 1) for point in points])  # (P, K L, r + 1)
        weights = v[..., : design.coordinates.shape[1]]
        weights = (weights if design.axes is None else weights @ design.axes.mT) / design.scale
        losses, errors, steps = (
            torch.stack(numbers).cpu().numpy()
            for numbers in zip(*((point.losses[at], point.errors[at], point.steps[at]) for point in points), strict=True)
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


def _total(tensor: Tensor) -> Tensor:
    """Summed over a problem's columns and its coordinates (or images): (S, K, L, .) to (S, 1, L, 1)."""
    return tensor.sum((1, 3), keepdim=True)


def _times(left: Tensor, right: Tensor) -> Tensor:
    """(S, K, L, a) times (S, a, b): (S, K, L, b)."""
    return torch.unflatten(left.flatten(1, 2) @ right, 1, left.shape[1:3])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    """The solutions of one penalty: ``v`` (S, K, L, r + 1), and losses, errors, steps (S, L)."""

    v: Tensor
    losses: Tensor
    errors: Tensor
    steps: Tensor


@dataclass(frozen=True, slots=True)
class _Pair:
    """A step of L-BFGS and what it did to the gradient, (S, K, L, r + 1); ``inverse`` is 1 / (s . y), 0 for none."""

    s: Tensor
    y: Tensor
    inverse: Tensor


class _Path:
    """Problems of one shape on their way from penalty to penalty.

    S subsets of n images with r coordinates and the intercept; K columns of logits of each of L problems: classes are
    one problem, labels one each. Images come last in every array, so that sums over the few columns of a problem run
    over long rows.

    Args:
        designs: Of the subsets.
        coded: Their targets.
    """

    def __init__(self, designs: Sequence[_Design], coded: Sequence[_Coded]) -> None:
        images = max(len(design.coordinates) for design in designs)
        width = max(design.coordinates.shape[1] for design in designs)
        columns, labels = coded[0].values.shape[1:]
        first = designs[0].coordinates
        self._z = first.new_zeros((len(designs), images, width + 1))
        self._y = first.new_zeros((len(designs), columns, labels, images))
        self._known = first.new_zeros((len(designs), 1, labels, images))
        for at, (design, targets) in enumerate(zip(designs, coded, strict=True)):
            n, r = design.coordinates.shape
            self._z[at, :n, :r] = design.coordinates
            self._z[at, :n, -1] = 1
            self._y[at, ..., :n] = targets.values.movedim(0, 2)
            self._known[at, ..., :n] = targets.known.movedim(0, 2)
        self._rough = self._z.float()
        self._radius = first.new_tensor([design.radius for design in designs])[:, None, None, None]
        self._v = first.new_zeros((len(designs), columns, labels, width + 1))
        self._scores = torch.zeros_like(self._y)
        self._loss, self._p = self._likelihood(self._scores)
        self._hessian = self._unpenalised_hessian()

    def follow(self, decay: float, tolerance: float) -> _Point:
        """Steps until every problem is within the tolerance or cannot be improved.

        Args:
            decay: lambda, below those before.
            tolerance: Of the logits.
        """
        self._decay = torch.full_like(self._v[0, 0, 0], decay)
        self._decay[-1] = 0
        self._gradient = self._slopes()
        self._factor = self._factorised()
        self._pairs: list[_Pair] = []
        errors = self._errors()
        steps = torch.zeros_like(errors, dtype=torch.int64)
        self._stuck = torch.zeros_like(errors, dtype=torch.bool)
        for step in range(MOST_STEPS):
            self._moving = (errors > tolerance) & ~self._stuck
            if not self._moving.any():
                break
            if step % _HESSIAN_EVERY == _HESSIAN_AFTER:
                self._hessian = self._unpenalised_hessian()
                self._factor = self._factorised()
            steps += self._moving
            self._step()
            errors = self._errors()
        losses = (self._loss / _total(self._known))[:, 0, :, 0]
        return _Point(v=self._v, losses=losses, errors=errors, steps=steps)

    def _errors(self) -> Tensor:
        """(S, L) bounds on the errors of the logits; see the module."""
        of_weights = _total(self._gradient[..., :-1].square()).sqrt() / self._decay[0]
        steepness = _total(self._known * self._p * (1 - self._p)).clamp_min(torch.finfo(torch.float64).tiny)
        of_intercept = _total(self._gradient[..., -1:].abs()) / steepness
        return (2 * self._radius * of_weights + of_intercept)[:, 0, :, 0]

    def _unpenalised_hessian(self) -> Tensor:
        """(S, K, L, r + 1, r + 1) float32 blocks of each column by itself."""
        root = (self._known * self._p * (1 - self._p)).sqrt().float()
        size = self._v.shape[-1]
        hessian = self._rough.new_empty((*root.shape[:3], size, size))
        for column, label in np.ndindex(*root.shape[1:3]):
            weighted = self._rough * root[:, column, label, :, None]
            hessian[:, column, label] = weighted.mT @ weighted
        return hessian

    def _factorised(self) -> Tensor:
        """(S, K, L, r + 1, r + 1) float64, with the penalty."""
        diagonal = self._hessian.diagonal(dim1=-2, dim2=-1).double()
        factor = self._hessian
        for ridge in _RIDGES:
            penalised = self._hessian.double()
            penalised.diagonal(dim1=-2, dim2=-1).copy_((1 + ridge) * diagonal + self._decay)
            factor, failed = torch.linalg.cholesky_ex(penalised)
            if not failed.any():
                break
        return factor

    def _step(self) -> None:
        """One step of all moving problems."""
        direction = torch.where(self._moving[:, None, :, None], self._direction(), 0.0)
        length = self._search(direction, _times(direction, self._z.mT))
        moved, before = length * direction, self._gradient
        self._v = self._v + moved
        self._gradient = self._slopes()
        bent = self._gradient - before
        overlap = _total(moved * bent)
        inverse = torch.where(overlap > torch.finfo(torch.float64).tiny, 1 / overlap, 0.0)
        self._pairs = [*self._pairs, _Pair(moved, bent, inverse)][-_MEMORY:]

    def _slopes(self) -> Tensor:
        return _times(self._known * (self._p - self._y), self._z) + self._decay * self._v

    def _direction(self) -> Tensor:
        """-H g by the two loops of L-BFGS (Nocedal and Wright 2006, algorithm 7.4), H of the last pairs."""
        q = -self._gradient
        shares = []
        for pair in reversed(self._pairs):
            share = pair.inverse * _total(pair.s * q)
            q = q - share * pair.y
            shares.append(share)
        q = self._centred(torch.cholesky_solve(self._centred(q)[..., None], self._factor)[..., 0])
        for pair, share in zip(self._pairs, reversed(shares), strict=True):
            q = q + (share - pair.inverse * _total(pair.y * q)) * pair.s
        return q

    @staticmethod
    def _centred(q: Tensor) -> Tensor:
        """Without what is common to all classes: softmax does not see it, but blocks of single classes do."""
        return q if q.shape[1] == 1 else q - q.mean(1, keepdim=True)

    def _search(self, direction: Tensor, change: Tensor) -> Tensor:
        """Backtracking from the whole step; moves the scores, which are linear in it, so no product is needed."""
        slope = _total(self._gradient * direction)
        linear = _total(self._decay * self._v * direction)
        square = _total(self._decay * direction.square()) / 2
        slack = _ROUNDING * (self._loss + _total(self._decay * self._v.square()) / 2)
        length = torch.ones_like(slope)
        accepted = ~self._moving[:, None, :, None]
        for _ in range(_HALVINGS):
            scores = self._scores + length * change
            loss, p = self._likelihood(scores)
            gain = loss - self._loss + length * linear + length.square() * square
            accepted = accepted | (gain <= _SUFFICIENT * length * slope + slack)
            if accepted.all():
                break
            length = torch.where(accepted, length, length / 2)
        else:
            length = torch.where(accepted, length, 0.0)
            scores = self._scores + length * change
            loss, p = self._likelihood(scores)
            self._stuck = self._stuck | ~accepted[:, 0, :, 0]
        self._scores, self._loss, self._p = scores, loss, p
        return length

    def _likelihood(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """(S, 1, L, 1) sum of the losses of known images, and (S, K, L, n) probabilities."""
        if scores.shape[1] == 1:
            losses = torch.nn.functional.softplus(scores) - self._y * scores
            return _total(self._known * losses), scores.sigmoid()
        top = scores.amax(1, keepdim=True)
        powers = (scores - top).exp()
        total = powers.sum(1, keepdim=True)
        losses = total.log() + top - (self._y * scores).sum(1, keepdim=True)
        return _total(self._known * losses), powers / total
