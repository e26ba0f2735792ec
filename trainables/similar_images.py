"""Near copies of images: another size, another compression, other brightness. 64-bit hashes and a second look.

1. *Hash.* The image, grey, 32 x 32 pixels by area; its two-dimensional discrete cosine transform; the signs of the 64
   coefficients of lowest frequency, the mean left out, against their median. Brightness and contrast change nothing in
   it, compression and size little (the scheme of pHash, Zauner 2010, Implementation and benchmarking of perceptual
   image hash functions, section 3.2.1).
2. *Pairs.* Two images are candidates if their hashes differ in at most ``MOST_BITS`` bits. Cut into MOST_BITS + 1
   bands, such hashes agree in one band at least, so only images with an equal band are compared.
3. *Second look.* Of each candidate pair both images are read again and compared at 64 x 64 pixels: they are near copies
   if the correlation of their grey values is at least ``LEAST_CORRELATION``. Radiographs of one view share their hash
   far more often than their pixels.

Not found are flips, rotations and crops of more than a few per cent: those are other pictures. docs/subsets.md has the
measured rates.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HASH_SIDE = 32
LOOK_SIDE = 64
MOST_BITS = 6
LEAST_CORRELATION = 0.97
LEAST_DEVIATION = 2.0
"""Grey levels (0 to 255) of standard deviation at 32 x 32 below which an image is plain: its hash is noise."""

_BITS = 64
_PAIRS_AT_ONCE = 4_000_000
_BY_FREQUENCY = sorted(
    ((u, v) for u in range(HASH_SIDE) for v in range(HASH_SIDE) if u or v), key=lambda f: (f[0] ** 2 + f[1] ** 2, f)
)[:_BITS]
_ROWS, _COLUMNS = (np.array(index) for index in zip(*_BY_FREQUENCY, strict=True))

Pixels = NDArray[np.uint8]
Hashes = NDArray[np.uint64]


@cache
def _transform() -> NDArray[np.float32]:
    """The lowest rows of the orthonormal DCT-II matrix."""
    from scipy.fft import dct  # slow to import, and only here needed

    return np.asarray(dct(np.eye(HASH_SIDE), axis=0, norm="ortho")[: _ROWS.max() + 1].astype(np.float32))


def small_grey(pixels: Pixels, side: int = HASH_SIDE) -> NDArray[np.float32]:
    """The image as (side, side) grey values in [0, 255].

    Args:
        pixels: (H, W, 3) uint8 RGB.
        side: Pixels.
    """
    grey = Image.fromarray(pixels).convert("L")
    return np.asarray(grey.resize((side, side), Image.Resampling.BOX), dtype=np.float32)


def hash_images(small: NDArray[np.float32]) -> tuple[Hashes, NDArray[np.bool_]]:
    """Hashes of images, and which of them are too plain to have one.

    Args:
        small: (N, 32, 32) grey values, see ``small_grey``.

    Returns:
        (N,) uint64 and (N,) bool.
    """
    low = np.einsum("ui,nij,vj->nuv", _transform(), small, _transform(), optimize=True)[:, _ROWS, _COLUMNS]
    bits = low > np.median(low, axis=1, keepdims=True)
    packed = np.ascontiguousarray(np.packbits(bits, axis=1))
    hashes = packed.view(">u8")[:, 0].astype(np.uint64)
    return hashes, small.std(axis=(1, 2)) < LEAST_DEVIATION


def close_pairs(a: Hashes, b: Hashes, most_bits: int = MOST_BITS) -> NDArray[np.int64]:
    """All pairs of hashes that differ in at most so many bits.

    Takes bands where they compare fewer pairs, else compares all with all: never more than len(a) * len(b) steps of
    eight bytes, whatever the hashes are.

    Args:
        a: (N,) hashes.
        b: (M,) hashes.
        most_bits: Largest Hamming distance, below 64.

    Returns:
        (K, 2) positions in ``a`` and ``b``, sorted.
    """
    if not len(a) or not len(b):
        return np.empty((0, 2), dtype=np.int64)
    edges = np.linspace(0, _BITS, most_bits + 2).round().astype(int)
    bands = [_Band.of(a, b, low, high - low) for low, high in pairwise(edges)]
    if sum(band.pairs for band in bands) > len(a) * len(b):
        blocks = _all_pairs(len(a), len(b))
    else:
        blocks = chain.from_iterable(band.candidates() for band in bands)
    found = [pairs[np.bitwise_count(a[pairs[:, 0]] ^ b[pairs[:, 1]]) <= most_bits] for pairs in blocks]
    return np.unique(np.concatenate(found), axis=0) if found else np.empty((0, 2), dtype=np.int64)


def correlation(one: Pixels, other: Pixels) -> float:
    """Pearson correlation of the grey values of two images at 64 x 64 pixels; 0 if one of them is plain.

    Args:
        one: (H, W, 3) uint8 RGB.
        other: The same, of any size.
    """
    x, y = (small_grey(pixels, LOOK_SIDE).ravel().astype(np.float64) for pixels in (one, other))
    if min(x.std(), y.std()) < LEAST_DEVIATION:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])


class _Band:
    """Pairs of hashes that agree in some neighbouring bits."""

    def __init__(self, a: Hashes, b: Hashes) -> None:
        self._order_a, self._order_b = np.argsort(a, kind="stable"), np.argsort(b, kind="stable")
        sorted_a, sorted_b = a[self._order_a], b[self._order_b]
        self._start = np.searchsorted(sorted_b, sorted_a, side="left")
        self._count = np.searchsorted(sorted_b, sorted_a, side="right") - self._start
        self.pairs = int(self._count.sum())

    @classmethod
    def of(cls, a: Hashes, b: Hashes, low: int, width: int) -> _Band:
        shift, mask = np.uint64(low), np.uint64(2**width - 1)
        return cls((a >> shift) & mask, (b >> shift) & mask)

    def candidates(self) -> Iterator[NDArray[np.int64]]:
        """(K, 2) positions in both, in blocks of bounded size."""
        reached = np.cumsum(self._count)
        first = 0
        while first < len(reached):
            done = int(reached[first - 1]) if first else 0
            last = max(first + 1, int(np.searchsorted(reached, done + _PAIRS_AT_ONCE, side="right")))
            count = self._count[first:last]
            i = np.repeat(np.arange(first, last), count)
            offset = np.arange(len(i)) - np.repeat(np.cumsum(count) - count, count)
            j = np.repeat(self._start[first:last], count) + offset
            yield np.stack([self._order_a[i], self._order_b[j]], axis=1)
            first = last


def _all_pairs(n: int, m: int) -> Iterator[NDArray[np.int64]]:
    rows = max(1, _PAIRS_AT_ONCE // m)
    for first in range(0, n, rows):
        i = np.arange(first, min(first + rows, n))
        yield np.stack([np.repeat(i, m), np.tile(np.arange(m), len(i))], axis=1)
