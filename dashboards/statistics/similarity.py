"""How alike two representations of the same images are: CKA, canonical correlations, Procrustes.

A representation is (n images, d dimensions): one layer of a network in evaluation mode, pooled to one vector per image,
the same images in the same order for both; or (n, p, d) with p places of each image's feature map. All measures are
computed in float64 on centred columns, and none of them changes when a representation is rotated, scaled (as a whole)
or moved; but PWCCA does when its first one is rotated.

With few images per dimension all but the debiased CKA are large for unrelated representations; read them beside
``permutation_null``. Similarity is no evidence of transfer by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

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


class Representation:
    """One layer's activations, with what measures need of them worked out once.

    Args:
        values: (n, d), or (n, p, d): p places of each image's feature map, whose rows are compared one by one. They do
            not count as images: rows of one image are not independent.

    Raises:
        ValueError: Another shape, no image, or a value that is not finite.
    """

    def __init__(self, values: ArrayLike) -> None:
        x = np.asarray(values, dtype=np.float64)
        if x.ndim not in (2, 3) or not len(x):
            raise ValueError(f"a representation must be (n, d) or (n, p, d) with n of at least 1, got {x.shape}")
        if not np.isfinite(x).all():
            raise ValueError("representations must be finite")
        self.images = len(x)
        self.centred = _centred(x.reshape(-1, x.shape[-1]))

    def __len__(self) -> int:
        return len(self.centred)

    @property
    def dimensions(self) -> int:
        """Columns."""
        return int(self.centred.shape[1])

    @cached_property
    def parts(self) -> tuple[FloatArray, FloatArray]:
        """(rows, r) orthonormal columns that span it and their (r,) singular values, largest first; r is its rank."""
        u, s, _ = np.linalg.svd(self.centred, full_matrices=False)
        small = s[0] * max(self.centred.shape) * np.finfo(np.float64).eps if s.size else 0.0
        rank = int((s > small).sum())
        return u[:, :rank], s[:rank]

    @cached_property
    def squares(self) -> FloatArray:
        """(rows,) squared norms of the rows."""
        squares: FloatArray = (self.centred * self.centred).sum(axis=1)
        return squares

    @cached_property
    def own_hsic(self) -> float:
        """Unbiased HSIC with itself."""
        return _hsic(self, self)

    @cached_property
    def loadings(self) -> FloatArray:
        """(r, d) of its columns on the orthonormal ones."""
        return self.parts[0].T @ self.centred

    def basis(self, variance: float = 1.0) -> FloatArray:
        """Orthonormal columns that span it, or its leading components of that share of variance."""
        u, s = self.parts
        if variance >= 1.0 or not s.size:
            return u
        share = np.cumsum(s**2) / (s**2).sum()
        return u[:, : int(np.searchsorted(share, variance)) + 1]

    def permuted(self, order: NDArray[np.int64]) -> Representation:
        """The images in another order; shares what was worked out here, and copies only what is asked for."""
        places = len(self) // self.images
        return _Permuted(self, (order[:, None] * places + np.arange(places)).reshape(-1))

    def reduced(self, components: int) -> Representation:
        """Its leading principal components; itself if it has no more."""
        u, s = self.parts
        if len(s) <= components:
            return self
        u, s = u[:, :components], s[:components]
        made = Representation.__new__(Representation)
        made.images, made.centred, made.parts = self.images, u * s, (u, s)
        return made


class _Permuted(Representation):
    """Rows of a representation in another order: its decompositions with their rows in that order."""

    def __init__(self, of: Representation, rows: NDArray[np.int64]) -> None:
        self.images, self._of, self._rows = of.images, of, rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def dimensions(self) -> int:
        return self._of.dimensions

    @cached_property
    def centred(self) -> FloatArray:  # type: ignore[override]
        return self._of.centred[self._rows]

    @cached_property
    def parts(self) -> tuple[FloatArray, FloatArray]:
        u, s = self._of.parts
        return u[self._rows], s

    @cached_property
    def squares(self) -> FloatArray:
        return self._of.squares[self._rows]

    @cached_property
    def own_hsic(self) -> float:
        return self._of.own_hsic

    def basis(self, variance: float = 1.0) -> FloatArray:
        return self._of.basis(variance)[self._rows]


Values = ArrayLike | Representation
Measure = Callable[[Values, Values], Similarity]


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


def hsic_terms(x: Values, y: Values) -> HsicTerms:
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
    return HsicTerms(xy=_hsic(a, b), xx=a.own_hsic, yy=b.own_hsic, images=len(a))


def debiased_cka(x: Values, y: Values) -> Similarity:
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


def linear_cka(x: Values, y: Values) -> Similarity:
    """Linear CKA as published, ``|Y'X|^2 / (|X'X| |Y'Y|)`` (Kornblith et al. 2019): biased, near 1 where n is below d.

    Arguments as in ``debiased_cka``. In [0, 1].
    """
    a, b = _checked(x, y)
    one, other = a.centred, b.centred
    scale = np.linalg.norm(one.T @ one) * np.linalg.norm(other.T @ other)
    if not scale > 0:
        return _not_estimable(a, b, "a representation does not vary between images")
    return _similarity(float(np.linalg.norm(other.T @ one) ** 2 / scale), a, b)


def mean_cca(x: Values, y: Values) -> Similarity:
    """Mean canonical correlation (Hotelling 1936) over the smaller of the two ranks; invariant to any linear map.

    Arguments as in ``debiased_cka``. In [0, 1]; not estimable below ten images per dimension.
    """
    a, b = _checked(x, y)
    return _cca(a, b, 1.0, _mean_correlation)


def svcca(x: Values, y: Values, variance: float = SVCCA_VARIANCE) -> Similarity:
    """Mean canonical correlation of the leading principal components (Raghu et al. 2017).

    Args:
        x: (n, d) activations.
        y: (n, e) activations of the same images.
        variance: Share of each one's variance (squared singular values) that the components hold, in (0, 1].
    """
    if not 0 < variance <= 1:
        raise ValueError(f"variance must lie in (0, 1], got {variance}")
    a, b = _checked(x, y)
    return _cca(a, b, variance, _mean_correlation)


def pwcca(x: Values, y: Values) -> Similarity:
    """Canonical correlations weighted by how much of ``x`` each canonical direction accounts for (Morcos et al. 2018).

    Weights are ``sum_j |<h_i, x_j>|`` over the columns of x, h_i the canonical variates of x. Not symmetric: x is the
    reference, and each of its columns counts by itself. Arguments as in ``debiased_cka``; not estimable below ten
    images per dimension.
    """
    a, b = _checked(x, y)

    def weighted(product: FloatArray) -> float:
        directions, rho, _ = np.linalg.svd(product, full_matrices=False)
        weight = np.abs(directions.T @ a.loadings).sum(axis=1)
        return float((weight * np.minimum(rho, 1.0)).sum() / weight.sum())

    return _cca(a, b, 1.0, weighted)


def procrustes(x: Values, y: Values) -> Similarity:
    """Orthogonal Procrustes similarity, the nuclear norm of X'Y with |X| = |Y| = 1 (Ding et al. 2021).

    The squared distance after the best rotation is ``2 - 2 * value``. With X = U S V' and Y likewise, the norm is that
    of ``S_x U_x' U_y S_y``, which has the ranks for sides. Arguments as in ``debiased_cka``. In [0, 1].
    """
    a, b = _checked(x, y)
    (u, s), (v, t) = a.parts, b.parts
    if not (len(s) and len(t)):
        return _not_estimable(a, b, "a representation does not vary between images")
    cross = s[:, None] * (u.T @ v) * t
    return _similarity(float(np.linalg.norm(cross, ord="nuc") / (np.linalg.norm(s) * np.linalg.norm(t))), a, b)


def permutation_null(
    measure: Measure,
    x: Values,
    y: Values,
    rng: np.random.Generator,
    permutations: int = 100,
    observed: float | None = None,
) -> NullSimilarity:
    """What a measure gives for these two representations when the images of one are shuffled.

    Both are decomposed once: permuting images permutes the rows of an orthonormal basis.

    Args:
        measure: One of this module.
        x: (n, d) activations.
        y: (n, e) activations of the same images.
        rng: Source of the permutations.
        permutations: At least 1.
        observed: The measure without shuffling, if it is known.
    """
    a, b = _checked(x, y)
    value = measure(a, b).value if observed is None else observed
    if not np.isfinite(value):
        nan = float("nan")
        return NullSimilarity(mean=nan, quantile=nan, p_value=nan, permutations=permutations)
    found = np.array([measure(a, b.permuted(rng.permutation(b.images))).value for _ in range(permutations)])
    return NullSimilarity(
        mean=float(found.mean()),
        quantile=float(np.quantile(found, 0.95)),
        p_value=(1 + int((found >= value).sum())) / (1 + permutations),
        permutations=permutations,
    )


def compare_layers(measure: Measure, one: Mapping[str, Values], other: Mapping[str, Values]) -> dict[str, Similarity]:
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


def _of_layer(measure: Measure, x: Values | None, y: Values | None) -> Similarity:
    if x is None or y is None:
        return Similarity(value=float("nan"), images=0, dims=(0, 0), note="only one of the two has this layer")
    try:
        a, b = _checked(x, y)
    except ValueError as error:
        return Similarity(value=float("nan"), images=0, dims=(0, 0), note=str(error))
    return measure(a, b)


def _checked(x: Values, y: Values) -> tuple[Representation, Representation]:
    """Both in float64 with centred columns."""
    a, b = (v if isinstance(v, Representation) else Representation(v) for v in (x, y))
    if (a.images, len(a)) != (b.images, len(b)):
        got = f"{(len(a), a.dimensions)} of {a.images} and {(len(b), b.dimensions)} of {b.images} images"
        raise ValueError(f"representations must be (n, d) and (n, e) of the same n images, got {got}")
    return a, b


def _centred(x: FloatArray) -> FloatArray:
    """Columns minus their mean; exactly 0 where a column is constant up to rounding, which would pass for variation."""
    centred = x - x.mean(axis=0)
    constant = np.abs(centred).max(axis=0) <= _CONSTANT * np.abs(x).max(axis=0)
    return np.where(constant, 0.0, centred)


def _hsic(a: Representation, b: Representation) -> float:
    n = len(a)
    k, m = a.squares, b.squares
    cross = float(np.linalg.norm(a.centred.T @ b.centred) ** 2)
    return (cross - n / (n - 2) * float(k @ m) + float(k.sum() * m.sum()) / ((n - 1) * (n - 2))) / (n * (n - 3))


def _cca(x: Representation, y: Representation, variance: float, summary: Callable[[FloatArray], float]) -> Similarity:
    """``summary`` of the product of the two bases, whose singular values are the canonical correlations."""
    a, b = x.basis(variance), y.basis(variance)
    dims = (a.shape[1], b.shape[1])
    if not min(dims):
        return _not_estimable(x, y, "a representation does not vary between images", dims)
    if x.images < IMAGES_PER_DIMENSION * max(dims):
        needed = f"{x.images} images for {max(dims)} dimensions, {IMAGES_PER_DIMENSION} each are needed"
        return _not_estimable(x, y, needed, dims)
    return _similarity(summary(a.T @ b), x, y, dims=dims)


def _mean_correlation(product: FloatArray) -> float:
    return float(np.minimum(np.linalg.svd(product, compute_uv=False), 1.0).mean())


def _similarity(
    value: float, x: Representation, y: Representation, note: str = "", dims: tuple[int, int] | None = None
) -> Similarity:
    dims = dims or (x.dimensions, y.dimensions)
    return Similarity(value=value, images=x.images, dims=dims, note=note and f"not estimable: {note}")


def _not_estimable(
    x: Representation, y: Representation, reason: str, dims: tuple[int, int] | None = None
) -> Similarity:
    return _similarity(float("nan"), x, y, reason, dims)
