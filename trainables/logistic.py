"""Many regularised logistic regressions at once: every subset of images, every penalty, every label in one batch.

Each problem minimises, as scikit-learn's ``LogisticRegression`` does,

    C * sum over known images of loss(image) + 1/2 * |weights|^2

with the softmax loss over three and more classes and the logistic loss for two classes or one label; the intercept is
not penalised. Divided by C this is sum of losses + lambda/2 |weights|^2 with lambda = 1/C, which is what is solved. Two
classes get logits -z/2 and z/2, so that their softmax is the sigmoid of z.

Nothing is approximated but by the tolerance:

1. Features are turned, orthonormally, into principal axes: the curvature becomes nearly diagonal, which step 3 lives
   on. A few images span few directions, in which their weights lie (representer theorem): such a subset has axes of its
   own and is a small problem. The others share those of all images.
2. Subsets of similar size are padded to one shape; rows that pad, and labels that are not known, have weight 0.
3. L-BFGS with the diagonal of the Hessian, which in these axes is close to all of it, in place of the usual multiple of
   the identity: half as many steps, measured. All in float64.

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

MOST_STEPS = 2000
"""20 to 200 are usual."""

_MEMORY = 10
_CURVATURE_AT = (0, 2, 5)
_CURVATURE_EVERY = 10
_SUFFICIENT = 1e-4
_ROUNDING = 1e-13
"""Of an objective, relative: smaller changes say nothing."""

_HALVINGS = 30
_GROUP_BYTES = 256 * 2**20
"""Of the float64 logits of the problems that are solved together."""

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
        steps: (S, P) steps of L-BFGS; of several labels the most.
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
    designer = _Designer(features, standardise)
    found: dict[int, _Solved] = {}
    for group in _groups(distinct, outputs * len(inverse_penalties)):
        designs = [designer.design(distinct[at]) for at in group]
        batch = _Batch(designs, [coded.take(distinct[at]) for at in group], inverse_penalties)
        batch.solve(tolerance)
        found |= dict(zip(group, batch.solved(designs), strict=True))
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


def _groups(subsets: Sequence[NDArray[np.int64]], columns: int) -> Iterator[list[int]]:
    """Subsets that are solved together: of similar size, and no more than memory should hold."""
    group: list[int] = []
    for at in sorted(range(len(subsets)), key=lambda at: len(subsets[at])):
        rows = len(subsets[at])
        too_many = (len(group) + 1) * rows * columns * 8 > _GROUP_BYTES
        if group and (too_many or rows > _ALIKE * len(subsets[group[0]])):
            yield group
            group = []
        group.append(at)
    yield group


@dataclass(frozen=True, slots=True, kw_only=True)
class _Design:
    """The images of one subset in its own axes: ``(features - mean) / scale = axes @ coordinates``.

    Attributes:
        coordinates: (n, r) float64; r is n of a small subset, else D.
        axes: (D, r) float64, orthonormal.
        mean, scale: (D,) float64.
        radius: Distance of the farthest image from the centre.
    """

    coordinates: Tensor
    axes: Tensor
    mean: Tensor
    scale: Tensor
    radius: float


class _Designer:
    """Makes designs of subsets of the same images.

    Args:
        features: (N, D) of all images.
        standardise: See ``fit_logistic``.
    """

    def __init__(self, features: Tensor, standardise: bool) -> None:
        self._features, self._standardise = features, standardise
        self._axes: Tensor | None = None

    def design(self, rows: NDArray[np.int64]) -> _Design:
        """The images of these rows. Centring costs nothing: the intercept, which is not penalised, takes it up."""
        x, mean, scale = self._scaled(self._features[torch.from_numpy(rows.copy()).to(self._features.device)])
        if 2 * x.shape[0] > x.shape[1]:
            axes = self._shared_axes()
        else:
            spanned, triangle = torch.linalg.qr(x.mT)
            axes = spanned @ torch.linalg.eigh(triangle @ triangle.mT).eigenvectors
        radius = float(x.square().sum(1).max().sqrt())
        return _Design(coordinates=x @ axes, axes=axes, mean=mean, scale=scale, radius=radius)

    def _shared_axes(self) -> Tensor:
        """Principal axes of all images: any orthonormal ones are exact, and these are nearly those of a large part."""
        if self._axes is None:
            x, _, _ = self._scaled(self._features)
            self._axes = torch.linalg.eigh(x.mT @ x).eigenvectors
        return self._axes

    def _scaled(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Centred and scaled, (n, D) float64; mean and scale, (D,)."""
        x = features.double()
        mean = x.mean(0)
        x = x - mean
        scale = torch.ones_like(mean)
        if self._standardise:
            deviation = x.square().mean(0).sqrt()
            scale = torch.where(deviation > 10 * torch.finfo(x.dtype).eps * mean.abs(), deviation, scale)
            x = x / scale
        return x, mean, scale


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


def _total(tensor: Tensor) -> Tensor:
    """Summed over a problem's columns and its coordinates (or images): (S, K, Q, .) to (S, 1, Q, 1)."""
    return tensor.sum((1, 3), keepdim=True)


class _Batch:
    """Problems of one shape. S subsets, n images, r coordinates and the intercept, K columns of each of Q problems.

    The Q problems of a subset are its penalties; of several labels, the penalties of the first label, then of the next.
    Images come last in every array, so that sums over the few columns of a problem run over long rows.

    Args:
        designs: Of the subsets.
        coded: Their targets.
        inverse_penalties: C of each penalty.
    """

    def __init__(self, designs: Sequence[_Design], coded: Sequence[_Coded], inverse_penalties: Sequence[float]) -> None:
        images = max(len(design.coordinates) for design in designs)
        width = max(design.coordinates.shape[1] for design in designs)
        penalties, (columns, labels) = len(inverse_penalties), coded[0].values.shape[1:]
        first = designs[0].coordinates
        z = first.new_zeros((len(designs), images, width + 1))
        y = first.new_zeros((len(designs), columns, labels, images))
        known = first.new_zeros((len(designs), 1, labels, images))
        for at, (design, targets) in enumerate(zip(designs, coded, strict=True)):
            n, r = design.coordinates.shape
            z[at, :n, :r] = design.coordinates
            z[at, :n, -1] = 1
            y[at, ..., :n], known[at, ..., :n] = targets.values.movedim(0, 2), targets.known.movedim(0, 2)
        decay = first.new_tensor([1 / c for c in inverse_penalties]).repeat(labels)[:, None].repeat(1, width + 1)
        decay[:, -1] = 0
        self._descent = _Descent(
            z,
            y.repeat_interleave(penalties, 2),
            known.repeat_interleave(penalties, 2),
            decay[None, None],
            first.new_tensor([design.radius for design in designs])[:, None, None, None],
        )
        problems = (len(designs), penalties * labels)
        self._shape = (labels, penalties)
        self._v = first.new_zeros((len(designs), columns, problems[1], width + 1))
        self._loss = first.new_zeros(problems)
        self._error = first.new_zeros(problems)
        self._steps = torch.zeros(problems, dtype=torch.int64, device=first.device)

    def solve(self, tolerance: float) -> None:
        """Steps until every problem is within the tolerance or cannot be improved."""
        descent = self._descent
        rows, columns = (torch.arange(size, device=descent.v.device) for size in self._error.shape)
        for step in range(MOST_STEPS + 1):
            ended = (descent.error <= tolerance) | descent.stuck | (step == MOST_STEPS)
            newly = ended & descent.moving
            if newly.any():
                subset, problem = newly.nonzero(as_tuple=True)
                at = (rows[subset], columns[problem])
                self._v[at[0], :, at[1]] = descent.v[subset, :, problem]
                self._loss[at], self._error[at] = descent.mean_loss[newly], descent.error[newly]
                self._steps[at] = step
                descent.moving &= ~ended
                left, right = descent.moving.any(1), descent.moving.any(0)
                if not left.any():
                    return
                if not (left.all() and right.all()):
                    descent.keep(left, right)
                    rows, columns = rows[left], columns[right]
            descent.step()

    def solved(self, designs: Sequence[_Design]) -> list[_Solved]:
        """The solution of each subset, on features as they were given."""

        def by_penalty(numbers: Tensor) -> Tensor:
            return torch.unflatten(numbers, 1, self._shape).mT  # (S, P, L)

        losses, errors, steps = by_penalty(self._loss), by_penalty(self._error), by_penalty(self._steps)
        solved = []
        for at, design in enumerate(designs):
            width = design.coordinates.shape[1]
            v = torch.unflatten(self._v[at], 1, self._shape).permute(2, 0, 1, 3).flatten(1, 2)  # (P, K L, r + 1)
            weights = v[..., :width] @ design.axes.mT / design.scale
            solved.append(
                _Solved(
                    weights=weights,
                    intercepts=v[..., -1] - weights @ design.mean,
                    losses=losses[at].mean(1).cpu().numpy(),
                    errors=errors[at].amax(1).cpu().numpy(),
                    steps=steps[at].amax(1).cpu().numpy(),
                )
            )
        return solved


@dataclass(slots=True)
class _Pair:
    """A step of L-BFGS and what it did to the gradient, (S, K, Q, r + 1); ``inverse`` is 1 / (s . y), 0 for none."""

    s: Tensor
    y: Tensor
    inverse: Tensor


class _Descent:
    """The problems that are not solved yet, where they stand; see ``_Batch`` for S, n, r, K, Q.

    Args:
        z: (S, n, r + 1) coordinates and a column of ones; zeros where nothing is.
        y: (S, K, Q, n) targets.
        known: (S, 1, Q, n) weights in {0, 1}.
        decay: (1, 1, Q, r + 1) lambda, 0 for the intercept.
        radius: (S, 1, 1, 1) distance of the farthest image.
    """

    def __init__(self, z: Tensor, y: Tensor, known: Tensor, decay: Tensor, radius: Tensor) -> None:
        self._z, self._y, self._known, self._decay, self._radius = z, y, known, decay, radius
        subsets, columns, problems, _ = y.shape
        self.v = z.new_zeros((subsets, columns, problems, z.shape[2]))
        """(S, K, Q, r + 1) weights and intercepts."""
        self.moving = torch.ones((subsets, problems), dtype=torch.bool, device=z.device)
        """(S, Q) problems that are not solved yet."""
        self.stuck = ~self.moving
        """(S, Q) problems whose last step found no lower point: rounding leaves none."""
        self._scores = torch.zeros_like(y)
        self._loss, self._p = self._likelihood(self._scores)
        self._gradient = self._slopes()
        self._inverse_curvature = torch.ones_like(self.v)
        self._pairs: list[_Pair] = []
        self._steps = 0

    def keep(self, subsets: Tensor, problems: Tensor) -> None:
        """Go on with these alone."""
        self._z, self._radius = self._z[subsets], self._radius[subsets]
        self._decay = self._decay[:, :, problems]
        for name in ("_y", "_known", "v", "_scores", "_loss", "_p", "_gradient", "_inverse_curvature"):
            setattr(self, name, getattr(self, name)[subsets][:, :, problems])
        self.moving, self.stuck = (flags[subsets][:, problems] for flags in (self.moving, self.stuck))
        self._pairs = [
            _Pair(*(part[subsets][:, :, problems] for part in (pair.s, pair.y, pair.inverse))) for pair in self._pairs
        ]

    @property
    def error(self) -> Tensor:
        """(S, Q) bound on the error of the logits; see the module."""
        of_weights = _total(self._gradient[..., :-1].square()).sqrt() / self._decay[..., :1]
        steepness = _total(self._known * self._p * (1 - self._p)).clamp_min(torch.finfo(torch.float64).tiny)
        of_intercept = _total(self._gradient[..., -1:].abs()) / steepness
        return (2 * self._radius * of_weights + of_intercept)[:, 0, :, 0]

    @property
    def mean_loss(self) -> Tensor:
        """(S, Q) mean loss of the known images."""
        return (self._loss / _total(self._known))[:, 0, :, 0]

    def step(self) -> None:
        """One step of all moving problems."""
        if self._steps in _CURVATURE_AT or self._steps % _CURVATURE_EVERY == 0:
            weight = self._known * self._p * (1 - self._p)
            self._inverse_curvature = 1 / (_times(weight, self._z.square()) + self._decay)
        self._steps += 1
        direction = torch.where(self.moving[:, None, :, None], self._direction(), 0.0)
        change = _times(direction, self._z.mT)
        length = self._search(direction, change)
        moved, before = length * direction, self._gradient
        self.v = self.v + moved
        self._gradient = self._slopes()
        bent = self._gradient - before
        overlap = _total(moved * bent)
        inverse = torch.where(overlap > torch.finfo(torch.float64).tiny, 1 / overlap, 0.0)
        self._pairs = [*self._pairs, _Pair(moved, bent, inverse)][-_MEMORY:]

    def _slopes(self) -> Tensor:
        return _times(self._known * (self._p - self._y), self._z) + self._decay * self.v

    def _direction(self) -> Tensor:
        """-H g by the two loops of L-BFGS (Nocedal and Wright 2006, algorithm 7.4), H of the last pairs."""
        q = -self._gradient
        shares = []
        for pair in reversed(self._pairs):
            share = pair.inverse * _total(pair.s * q)
            q = q - share * pair.y
            shares.append(share)
        q = self._inverse_curvature * q
        for pair, share in zip(self._pairs, reversed(shares), strict=True):
            q = q + (share - pair.inverse * _total(pair.y * q)) * pair.s
        return q

    def _search(self, direction: Tensor, change: Tensor) -> Tensor:
        """Backtracking from the whole step; moves the scores, which are linear in it, so no product is needed."""
        slope = _total(self._gradient * direction)
        linear = _total(self._decay * self.v * direction)
        square = _total(self._decay * direction.square()) / 2
        slack = _ROUNDING * (self._loss + _total(self._decay * self.v.square()) / 2)
        length = torch.ones_like(slope)
        accepted = ~self.moving[:, None, :, None]
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
            self.stuck = ~accepted[:, 0, :, 0]
        self._scores, self._loss, self._p = scores, loss, p
        return length

    def _likelihood(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """(S, 1, Q, 1) sum of the losses of known images, and (S, K, Q, n) probabilities."""
        if scores.shape[1] == 1:
            losses = torch.nn.functional.softplus(scores) - self._y * scores
            return _total(self._known * losses), scores.sigmoid()
        top = scores.amax(1, keepdim=True)
        powers = (scores - top).exp()
        total = powers.sum(1, keepdim=True)
        losses = total.log() + top - (self._y * scores).sum(1, keepdim=True)
        return _total(self._known * losses), powers / total


def _times(left: Tensor, right: Tensor) -> Tensor:
    """(S, K, Q, a) times (S, a, b): (S, K, Q, b)."""
    return torch.unflatten(left.flatten(1, 2) @ right, 1, left.shape[1:3])
