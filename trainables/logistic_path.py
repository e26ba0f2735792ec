"""The descent of many logistic regressions of one shape, from the strongest penalty to the weakest.

L-BFGS in float64, each penalty from where the solutions before lead, with the inverse of the Hessian (of each class by
itself) from a few steps ago in place of the usual multiple of the identity. A Hessian costs as much as ten to fifty
steps and saves hundreds where penalties are weak; in float32 it and its factor are less than half as dear and good
enough, as they change the path and not where it ends.

As penalties weaken, images that are surely told apart count less and less, so an old Hessian is too large for the next
penalty, mostly by one factor. It is scaled by what the images count at the new start.

It ends by a bound on the error of the logits. The objective is lambda-strongly convex in the weights, so these are
within |gradient| / lambda of the optimum, and the logit of an image with centred features x within |x| times that; the
intercept answers by no more than the same again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MOST_STEPS = 500
"""Of one penalty; 1 to 70 are usual."""

_MEMORY = 8
_HESSIAN_AFTER, _HESSIAN_EVERY = 4, 12
"""Steps of a penalty until its first Hessian, and between two; before, the last one of the penalty before serves."""

_FAR = 1000
"""Errors in tolerances from which on a Hessian pays; what is nearer waits as long again, and mostly arrives before."""

_BLOCK = 128
"""Rows of a Hessian that are computed together; what lies beyond the diagonal is left out."""

_RIDGES = (1e-5, 1e-3, 1e-1)
"""Added to the diagonal of a Hessian, relative, until rounding to float32 leaves it positive."""

_SUFFICIENT = 1e-4
_ROUNDING = 1e-13
"""Of an objective, relative: smaller changes say nothing."""

_HALVINGS = 30


def _total(tensor: Tensor) -> Tensor:
    """Summed over a problem's columns and its coordinates (or images): (S, K, L, .) to (S, 1, L, 1)."""
    return tensor.sum((1, 3), keepdim=True)


def _times(left: Tensor, right: Tensor) -> Tensor:
    """(S, K, L, a) times (S, a, b): (S, K, L, b)."""
    return torch.unflatten(left.flatten(1, 2) @ right, 1, left.shape[1:3])


@dataclass(frozen=True, slots=True, kw_only=True)
class PathPoint:
    """The solutions of one penalty: ``v`` (S, K, L, r + 1), and losses, errors, steps (S, L)."""

    v: Tensor
    losses: Tensor
    errors: Tensor
    steps: Tensor


class _Pairs:
    """The last steps of L-BFGS and what they did to the gradient, for all problems at once.

    Both lie as (S, L, m, K (r + 1)), oldest first. The two loops over them (Nocedal and Wright 2006, algorithm 7.4) are
    two triangular systems in the products s_i . y_j, which take few operations however many pairs there are. A pair of
    a problem that did not move, or whose curvature is lost in rounding, is zero there and has no effect.
    """

    def __init__(self) -> None:
        self._steps: Tensor | None = None
        self._bends: Tensor

    def add(self, step: Tensor, bent: Tensor) -> None:
        """A step and the change of the gradient, (S, K, L, r + 1)."""
        tiny = torch.finfo(torch.float64).tiny
        s, y = _by_problem(step), _by_problem(bent)
        kept = (s * y).sum(3, keepdim=True) > tiny
        s, y = torch.where(kept, s, 0.0), torch.where(kept, y, 0.0)
        if self._steps is not None:
            s = torch.cat([self._steps[:, :, 1 - _MEMORY :], s], 2)
            y = torch.cat([self._bends[:, :, 1 - _MEMORY :], y], 2)
        self._steps, self._bends = s, y
        self._products = s @ y.mT
        self._overlaps = self._products.diagonal(dim1=-2, dim2=-1)
        self._overlaps[self._overlaps <= tiny] = 1  # of zero pairs, so that the systems can be solved

    def applied(self, gradient: Tensor, inverse: Callable[[Tensor], Tensor]) -> Tensor:
        """The inverse Hessian of the pairs times (S, K, L, r + 1), ``inverse`` being the one before any pair."""
        if self._steps is None:
            return inverse(gradient)
        q = _by_problem(gradient)[:, :, 0, :, None]
        shares = torch.linalg.solve_triangular(self._products, self._steps @ q, upper=True)
        q = q - self._bends.mT @ shares
        q = inverse(_by_column(q, gradient))
        bent = self._overlaps[..., None] * shares - self._bends @ _by_problem(q)[:, :, 0, :, None]
        rest = torch.linalg.solve_triangular(self._products.mT, bent, upper=False)
        return q + _by_column(self._steps.mT @ rest, gradient)


def _by_problem(v: Tensor) -> Tensor:
    """(S, K, L, r) to (S, L, 1, K r): all that belongs to one problem in one row."""
    return v.movedim(1, 2).flatten(2)[:, :, None]


def _by_column(v: Tensor, like: Tensor) -> Tensor:
    """(S, L, K r, 1) to (S, K, L, r), the inverse of ``_by_problem`` but for where its 1 is."""
    return torch.unflatten(v[..., 0], 2, (like.shape[1], like.shape[3])).movedim(2, 1)


@dataclass(frozen=True, slots=True)
class _Solution:
    """Of one penalty: ``v`` (S, K, L, r + 1) and the scores of the images, (S, K, L, n)."""

    decay: float
    v: Tensor
    scores: Tensor


class LogisticPath:
    """Problems of one shape on their way from penalty to penalty.

    S subsets of n images with r coordinates and the intercept; K columns of logits of each of L problems: classes are
    one problem, labels one each. Images come last in every array, so that sums over the few columns of a problem run
    over long rows.

    Args:
        z: (S, n, r + 1) coordinates of centred features and a column of ones; zeros where nothing is.
        y: (S, K, L, n) targets, 0 where not known.
        known: (S, 1, L, n) weights in {0, 1}.
        triangular: Whether the coordinates are 0 above the diagonal, which makes Hessians cheaper.
    """

    def __init__(self, z: Tensor, y: Tensor, known: Tensor, triangular: bool = False) -> None:
        self._z, self._y, self._known, self._triangular = z, y, known, triangular
        self._rough = z.float()
        self._radius = z[..., :-1].square().sum(2).amax(1).sqrt()[:, None]
        self._v = z.new_zeros((*y.shape[:3], z.shape[2]))
        self._scores = torch.zeros_like(y)
        self._loss, self._p = self._likelihood(self._scores)
        self._hessian, self._counted = self._unpenalised_hessian(), self._counts()
        self._solutions: list[_Solution] = []

    def follow(self, decay: float, tolerance: float) -> PathPoint:
        """Steps until every problem is within the tolerance or cannot be improved.

        Args:
            decay: lambda, below those before.
            tolerance: Of the logits.
        """
        self._decay = torch.full_like(self._v[0, 0, 0], decay)
        self._decay[-1] = 0
        self._extrapolate(decay)
        self._gradient = self._slopes()
        self._factor = self._factorised()
        self._pairs = _Pairs()
        errors = self._errors()
        steps, renewal = torch.zeros_like(errors, dtype=torch.int64), _HESSIAN_AFTER
        self._stuck = torch.zeros_like(errors, dtype=torch.bool)
        for step in range(MOST_STEPS):
            self._moving = (errors > tolerance) & ~self._stuck
            if not self._moving.any():
                break
            late, far = step - renewal, self._moving & (errors > _FAR * tolerance)
            if late >= _HESSIAN_EVERY or (late >= 0 and far.any()):
                self._hessian, self._counted = self._unpenalised_hessian(), self._counts()
                self._factor, renewal = self._factorised(), step + _HESSIAN_EVERY
            steps += self._moving
            self._step()
            errors = self._errors()
        self._solutions = [*self._solutions, _Solution(decay, self._v, self._scores)][-2:]
        losses = (self._loss / _total(self._known))[:, 0, :, 0]
        return PathPoint(v=self._v, losses=losses, errors=errors, steps=steps)

    def _extrapolate(self, decay: float) -> None:
        """On the line through the last two solutions over log lambda, for the problems whose objective it lowers."""
        if len(self._solutions) < 2:
            return
        before, last = self._solutions
        if before.decay == last.decay:
            return
        further = float(np.log(decay / last.decay) / np.log(last.decay / before.decay))
        v = last.v + further * (last.v - before.v)
        scores = last.scores + further * (last.scores - before.scores)
        loss, p = self._likelihood(scores)
        gain = loss - self._loss + _total(self._decay * (v.square() - self._v.square())) / 2
        self._v, self._scores = torch.where(gain < 0, v, self._v), torch.where(gain < 0, scores, self._scores)
        self._loss, self._p = torch.where(gain < 0, loss, self._loss), torch.where(gain < 0, p, self._p)

    def _errors(self) -> Tensor:
        """(S, L) bounds on the errors of the logits; see the module."""
        of_weights = _total(self._gradient[..., :-1].square()).sqrt()[:, 0, :, 0] / self._decay[0]
        steepness = _total(self._counted_images()).clamp_min(torch.finfo(torch.float64).tiny)
        of_intercept = _total(self._gradient[..., -1:].abs()) / steepness
        return 2 * self._radius * of_weights + of_intercept[:, 0, :, 0]

    def _counted_images(self) -> Tensor:
        """(S, K, L, n) what each image counts in the Hessian."""
        return self._known * self._p * (1 - self._p)

    def _unpenalised_hessian(self) -> Tensor:
        """(S, K, L, r + 1, r + 1) float32 lower triangles of each column by itself."""
        root = self._counted_images().sqrt().float()
        size = self._v.shape[-1]
        hessian = self._rough.new_zeros((*root.shape[:3], size, size))
        for column, label in np.ndindex(*root.shape[1:3]):
            weighted = self._rough * root[:, column, label, :, None]
            for start in range(0, size, _BLOCK):
                stop, top = start + _BLOCK, start if self._triangular else 0
                rows = weighted[:, top:, start:stop].mT @ weighted[:, top:, :stop]
                hessian[:, column, label, start:stop, :stop] = rows
            if self._triangular:  # but for the intercept
                hessian[:, column, label, -1:] = weighted[..., -1:].mT @ weighted
        return hessian

    def _counts(self) -> Tensor:
        """(S, K, L, 1) float32 sums of the weights of images in the Hessian."""
        tiny = torch.finfo(torch.float32).tiny
        return self._counted_images().sum(3, keepdim=True).float().clamp_min(tiny)

    def _factorised(self) -> Tensor:
        """(S, K, L, r + 1, r + 1) float32 Cholesky factors of the Hessians, scaled to now, with the penalty."""
        penalised = self._hessian * (self._counts() / self._counted)[..., None]
        diagonal = penalised.diagonal(dim1=-2, dim2=-1)
        scaled = diagonal.clamp_min(torch.finfo(torch.float32).tiny)
        factor: Tensor
        for ridge in _RIDGES:
            diagonal.copy_((1 + ridge) * scaled + self._decay.float())
            factor, failed = torch.linalg.cholesky_ex(penalised)
            if not failed.any():
                break
        return factor

    def _step(self) -> None:
        """One step of all moving problems."""
        newton = self._pairs.applied(self._gradient, self._preconditioned)
        direction = torch.where(self._moving[:, None, :, None], -newton, 0.0)
        length = self._search(direction, _times(direction, self._z.mT))
        moved, before = length * direction, self._gradient
        self._v = self._v + moved
        self._gradient = self._slopes()
        self._pairs.add(moved, self._gradient - before)

    def _slopes(self) -> Tensor:
        return _times(self._known * (self._p - self._y), self._z) + self._decay * self._v

    def _preconditioned(self, q: Tensor) -> Tensor:
        """By the factor, block by block of single columns."""
        size = _total(q.abs()).clamp_min(torch.finfo(torch.float64).tiny)  # small slopes are no zeros in float32
        half = torch.linalg.solve_triangular(self._factor, self._centred(q / size)[..., None].float(), upper=False)
        return self._centred(size * torch.linalg.solve_triangular(self._factor.mT, half, upper=True)[..., 0])

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
