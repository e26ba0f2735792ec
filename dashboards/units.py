"""From one row per image to one row per examination or patient, where an evaluation set is scored so."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


class Units:
    """Which images of an evaluation set belong together.

    Args:
        keys: Of each image, arrays of shape (N,): patients; or patients and examinations.

    Attributes:
        first: (U,) row of each unit's first image; units in the order of their first images.
        of_image: (N,) unit of each image.
    """

    def __init__(self, *keys: NDArray[Any]) -> None:
        codes = np.zeros(len(keys[0]), dtype=np.int64)
        for key in keys:
            different, code = np.unique(key, return_inverse=True)
            codes = codes * len(different) + code
        _, first, unit = np.unique(codes, return_index=True, return_inverse=True)
        order = np.argsort(first)
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        self.first: NDArray[np.int64] = first[order]
        self.of_image: NDArray[np.int64] = rank[unit]
        self._sorted = np.argsort(self.of_image, kind="stable")
        self._starts = np.searchsorted(self.of_image[self._sorted], np.arange(len(order)))
        self._sizes = np.bincount(self.of_image)

    def truth(self, y: NDArray[Any]) -> NDArray[Any]:
        """Truth of each unit.

        Args:
            y: (N, L) of 0, 1 and NaN; or (N,) classes with -1.

        Returns:
            A label is positive if one of the unit's images is, negative if one is known and none positive, else NaN.
            The highest class, which is the worst grade of an ordinal task; a multiclass unit has one class.
        """
        if y.ndim == 1:
            return np.maximum.reduceat(y[self._sorted], self._starts)
        return np.fmax.reduceat(y[self._sorted], self._starts, axis=0)

    def logits(self, z: NDArray[Any], how: str, independent: bool) -> NDArray[np.float32]:
        """Logits of the mean or the largest probability over the images of each unit, shape (U, L).

        In logs throughout: probabilities that round to 0 or 1 keep their order.

        Args:
            z: (N, L) logits.
            how: mean or max.
            independent: Whether each label has its own probability (sigmoid), or they share one (softmax). The largest
                probabilities of classes do not add up to 1; they are scaled so that they do.
        """
        scores = z.astype(np.float64)
        if independent and how == "max":
            return self._over_images(np.maximum, scores).astype(np.float32)
        if independent:
            positive, negative = -np.logaddexp(0, -scores), -np.logaddexp(0, scores)
            odds = self._over_images(np.logaddexp, positive) - self._over_images(np.logaddexp, negative)
            return odds.astype(np.float32)
        logs = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
        if how == "max":
            return self._over_images(np.maximum, logs).astype(np.float32)
        return (self._over_images(np.logaddexp, logs) - np.log(self._sizes)[:, None]).astype(np.float32)

    def values(self, of_image: NDArray[np.object_]) -> NDArray[np.object_]:
        """A subgroup column: the unit's value; None where its images disagree."""
        own = of_image[self.first]
        mixed = np.zeros(len(own), dtype=bool)
        mixed[self.of_image[of_image != own[self.of_image]]] = True
        values: NDArray[np.object_] = own.astype(object)
        values[mixed] = None
        return values

    def _over_images(self, reduce: np.ufunc, values: FloatArray) -> FloatArray:
        return np.asarray(reduce.reduceat(values[self._sorted], self._starts, axis=0))
