"""Image files and npz frames as arrays. The only place that decodes."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from search_spaces.exceptions import DataError

FRAME_SEPARATOR = "#"
"""In a path, parts the npz file from the name of its array: ``set.npz#train_images``."""

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".gif", ".webp"})

BIT_DEPTHS = range(8, 17)
"""Bits that 16-bit files may use: scanners often write 12."""

_SIXTEEN_BIT_MODES = frozenset({"I;16", "I;16B", "I;16L", "I;16N", "I"})

Pixels = npt.NDArray[np.uint8]


def read_rgb(path: Path, frame: int | None = None, bit_depth: int = 16) -> Pixels:
    """One image as uint8 RGB, shape (H, W, 3).

    Grey becomes three equal channels, transparency is dropped, 16-bit grey is scaled so that the full scale of its bit
    depth becomes 255, EXIF orientation is not applied (arrays of masks and points refer to the stored pixels).

    Args:
        path: An image file, or ``FILE.npz#ARRAY``.
        frame: Index into the npz array; None for an image file.
        bit_depth: Bits that 16-bit images use, 8 to 16; of no meaning for others.

    Raises:
        DataError: The file is missing, cannot be decoded, is of a kind that has no 8-bit meaning, or has a value above
            its bit depth.
    """
    if frame is not None:
        return _grey_to_rgb(read_frame(path, frame), path, bit_depth)
    with _opened(path) as image:
        return _decoded(image, path, bit_depth)


def sixteen_bit_peak(path: Path, frame: int | None = None) -> int | None:
    """The largest value of a 16-bit image; None for any other, which is not decoded.

    Args:
        path: An image file, or ``FILE.npz#ARRAY``.
        frame: Index into the npz array; None for an image file.

    Raises:
        DataError: The file is missing or cannot be decoded.
    """
    if frame is not None:
        values = read_frame(path, frame)
        return int(values.max()) if values.dtype == np.uint16 and values.size else None
    with _opened(path) as image:
        if image.mode not in _SIXTEEN_BIT_MODES:
            return None
        try:
            return int(_sixteen_bit(np.asarray(image), path).max(initial=0))
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(f"image {path} cannot be decoded: {error}") from error


def read_mask(path: Path) -> npt.NDArray[np.int32]:
    """A mask as stored, shape (H, W): palette and label values are kept, colour masks are refused.

    Raises:
        DataError: The file is missing, cannot be decoded, or has more than one channel.
    """
    with _opened(path) as image:
        try:
            values = np.asarray(image)
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(f"mask {path} cannot be decoded: {error}") from error
    if values.ndim == 3 and values.shape[2] in (3, 4) and (values[..., :3] == values[..., :1]).all():
        values = values[..., 0]
    if values.ndim != 2 or values.dtype.kind not in "bui":
        raise DataError(
            f"mask {path} has shape {values.shape} of {values.dtype}; one channel of whole numbers expected"
        )
    return values.astype(np.int32)


def image_size(path: Path, frame: int | None = None) -> tuple[int, int]:
    """Width and height from the header alone, in pixels.

    Raises:
        DataError: The file is missing or is no image.
    """
    if frame is not None:
        height, width = npz_array(*split_npz(path)).shape[1:3]
        return int(width), int(height)
    with _opened(path) as image:
        return image.size


def split_npz(path: Path) -> tuple[Path, str]:
    """``(FILE.npz, ARRAY)`` of ``FILE.npz#ARRAY``.

    Raises:
        DataError: No array is named.
    """
    file, separator, array = str(path).rpartition(FRAME_SEPARATOR)
    if not separator:
        raise DataError(f"{path} names a frame but no array; FILE.npz{FRAME_SEPARATOR}ARRAY expected")
    return Path(file), array


def npz_array(file: Path, array: str) -> npt.NDArray[np.generic]:
    """An array of an npz file, kept in memory while it is being read from.

    Raises:
        DataError: The file or the array is missing or cannot be read.
    """
    try:
        return _cached_array(file, array, file.stat().st_mtime_ns)
    except FileNotFoundError:
        raise DataError(f"file {file} is missing") from None
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(f"array {array!r} of {file} cannot be read: {error}") from error


def read_frame(path: Path, frame: int) -> npt.NDArray[np.generic]:
    """Frame ``frame`` of ``FILE.npz#ARRAY``, as stored.

    Raises:
        DataError: The file, the array or the frame is missing.
    """
    frames = npz_array(*split_npz(path))
    if not 0 <= frame < len(frames):
        raise DataError(f"{path} has {len(frames)} frames; there is no frame {frame}")
    chosen: npt.NDArray[np.generic] = frames[frame]
    return chosen


@functools.lru_cache(maxsize=4)
def _cached_array(file: Path, array: str, mtime_ns: int) -> npt.NDArray[np.generic]:
    with np.load(file, allow_pickle=False) as arrays:
        read: npt.NDArray[np.generic] = arrays[array]
    return read


def _opened(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except FileNotFoundError:
        raise DataError(f"image {path} is missing") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"image {path} cannot be read: {error}") from error


def _decoded(image: Image.Image, path: Path, bit_depth: int) -> Pixels:
    pages = getattr(image, "n_frames", 1)
    if pages > 1 and image.format != "MPO":  # what a camera adds to its JPEG is a preview of the same picture
        raise DataError(f"image {path} has {pages} pages; one image per file expected")
    try:
        if image.mode in _SIXTEEN_BIT_MODES:
            return _grey_to_rgb(_sixteen_bit(np.asarray(image), path), path, bit_depth)
        if image.mode == "F":
            raise DataError(f"image {path} holds floating point values; 8 or 16 bit expected")
        return np.array(image.convert("RGB"), dtype=np.uint8)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"image {path} cannot be decoded: {error}") from error


def _sixteen_bit(values: npt.NDArray[np.generic], path: Path) -> npt.NDArray[np.uint16]:
    numbers = values.astype(np.int64)
    if numbers.size and not 0 <= numbers.min() <= numbers.max() <= 65535:
        raise DataError(f"image {path} has values from {numbers.min()} to {numbers.max()}; 8 or 16 bit expected")
    return numbers.astype(np.uint16)


def _grey_to_rgb(values: npt.NDArray[np.generic], path: Path, bit_depth: int) -> Pixels:
    """Shape (H, W), (H, W, 1) or (H, W, 3), uint8 or uint16 -> uint8 (H, W, 3)."""
    if values.dtype == np.uint16:
        full = 2**bit_depth - 1
        wide = values.astype(np.uint32)
        if wide.size and wide.max() > full:
            raise DataError(
                f"image {path} has values up to {wide.max()}, above the {bit_depth} bits of its task; "
                "import it again with another --bit-depth"
            )
        values = ((wide * 255 + full // 2) // full).astype(np.uint8)
    if values.dtype != np.uint8:
        raise DataError(f"{path} holds {values.dtype}; uint8 or uint16 expected")
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[2] not in (1, 3):
        raise DataError(f"{path} has frames of shape {values.shape}; (H, W), (H, W, 1) or (H, W, 3) expected")
    return np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3)), dtype=np.uint8)
