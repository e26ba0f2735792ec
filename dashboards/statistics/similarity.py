"""How alike two representations of the same images are: CKA, canonical correlations, Procrustes.

A representation is (n images, d dimensions): one layer of a network in evaluation mode, pooled to one vector per image,
the same images in the same order for both. All measures are computed in float64 on centred columns, and none of them
changes when a representation is rotated, scaled (as a whole) or moved; but PWCCA does when its first one is rotated.

With few images per dimension all but the debiased CKA are large for unrelated representations; read them beside
``permutation_null``. Similarity is no evidence of transfer by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from dashboards.statistics.predictions import FloatArray

IMAGES_PER_DIMENSION = 10
"""Canonical correlations of fewer images per dimension are mostly chance: unrelated 60 x 40 gives 0.71."""

SVCCA_VARIANCE = 0.99
"""Share of the variance that SVCCA keeps (Raghu et al. 2017)."""

_CONSTANT = 1e-12
"""Relative to its size, a column that varies less is constant: float32 activations resolve 1e-7."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Similarity:
    """One number for a pair of representations.

    Attributes:
        value: 1 for equal up to what the measure ignores; NaN if not estimable.
        images: Images compared.
        dims: Dimensions of the two that were compared (their rank, after SVCCA's reduction).
        note: Why it is not estimable; empty if it is.
    """

    value: float
    images: int
    dims: tuple[int, int]
    note: str = ""


Measure = Callable[[FloatArray, FloatArray], Similarity]


@dataclass(frozen=True, slots=True, kw_only=True)
class HsicTerms:
    """Unbiased HSIC of a pair and of each alone; terms of minibatches add (Nguyen et al. 2021).

    Attributes:
        xy: Of the pair.
        xx: Of the first with itself.
        yy: Of the second with itself.
        images: Images in all.
    """

    xy: float
    xx: float
    yy: float
    images: int

    def __add__(self, other: HsicTerms) -> HsicTerms:
        return HsicTerms(
            xy=self.xy + other.xy, xx=self.xx + other.xx, yy=self.yy + other.yy, images=self.images + other.images
        )

    @property
    def cka(self) -> float:
        """``xy / sqrt(xx yy)``; it may fall slightly below 0 or above 1. NaN where a representation does not vary."""
        return self.xy / float(np.sqrt(self.xx * self.yy)) if self.xx > 0 and self.yy > 0 else float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class NullSimilarity:
    """A measure between representations whose images are not the same.

    Attributes:
        mean: Mean over permutations of the images; NaN if the measure is not estimable.
        quantile: 95 % quantile.
        p_value: ``(1 + permutations at least as similar) / (1 + permutations)``.
        permutations: Their number.
    """

    mean: float
    quantile: float
    p_value: float
    permutations: int


def hsic_terms(x: ArrayLike, y: ArrayLike) -> HsicTerms:
    """Unbiased HSIC with linear kernels (Song et al. 2012, equation 5), from features, without n x n matrices.

    For centred X, Y with squared row norms k_i, l_i:
    ``[|X'Y|^2 - n/(n-2) sum_i k_i l_i + sum k sum l / ((n-1)(n-2))] / (n (n-3))``, |.| the Frobenius norm.

    Args:
        x: (n, d) with n of at least 4.
        y: (n, e) of the same images.

    Raises:
        ValueError: Shapes that do not fit, or fewer than four images.
    """
    a, b = _checked(x, y)
    if len(a) < 4:
        raise ValueError(f"unbiased HSIC needs at least 4 images, got {len(a)}")
    return HsicTerms(xy=_hsic(a, b), xx=_hsic(a, a), yy=_hsic(b, b), images=len(a))


def debiased_cka(x: ArrayLike, y: ArrayLike) -> Similarity:
    """Linear CKA from unbiased HSIC (Kornblith et al. 2019; Nguyen et al. 2021): about 0 for unrelated, at any n.

    Args:
        x: (n, d) activations.
        y: (n, e) activations of the same images.

    Returns:
        At most about 1, and not clipped; NaN below four images or where one of them does not vary.
    """
    a, b = _checked(x, y)
    if len(a) < 4:
        return _not_estimable(a, b, "fewer than 4 images")
    value = hsic_terms(a, b).cka
    return _similarity(value, a, b, "" if np.isfinite(value) else "a representation does not vary between images")


def linear_cka(x: ArrayLike, y: ArrayLike) -> Similarity:
    """Linear CKA as published, ``|Y'X|^2 / (|X'X| |Y'Y|)`` (Kornblith et al. 2019): biased, near 1 where n is below d.

    Arguments as in ``debiased_cka``. In [0, 1].
    """
    a, b = _checked(x, y)
    scale = np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b)
    if not scale > 0:
        return _not_estimable(a, b, "a representation does not vary between images")
    return _similarity(float(np.linalg.norm(b.T @ a) ** 2 / scale), a, b)


def mean_cca(x: ArrayLike, y: ArrayLike) -> Similarity:
    """Mean canonical correlation (Hotelling 1936) over the smaller of the two ranks; invariant to any linear map.

    Arguments as in ``debiased_cka``. In [0, 1]; not estimable below ten images per dimension.
    """
    a, b = _checked(x, y)
    return _cca(_basis(a), _basis(b), lambda rho, _: float(rho.mean()))


def svcca(x: ArrayLike, y: ArrayLike, variance: float = SVCCA_VARIANCE) -> Similarity:
    """Mean canonical correlation of the leading principal components (Raghu et al. 2017).

    Args:
        x: (n, d) activations.
        y: (n, e) activations of the same images.
        variance: Share of each one's variance (squared singular values) that the components hold, in (0, 1].
    """
    if not 0 < variance <= 1:
        raise ValueError(f"variance must lie in (0, 1], got {variance}")
    a, b = _checked(x, y)
    return _cca(_basis(a, variance), _basis(b, variance), lambda rho, _: float(rho.mean()))


def pwcca(x: ArrayLike, y: ArrayLike) -> Similarity:
    """Canonical correlations weighted by how much of ``x`` each canonical direction accounts for (Morcos et al. 2018).

    Weights are ``sum_j |<h_i, x_j>|`` over the columns of x, h_i the canonical variates of x. Not symmetric: x is the
    reference, and each of its columns counts by itself. Arguments as in ``debiased_cka``; not estimable below ten
    images per dimension.
    """
    a, b = _checked(x, y)
    of_x = _basis(a)

    def weighted(rho: FloatArray, directions: FloatArray) -> float:
        weight = np.abs((of_x @ directions).T @ a).sum(axis=1)
        return float((weight * rho).sum() / weight.sum())

    return _cca(of_x, _basis(b), weighted)


def procrustes(x: ArrayLike, y: ArrayLike) -> Similarity:
    """Orthogonal Procrustes similarity, the nuclear norm of X'Y with |X| = |Y| = 1 (Ding et al. 2021).

    The squared distance after the best rotation is ``2 - 2 * value``. Arguments as in ``debiased_cka``. In [0, 1].
    """
    a, b = _checked(x, y)
    scale = np.linalg.norm(a) * np.linalg.norm(b)
    if not scale > 0:
        return _not_estimable(a, b, "a representation does not vary between images")
    return _similarity(float(np.linalg.norm(a.T @ b, ord="nuc") / scale), a, b)


def permutation_null(
    measure: Measure, x: ArrayLike, y: ArrayLike, rng: np.random.Generator, permutations: int = 100
) -> NullSimilarity:
    """What a measure gives for these two representations when the images of one are shuffled.

    Args:
        measure: One of this module.
        x: (n, d) activations.
        y: (n, e) activations of the same images.
        rng: Source of the permutations.
        permutations: At least 1.
    """
    a, b = _checked(x, y)
    observed = measure(a, b).value
    found = np.array([measure(a, b[rng.permutation(len(b))]).value for _ in range(permutations)])
    as_similar = int((found >= observed).sum())
    defined = np.isfinite(observed)
    return NullSimilarity(
        mean=float(found.mean()),
        quantile=float(np.quantile(found, 0.95)),
        p_value=(1 + as_similar) / (1 + permutations) if defined else float("nan"),
        permutations=permutations,
    )


def compare_layers(
    measure: Measure, one: Mapping[str, ArrayLike], other: Mapping[str, ArrayLike]
) -> dict[str, Similarity]:
    """A measure layer by layer: of a network before and after training (drift), or of two trained networks.

    Args:
        measure: One of this module.
        one: Layer -> (n, d) activations.
        other: Layer -> activations of the same images by the other network.

    Returns:
        Layer -> similarity, for every layer of either; NaN with a note where only one has it, where the images differ
        in number or where an activation is not finite.
    """
    return {layer: _of_layer(measure, one.get(layer), other.get(layer)) for layer in dict.fromkeys([*one, *other])}


def _of_layer(measure: Measure, x: ArrayLike | None, y: ArrayLike | None) -> Similarity:
    if x is None or y is None:
        return Similarity(value=float("nan"), images=0, dims=(0, 0), note="only one of the two has this layer")
    try:
        a, b = _checked(x, y)
    except ValueError as error:
        return Similarity(value=float("nan"), images=0, dims=(0, 0), note=str(error))
    return measure(a, b)


def _checked(x: ArrayLike, y: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Both in float64 with centred columns."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b) or not len(a):
        raise ValueError(f"representations must be (n, d) and (n, e) of the same n images, got {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("representations must be finite")
    return _centred(a), _centred(b)


def _centred(x: FloatArray) -> FloatArray:
    """Columns minus their mean; exactly 0 where a column is constant up to rounding, which would pass for variation."""
    centred = x - x.mean(axis=0)
    constant = np.abs(centred).max(axis=0) <= _CONSTANT * np.abs(x).max(axis=0)
    return np.where(constant, 0.0, centred)


def _hsic(a: FloatArray, b: FloatArray) -> float:
    n = len(a)
    k, m = (a * a).sum(axis=1), (b * b).sum(axis=1)
    cross = float(np.linalg.norm(a.T @ b) ** 2)
    return (cross - n / (n - 2) * float(k @ m) + float(k.sum() * m.sum()) / ((n - 1) * (n - 2))) / (n * (n - 3))


def _basis(centred: FloatArray, variance: float = 1.0) -> FloatArray:
    """(n, r) orthonormal columns that span the representation, or its leading components of that share of variance."""
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    rank = int((s > s[0] * max(centred.shape) * np.finfo(np.float64).eps).sum()) if s.size and s[0] > 0 else 0
    if variance < 1.0 and rank:
        share = np.cumsum(s[:rank] ** 2) / (s[:rank] ** 2).sum()
        rank = int(np.searchsorted(share, variance)) + 1
    return u[:, :rank]


def _cca(a: FloatArray, b: FloatArray, summary: Callable[[FloatArray, FloatArray], float]) -> Similarity:
    """``summary`` of the canonical correlations and of the directions, in the first basis, that they belong to."""
    most = max(a.shape[1], b.shape[1])
    if not min(a.shape[1], b.shape[1]):
        return _not_estimable(a, b, "a representation does not vary between images")
    if len(a) < IMAGES_PER_DIMENSION * most:
        return _not_estimable(a, b, f"{len(a)} images for {most} dimensions, {IMAGES_PER_DIMENSION} each are needed")
    directions, rho, _ = np.linalg.svd(a.T @ b, full_matrices=False)
    return _similarity(summary(np.minimum(rho, 1.0), directions), a, b)


def _similarity(value: float, a: FloatArray, b: FloatArray, note: str = "") -> Similarity:
    return Similarity(value=value, images=len(a), dims=(a.shape[1], b.shape[1]), note=note and f"not estimable: {note}")


def _not_estimable(a: FloatArray, b: FloatArray, reason: str) -> Similarity:
    return _similarity(float("nan"), a, b, reason)
