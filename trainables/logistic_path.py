"""The descent of many logistic regressions of one shape, from the strongest penalty to the weakest.

L-BFGS in float64, each penalty from the solution of the one before, with the inverse of the Hessian (of each class by
itself) from a few steps ago in place of the usual multiple of the identity. A Hessian costs as much as ten to fifty
steps and saves hundreds where penalties are weak; in float32 it is half as dear and good enough, as it changes the path
and not where it ends.

It ends by a bound on the error of the logits. The objective is lambda-strongly convex in the weights, so these are
within |gradient| / lambda of the optimum, and the logit of an image with centred features x within |x| times that; the
intercept answers by no more than the same again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MOST_STEPS = 500
"""Of one penalty; 1 to 70 are usual."""

_MEMORY = 10
_HESSIAN_AFTER, _HESSIAN_EVERY = 4, 12
"""Steps of a penalty until its first Hessian, and between two; before, the last one of the penalty before serves."""

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


@dataclass(frozen=True, slots=True)
class _Pair:
    """A step of L-BFGS and what it did to the gradient, (S, K, L, r + 1); ``inverse`` is 1 / (s . y), 0 for none."""

    s: Tensor
    y: Tensor
    inverse: Tensor


class LogisticPath:
    """Problems of one shape on their way from penalty to penalty.

    S subsets of n images with r coordinates and the intercept; K columns of logits of each of L problems: classes are
    one problem, labels one each. Images come last in every array, so that sums over the few columns of a problem run
    over long rows.

    Args:
        z: (S, n, r + 1) coordinates of centred features and a column of ones; zeros where nothing is.
        y: (S, K, L, n) targets, 0 where not known.
        known: (S, 1, L, n) weights in {0, 1}.
    """

    def __init__(self, z: Tensor, y: Tensor, known: Tensor) -> None:
        self._z, self._y, self._known = z, y, known
        self._rough = z.float()
        self._radius = z[..., :-1].square().sum(2).amax(1).sqrt()[:, None]
        self._v = z.new_zeros((*y.shape[:3], z.shape[2]))
        self._scores = torch.zeros_like(y)
        self._loss, self._p = self._likelihood(self._scores)
        self._hessian = self._unpenalised_hessian()

    def follow(self, decay: float, tolerance: float) -> PathPoint:
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
        return PathPoint(v=self._v, losses=losses, errors=errors, steps=steps)

    def _errors(self) -> Tensor:
        """(S, L) bounds on the errors of the logits; see the module."""
        of_weights = _total(self._gradient[..., :-1].square()).sqrt()[:, 0, :, 0] / self._decay[0]
        steepness = _total(self._known * self._p * (1 - self._p)).clamp_min(torch.finfo(torch.float64).tiny)
        of_intercept = _total(self._gradient[..., -1:].abs()) / steepness
        return 2 * self._radius * of_weights + of_intercept[:, 0, :, 0]

    def _unpenalised_hessian(self) -> Tensor:
        """(S, K, L, r + 1, r + 1) float32 lower triangles of each column by itself."""
        root = (self._known * self._p * (1 - self._p)).sqrt().float()
        size = self._v.shape[-1]
        hessian = self._rough.new_zeros((*root.shape[:3], size, size))
        for column, label in np.ndindex(*root.shape[1:3]):
            weighted = self._rough * root[:, column, label, :, None]
            for start in range(0, size, _BLOCK):
                stop = start + _BLOCK
                hessian[:, column, label, start:stop, :stop] = weighted[..., start:stop].mT @ weighted[..., :stop]
        return hessian

    def _factorised(self) -> Tensor:
        """(S, K, L, r + 1, r + 1) float64 Cholesky factors of the Hessians with the penalty."""
        diagonal = self._hessian.diagonal(dim1=-2, dim2=-1).double().clamp_min(torch.finfo(torch.float32).tiny)
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
        half = torch.linalg.solve_triangular(self._factor, self._centred(q)[..., None], upper=False)
        q = self._centred(torch.linalg.solve_triangular(self._factor.mT, half, upper=True)[..., 0])
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
