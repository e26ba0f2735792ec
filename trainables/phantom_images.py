"""Phantom images: textures on backgrounds, drawn by formulas from an explicit generator.

All three kinds share eight textures, so that a network that has learned them on one can use them on another. Every
texture is mirror-symmetric in distribution and has zero mean and unit variance over the image: neither flips nor mean
grey nor energy give a class away. Images are 64 pixels wide; wavelengths of 9 to 12 pixels survive halving.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

SIDE = 64
"""Pixels of an image's side."""

GRAIN = 10.0
"""Standard deviation of the noise of chest and skin images, in grey levels."""

SHIFTED_GRAIN = 18.0
"""The same at the shifted site."""

SHIFTED_CONTRAST = 0.35
"""Contrast of the shifted site relative to the other."""

SHIFTED_LIFT = 25.0
"""How much brighter the shifted site is, in grey levels."""

Stack = NDArray[np.float32]
"""(N, SIDE, SIDE)."""

Values = NDArray[np.float32]
"""(N,)."""

_ROW, _COLUMN = np.meshgrid(np.arange(SIDE, dtype=np.float32), np.arange(SIDE, dtype=np.float32), indexing="ij")
_FREQUENCY = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None, :])
"""Cycles per pixel of each Fourier coefficient."""

_LUNGS = np.exp(-(((_COLUMN - 19) / 12) ** 4 + ((_ROW - 32) / 23) ** 4)) + np.exp(
    -(((_COLUMN - 45) / 12) ** 4 + ((_ROW - 32) / 23) ** 4)
)
_LUNG_COLUMNS = (19.0, 45.0)


def _uniform(rng: np.random.Generator, low: float, high: float, n: int) -> Values:
    return rng.uniform(low, high, n).astype(np.float32)


def _per_image(values: NDArray[np.float32]) -> Stack:
    return values[:, None, None]


def _wave(rng: np.random.Generator, n: int, angle_degrees: float) -> Stack:
    """Gratings; the angle is that of the wave, so 0 gives upright stripes. It wanders by 8 degrees."""
    angle = np.deg2rad(angle_degrees + _uniform(rng, -8, 8, n))
    length, phase = _uniform(rng, 9, 12, n), _uniform(rng, 0, 2 * np.pi, n)
    along = _per_image(np.cos(angle)) * _COLUMN + _per_image(np.sin(angle)) * _ROW
    return np.cos(2 * np.pi * along / _per_image(length) + _per_image(phase))


def _scatter(rng: np.random.Generator, n: int, pitch: float, size: float, ring: bool) -> Stack:
    """Dots or rings of radius ``size`` on a loose lattice of ``pitch`` pixels, nine in ten places taken."""
    axis = np.arange(-pitch / 2, SIDE + pitch, pitch)
    lattice = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(1, -1, 2)
    places = lattice.shape[1]
    centres = lattice + rng.uniform(0, pitch, (n, 1, 2)) + rng.uniform(-0.22 * pitch, 0.22 * pitch, (n, places, 2))
    sizes = size * rng.uniform(0.85, 1.15, (n, places)).astype(np.float32)
    taken = rng.random((n, places)) < 0.9
    out = np.zeros((n, SIDE, SIDE), np.float32)
    for k in range(places):
        centre = centres[:, k].astype(np.float32)
        radius = np.hypot(_ROW - _per_image(centre[:, 0]), _COLUMN - _per_image(centre[:, 1]))
        distance = (radius - _per_image(sizes[:, k])) / 1.3 if ring else radius / _per_image(sizes[:, k])
        out += _per_image(taken[:, k].astype(np.float32)) * np.exp(-0.5 * distance**2)
    return out


def _filtered_noise(rng: np.random.Generator, n: int, response: NDArray[np.float64]) -> Stack:
    spectrum = np.fft.rfft2(rng.standard_normal((n, SIDE, SIDE), dtype=np.float32))
    return np.asarray(np.fft.irfft2(spectrum * response, s=(SIDE, SIDE)), dtype=np.float32)


def _shading(rng: np.random.Generator, n: int) -> Stack:
    """Smooth light and dark, unit variance."""
    return _standardised(_filtered_noise(rng, n, np.exp(-0.5 * (_FREQUENCY / 0.025) ** 2)))


TEXTURES: dict[str, Callable[[np.random.Generator, int], Stack]] = {
    "rows": lambda rng, n: _wave(rng, n, 90),
    "columns": lambda rng, n: _wave(rng, n, 0),
    "crosshatch": lambda rng, n: _wave(rng, n, 45) + _wave(rng, n, 135),
    "grid": lambda rng, n: _wave(rng, n, 0) + _wave(rng, n, 90),
    "dots": lambda rng, n: _scatter(rng, n, pitch=12, size=2.6, ring=False),
    "rings": lambda rng, n: _scatter(rng, n, pitch=15, size=5, ring=True),
    "blobs": lambda rng, n: _scatter(rng, n, pitch=22, size=5.5, ring=False),
    "speckle": lambda rng, n: _filtered_noise(rng, n, np.exp(-0.5 * ((_FREQUENCY - 1 / 11) / 0.02) ** 2)),
}
"""Name -> a stack of that texture; the classes of the natural phantom, in this order."""


def _standardised(stack: Stack) -> Stack:
    centred = stack - stack.mean((1, 2), keepdims=True)
    return np.asarray(centred / centred.std((1, 2), keepdims=True), dtype=np.float32)


def _texture(rng: np.random.Generator, name: str, n: int) -> Stack:
    return _standardised(TEXTURES[name](rng, n))


def _patch(row: Values, column: Values, sigma: Values) -> Stack:
    """A Gaussian window, 1 at its centre."""
    squared = (_ROW - _per_image(row)) ** 2 + (_COLUMN - _per_image(column)) ** 2
    return np.exp(-0.5 * squared / _per_image(sigma) ** 2)


def _of_class(rng: np.random.Generator, y: NDArray[np.integer], names: Sequence[str]) -> Stack:
    """Each image's own texture."""
    out = np.empty((len(y), SIDE, SIDE), np.float32)
    for k, name in enumerate(names):
        out[y == k] = _texture(rng, name, int((y == k).sum()))
    return out


def _grain(rng: np.random.Generator, n: int, sigma: float | Values) -> Stack:
    scale = _per_image(np.broadcast_to(np.asarray(sigma, dtype=np.float32), (n,)))
    return rng.standard_normal((n, SIDE, SIDE), dtype=np.float32) * scale


def _as_pixels(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def natural_images(rng: np.random.Generator, y: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Patches of texture on uneven ground.

    Args:
        rng: Draws everything.
        y: (N,) positions in ``TEXTURES``.

    Returns:
        (N, 64, 64) uint8 grey.
    """
    n = len(y)
    patch = _patch(_uniform(rng, 18, 46, n), _uniform(rng, 18, 46, n), _uniform(rng, 10, 17, n))
    strength = _per_image(_uniform(rng, 12, 50, n))
    ground = _per_image(_uniform(rng, 70, 180, n)) + 36 * _shading(rng, n)
    return _as_pixels(ground + strength * patch * _of_class(rng, y, tuple(TEXTURES)) + _grain(rng, n, 12))


def chest_images(
    rng: np.random.Generator,
    findings: NDArray[np.bool_],
    textures: Sequence[str],
    *,
    distractors: Sequence[str],
    weakened: NDArray[np.bool_],
    weakening: float,
    shifted: bool,
) -> NDArray[np.uint8]:
    """Two dark lungs behind ribs; each finding is a patch of its texture in one of them.

    Exposure, shading, contrast and a bright side marker vary more than the findings do. A shifted site has less
    contrast, more grain and a brighter ground.

    Args:
        rng: Draws everything.
        findings: (N, findings).
        textures: Texture of each finding.
        distractors: Textures that each appear in a third of the images and mean nothing.
        weakened: (N,) whether the findings (but not the distractors) of an image are faint.
        weakening: Factor of the strength of faint findings.
        shifted: Whether the images are of the shifted site.

    Returns:
        (N, 64, 64) uint8 grey.
    """
    n = len(findings)
    image = 140 - 60 * _per_image(_uniform(rng, 0.5, 1.5, n)) * _LUNGS
    image += 26 * _shading(rng, n) + _per_image(_uniform(rng, -45, 45, n))
    ribs = _ROW + ((_COLUMN - 32) / 10) ** 2
    image += 9 * _LUNGS * np.cos(2 * np.pi * ribs / 22 + _per_image(_uniform(rng, 0, 2 * np.pi, n)))
    image += _marker(rng, n)
    factor = np.where(weakened, weakening, 1).astype(np.float32)
    for k, name in enumerate(textures):
        _add_to_lung(rng, image, findings[:, k], name, factor)
    for name in distractors:
        _add_to_lung(rng, image, rng.random(n) < 0.35, name, np.ones(n, np.float32))
    contrast, grain, lift = (SHIFTED_CONTRAST, SHIFTED_GRAIN, SHIFTED_LIFT) if shifted else (1, GRAIN, 0)
    mean = image.mean((1, 2), keepdims=True)
    image = mean + (image - mean) * _per_image(contrast * _uniform(rng, 0.85, 1.15, n)) + lift
    return _as_pixels(image + _grain(rng, n, grain))


def _marker(rng: np.random.Generator, n: int) -> Stack:
    """A bright 7 x 7 square near the left or right edge of six images in ten."""
    column = np.where(rng.random(n) < 0.5, 7, 57)
    inside = np.abs(_COLUMN - column[:, None, None]) < 4
    inside &= np.abs(_ROW - _per_image(_uniform(rng, 6, 58, n))) < 4
    return inside * _per_image(_uniform(rng, 50, 110, n) * (rng.random(n) < 0.6))


def _add_to_lung(rng: np.random.Generator, image: Stack, present: NDArray[np.bool_], name: str, factor: Values) -> None:
    n = int(present.sum())
    column = rng.choice(_LUNG_COLUMNS, n).astype(np.float32) + _uniform(rng, -4, 4, n)
    patch = _patch(_uniform(rng, 22, 42, n), column, _uniform(rng, 9, 13, n))
    strength = _uniform(rng, 22, 56, n) * factor[present]
    image[present] += _per_image(strength) * patch * _texture(rng, name, n)


def skin_images(rng: np.random.Generator, y: NDArray[np.integer], textures: Sequence[str]) -> NDArray[np.uint8]:
    """One dark lesion on skin, with its class's texture.

    Args:
        rng: Draws everything.
        y: (N,) positions in ``textures``.
        textures: Texture of each class.

    Returns:
        (N, 64, 64, 3) uint8 RGB.
    """
    n = len(y)
    centre = _uniform(rng, 26, 38, n), _uniform(rng, 26, 38, n)
    lesion = np.minimum(1.6 * _patch(*centre, _uniform(rng, 11, 17, n)), 1)
    value = 7 * _shading(rng, n) + _grain(rng, n, GRAIN) - 50 * lesion * _per_image(_uniform(rng, 0.6, 1.4, n))
    value += lesion * _per_image(_uniform(rng, 4, 15, n)) * _of_class(rng, y, textures)
    colour = np.asarray((215, 165, 140), np.float32) + rng.uniform(-15, 15, (n, 1, 1, 3)).astype(np.float32)
    return _as_pixels(colour + value[..., None] * np.asarray((0.8, 1, 1.05), np.float32))
