"""How large an image may be before it is decoded: a small file can unpack to more memory than a machine has."""

from __future__ import annotations

import os

from search_spaces.exceptions import DataError, UserError

PIXEL_LIMIT_VARIABLE = "SCALECURVES_MAX_PIXELS"

USUAL_PIXEL_LIMIT = 200_000_000
"""Pixels of one image, 600 MB as RGB; the largest mammograms and fundus photographs have about 30 million."""


def pixel_limit() -> int:
    """The most pixels that one image may have.

    Raises:
        UserError: ``SCALECURVES_MAX_PIXELS`` is no positive whole number.
    """
    written = os.environ.get(PIXEL_LIMIT_VARIABLE, "").strip()
    if not written:
        return USUAL_PIXEL_LIMIT
    if not written.isdecimal() or int(written) == 0:
        raise UserError(f"{PIXEL_LIMIT_VARIABLE} is {written!r}; a positive number of pixels expected")
    return int(written)


def refuse_too_large(width: int, height: int, name: object) -> None:
    """Nothing, for an image within the limit.

    Raises:
        DataError: It has more pixels; names the limit and how to raise it.
    """
    limit = pixel_limit()
    if width * height > limit:
        raise DataError(
            f"image {name} is {width} x {height}, {width * height} pixels, above the limit of {limit} "
            f"(a decompression bomb?); {PIXEL_LIMIT_VARIABLE} sets another limit"
        )
