"""Near copies are found, other images are not, and bands lose no pair that comparing all with all finds."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter

from trainables.similar_images import (
    LEAST_CORRELATION,
    MOST_BITS,
    close_pairs,
    correlation,
    hash_images,
    small_grey,
)


def picture(seed, height=120, width=150):
    """A smooth random scene with a sharp disc, RGB."""
    rng = np.random.default_rng(seed)
    scene = gaussian_filter(rng.normal(size=(height, width, 3)), (14, 14, 0))
    scene = (scene - scene.min()) / (scene.max() - scene.min()) * 200 + 20
    rows, columns = np.ogrid[:height, :width]
    centre = rng.uniform(0.2, 0.8, 2) * (height, width)
    scene[(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < rng.uniform(10, 30) ** 2] += 30
    return scene.clip(0, 255).astype(np.uint8)


def jpeg(pixels, quality):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def resized(pixels, factor):
    size = (round(pixels.shape[1] * factor), round(pixels.shape[0] * factor))
    return np.asarray(Image.fromarray(pixels).resize(size))


COPIES = {
    "compressed": lambda p: jpeg(p, 40),
    "half the size": lambda p: resized(p, 0.5),
    "larger": lambda p: resized(p, 1.7),
    "brighter": lambda p: np.asarray(ImageEnhance.Brightness(Image.fromarray(p)).enhance(1.1)),
    "less contrast": lambda p: np.asarray(ImageEnhance.Contrast(Image.fromarray(p)).enhance(0.7)),
    "grey": lambda p: np.repeat(np.asarray(Image.fromarray(p).convert("L"))[..., None], 3, axis=2),
    "all of it": lambda p: jpeg(resized(p, 0.6), 60),
}


def hashes_of(pictures):
    return hash_images(np.stack([small_grey(p) for p in pictures]))


def test_copies_are_found_and_other_images_are_not():
    pictures = [picture(seed) for seed in range(60)]
    hashes, plain = hashes_of(pictures)
    assert not plain.any()
    for name, change in COPIES.items():
        copies = [change(p) for p in pictures]
        distance = np.bitwise_count(hashes ^ hashes_of(copies)[0])
        alike = np.array([correlation(p, c) for p, c in zip(pictures, copies, strict=True)])
        assert ((distance <= MOST_BITS) & (alike >= LEAST_CORRELATION)).mean() >= 0.95, name
    first, second = np.triu_indices(60, 1)
    close = np.flatnonzero(np.bitwise_count(hashes[first] ^ hashes[second]) <= MOST_BITS)
    assert all(correlation(pictures[first[k]], pictures[second[k]]) < LEAST_CORRELATION for k in close)


def test_the_hash_is_that_of_the_transform_of_scipy():
    small = np.stack([small_grey(picture(seed)) for seed in range(5)])
    frequency = sorted(
        ((u, v) for u in range(32) for v in range(32) if u or v), key=lambda f: (f[0] ** 2 + f[1] ** 2, f)
    )
    for image, found in zip(small, hash_images(small)[0], strict=True):
        whole = dctn(image.astype(np.float64), norm="ortho")
        low = np.array([whole[f] for f in frequency[:64]])
        bits = "".join("1" if value > np.median(low) else "0" for value in low)
        assert f"{int(found):064b}" == bits


def test_plain_images_are_said_to_be_plain():
    flat = np.full((40, 40, 3), 17, np.uint8)
    faint = flat.copy()
    faint[:2] += 1
    _, plain = hashes_of([flat, faint, picture(0)])
    assert plain.tolist() == [True, True, False]
    assert correlation(flat, picture(0)) == 0.0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 9), st.integers(0, 40), st.integers(0, 40), st.booleans())
def test_bands_find_what_comparing_all_finds(seed, most_bits, n, m, crowded):
    rng = np.random.default_rng(seed)
    few = rng.integers(0, 2**63, 2 if crowded else 50, dtype=np.uint64)
    a, b = few[rng.integers(0, len(few), n)], few[rng.integers(0, len(few), m)]
    for hashes in (a, b):
        for _ in range(6):
            hashes ^= np.uint64(1) << rng.integers(0, 64, len(hashes), dtype=np.uint64)
    expected = np.argwhere(np.bitwise_count(a[:, None] ^ b[None, :]) <= most_bits)
    np.testing.assert_array_equal(close_pairs(a, b, most_bits), expected)


def test_many_hashes_are_compared_in_blocks(monkeypatch):
    monkeypatch.setattr("trainables.similar_images._PAIRS_AT_ONCE", 50)
    same = np.zeros(30, np.uint64)
    assert len(close_pairs(same, same)) == 900
    rng = np.random.default_rng(0)
    far = rng.integers(0, 2**63, 300, dtype=np.uint64)
    assert close_pairs(far, far).tolist() == [[k, k] for k in range(300)]


@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0), (0, 0)])
def test_nothing_is_like_nothing(n, m):
    assert close_pairs(np.zeros(n, np.uint64), np.zeros(m, np.uint64)).shape == (0, 2)
