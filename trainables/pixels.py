"""Image files, DICOM files and npz frames as arrays. With ``trainables.dicom`` the only place that decodes."""

from __future__ import annotations

import functools
import os
import zipfile
import zlib
from collections.abc import Sequence
from enum import StrEnum
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile

from search_spaces.exceptions import DataError
from trainables.dicom import DICOM_SUFFIXES, Window, dicom_size, is_dicom, read_dicom, read_stored
from trainables.npz_arrays import read_array
from trainables.pixel_limit import refuse_too_large
from trainables.places import RemoteError, is_remote, open_bytes, place, stamp

if TYPE_CHECKING:
    from trainables.places import Place

FRAME_SEPARATOR = "#"
"""In a path, parts the npz file from the name of its array: ``set.npz#train_images``."""

_PLAIN_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".gif", ".webp"})
IMAGE_SUFFIXES = _PLAIN_SUFFIXES | DICOM_SUFFIXES

_ENDS = {".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9", ".png": b"IEND"}
"""By suffix, what stands near the end of a whole file and, in a JPEG, nowhere in its compressed data."""

_END_BYTES = 64
"""In which the end is looked for: some programs add a few bytes."""

BIT_DEPTHS = range(8, 17)
"""Bits that 16-bit files may use: scanners often write 12."""

Image.MAX_IMAGE_PIXELS = None
"""Pillow's own limit warns instead of refusing; ``trainables.pixel_limit`` refuses, and names what to set."""

_SIXTEEN_BIT_MODES = frozenset({"I;16", "I;16B", "I;16L", "I;16N", "I"})

Pixels = npt.NDArray[np.uint8]


class Colour(StrEnum):
    """What a task's images are."""

    AS_STORED = "as_stored"
    """Grey files become three equal channels, colour files keep theirs."""

    GREY = "grey"
    """Colour files become their luma (ITU-R BT.601), in three equal channels."""

    RGB = "rgb"
    """Grey files are refused."""


def read_rgb(
    path: Place,
    frame: int | None = None,
    bit_depth: int = 16,
    window: Window | None = None,
    colour: Colour = Colour.AS_STORED,
) -> Pixels:
    """One image as uint8 RGB, shape (H, W, 3); grey becomes three equal channels. See ``read_image``."""
    return np.array(read_image(path, frame, bit_depth, window, colour).convert("RGB"), dtype=np.uint8)


def read_image(
    path: Place,
    frame: int | None = None,
    bit_depth: int = 16,
    window: Window | None = None,
    colour: Colour = Colour.AS_STORED,
) -> Image.Image:
    """One image as Pillow's, decoded, of mode L (grey) or RGB, whose channels may be equal.

    Transparency is dropped, 16-bit grey is scaled so that the full scale of its bit depth becomes 255 (0 in a TIFF
    file that says that white is zero), EXIF orientation is not applied (arrays of masks and points refer to the stored
    pixels). DICOM files are shown as they are meant to be seen; see ``trainables.dicom.read_dicom``.

    Args:
        path: An image or DICOM file, or ``FILE.npz#ARRAY``.
        frame: Index into the npz array, frame of a DICOM file or page of a TIFF file; None for a file of one image.
        bit_depth: Bits that 16-bit images use, 8 to 16; of no meaning for others.
        window: Centre and width for DICOM files; their own if not given.
        colour: What the image must be or becomes.

    Raises:
        DataError: The file is missing, cannot be decoded, is of a kind that has no 8-bit meaning, has a value above
            its bit depth, more pixels than the limit, or is grey where colour was declared.
    """
    image = _any_image(path, frame, bit_depth, window)
    if colour is Colour.RGB and _is_grey(image):
        raise DataError(f"image {path} is grey; its task declares colour")
    return image.convert("L") if colour is Colour.GREY and image.mode != "L" else image


def _is_grey(image: Image.Image) -> bool:
    if image.mode == "L":
        return True
    pixels = np.asarray(image)
    return bool((pixels == pixels[..., :1]).all())


def _any_image(path: Place, frame: int | None, bit_depth: int, window: Window | None) -> Image.Image:
    if is_npz_frame(path, frame):
        values = read_frame(path, frame or 0)
        if values.ndim > 1:
            refuse_too_large(values.shape[1], values.shape[0], path)
        return _as_image(values, path, bit_depth)
    if _is_dicom(path):
        return _as_image(read_dicom(path, frame, window), path, bit_depth)
    with _opened(path) as image:
        return _decoded(image, path, bit_depth, frame)


def _is_dicom(path: Place) -> bool:
    """Files with the suffix of an image are not opened to find out: remote ones cost a request each."""
    return path.suffix.lower() not in _PLAIN_SUFFIXES and is_dicom(path)


def is_npz_frame(path: Place | PurePath, frame: int | None) -> bool:
    """Whether a row's path and frame name an image of an npz array.

    Other frames are those of DICOM files, whose names may end in anything and hold any sign, and pages of TIFF files.
    """
    if frame is None or path.suffix.lower() in IMAGE_SUFFIXES:
        return False
    return FRAME_SEPARATOR in path.name or path.suffix.lower() == ".npz"


def sixteen_bit_peak(path: Place, frame: int | None = None) -> int | None:
    """The largest value of a 16-bit image; None for any other, and for DICOM files, which say what is white.

    Args:
        path: An image file, or ``FILE.npz#ARRAY``.
        frame: Index into the npz array or page; None for an image file.

    Raises:
        DataError: The file is missing or cannot be decoded.
    """
    if is_npz_frame(path, frame):
        values = read_frame(path, frame or 0)
        return int(values.max()) if values.dtype == np.uint16 and values.size else None
    if _is_dicom(path):
        return None
    with _opened(path) as image:
        _to_page(image, path, frame)
        if image.mode not in _SIXTEEN_BIT_MODES:
            return None
        try:
            return int(_sixteen_bit(np.asarray(image), path).max(initial=0))
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(f"image {path} cannot be decoded: {error}") from error


def read_mask(path: Place) -> npt.NDArray[np.int32]:
    """A mask as stored, shape (H, W): palette and label values are kept, colour masks are refused.

    Raises:
        DataError: The file is missing, cannot be decoded, or has more than one channel.
    """
    if _is_dicom(path):
        values = np.asarray(read_stored(path))
    else:
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


def image_size(path: Place, frame: int | None = None) -> tuple[int, int]:
    """Width and height from the header alone, in pixels.

    Raises:
        DataError: The file is missing, is no image, or has more pixels than the limit.
    """
    if is_npz_frame(path, frame):
        height, width = npz_array(*split_npz(path)).shape[1:3]
        return int(width), int(height)
    if _is_dicom(path):
        return dicom_size(path, frame)
    with _opened(path) as image:
        _to_page(image, path, frame)
        return image.size


def shown_size(path: Place, frame: int | None = None, window: Window | None = None) -> tuple[int, int]:
    """``image_size`` of a file whose values can be shown in 8 bits, as far as its header says; masks need not be.

    Args:
        path: An image or DICOM file, or ``FILE.npz#ARRAY``.
        frame: See ``read_image``.
        window: Centre and width for DICOM files; their own if not given.

    Raises:
        DataError: See ``image_size``; also a TIFF file of numbers that are floating point or of more than 16 bits, and
            a DICOM file whose window or rescaling leaves no range of values.
    """
    if is_npz_frame(path, frame):
        return image_size(path, frame)
    if _is_dicom(path):
        return dicom_size(path, frame, shown=True, window=window)
    with _opened(path) as image:
        _to_page(image, path, frame)
        _refuse_deep(image, path)
        return image.size


def refuse_cut_short(path: Place, frame: int | None = None) -> None:
    """Nothing, for a JPEG or PNG file that ends as such files do, or that can be decoded although it does not.

    Reads the last bytes; other formats, and remote files, which would cost a request more each, are not looked at.

    Raises:
        DataError: The file is missing, or cannot be decoded.
    """
    end = _ENDS.get(path.suffix.lower())
    if end is None or is_remote(path):
        return
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _END_BYTES))
            whole = end in file.read()
    except OSError as error:
        raise DataError(f"image {path} cannot be read: {_plain(error)}") from error
    if not whole:
        read_image(path, frame)


def split_npz(path: Place) -> tuple[Place, str]:
    """``(FILE.npz, ARRAY)`` of ``FILE.npz#ARRAY``.

    Raises:
        DataError: No array is named.
    """
    file, separator, array = str(path).rpartition(FRAME_SEPARATOR)
    if not separator:
        raise DataError(f"{path} names a frame but no array; FILE.npz{FRAME_SEPARATOR}ARRAY expected")
    return place(file), array


def npz_array(file: Place, array: str) -> npt.NDArray[np.generic]:
    """An array of an npz file, kept in memory while it is being read from.

    Raises:
        DataError: The file or the array is missing or cannot be read, or its images have more pixels than the limit.
    """
    stamped = stamp(file)
    if stamped is None:
        raise DataError(f"file {file} is missing")
    try:
        return _cached_array(str(file), array, stamped)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"array {array!r} of {file} cannot be read: {error}") from error


def read_frame(path: Place, frame: int) -> npt.NDArray[np.generic]:
    """Frame ``frame`` of ``FILE.npz#ARRAY``, as stored.

    Raises:
        DataError: The file, the array or the frame is missing.
    """
    return read_frames(path, [frame])[0]


def read_frames(path: Place, frames: Sequence[int]) -> list[npt.NDArray[np.generic]]:
    """Several frames of ``FILE.npz#ARRAY``, as stored; the file is looked at once.

    Raises:
        DataError: The file, the array or a frame is missing.
    """
    array = npz_array(*split_npz(path))
    wrong = [frame for frame in frames if not 0 <= frame < len(array)]
    if wrong:
        raise DataError(f"{path} has {len(array)} frames; there is no frame {wrong[0]}")
    return [array[frame] for frame in frames]


@functools.lru_cache(maxsize=4)
def _cached_array(file: str, array: str, stamped: tuple[int, int]) -> npt.NDArray[np.generic]:
    where = place(file)
    with open_bytes(where) as stream, np.load(stream, allow_pickle=False) as arrays:
        return read_array(arrays, array, where)


def _opened(path: Place) -> Image.Image:
    """The image with its header read.

    Raises:
        DataError: The file is missing, no image, or has more pixels than the limit.
    """
    try:
        image = Image.open(open_bytes(path) if is_remote(path) else str(path))
    except FileNotFoundError:
        raise DataError(f"image {path} is missing") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"image {path} cannot be read: {_plain(error)}") from error
    try:
        refuse_too_large(*image.size, path)
    except DataError:
        image.close()
        raise
    return image


def _plain(error: Exception) -> str:
    """What is wrong, without naming the file again."""
    if isinstance(error, UnidentifiedImageError):
        return "no image of a known format"
    return str(getattr(error, "strerror", None) or error)


def _to_page(image: Image.Image, path: Place, frame: int | None) -> None:
    """Turn to a page of a multi-page file.

    Raises:
        DataError: There are several and none is named, there is no such page, or it has more pixels than the limit.
    """
    pages = getattr(image, "n_frames", 1)
    if frame is None:
        if pages > 1 and image.format != "MPO":  # what a camera adds to its JPEG is a preview of the same picture
            raise DataError(f"image {path} has {pages} pages; one image per file, or a column 'frame', expected")
        return
    if not 0 <= frame < pages:
        raise DataError(f"image {path} has {pages} pages; there is no page {frame}")
    image.seek(frame)
    refuse_too_large(*image.size, path)  # pages of one file differ in size


def _refuse_deep(image: Image.Image, path: Place) -> None:
    """Nothing, for an image of 8 or 16 bits as far as its header says.

    Raises:
        DataError: It holds floating point values or, a TIFF file, numbers of more bits.
    """
    if image.mode == "F":
        raise DataError(f"image {path} holds floating point values; 8 or 16 bit expected")
    bits = max(image.tag_v2.get(BITSPERSAMPLE, (1,))) if isinstance(image, TiffImageFile) else 0
    if bits > max(BIT_DEPTHS):
        raise DataError(f"image {path} holds numbers of {bits} bits; 8 or 16 bit expected")


def _decoded(image: Image.Image, path: Place, bit_depth: int, frame: int | None) -> Image.Image:
    try:
        _to_page(image, path, frame)
        if image.mode in _SIXTEEN_BIT_MODES:
            shown = _as_image(_sixteen_bit(np.asarray(image), path), path, bit_depth)
            return ImageOps.invert(shown) if _white_is_zero(image) else shown
        if image.mode == "F":
            raise DataError(f"image {path} holds floating point values; 8 or 16 bit expected")
        if image.mode not in ("L", "RGB"):
            return image.convert("RGB")
        image.load()
        return image
    except RemoteError as error:
        raise DataError(f"image {path} cannot be read: {error}") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"image {path} cannot be decoded: {error}") from error


def _white_is_zero(image: Image.Image) -> bool:
    """Whether a TIFF file says so; Pillow heeds it in images of up to 8 bits alone."""
    return isinstance(image, TiffImageFile) and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0


def _sixteen_bit(values: npt.NDArray[np.generic], path: Place) -> npt.NDArray[np.uint16]:
    numbers = values.astype(np.int64)
    if numbers.size and not 0 <= numbers.min() <= numbers.max() <= 65535:
        raise DataError(f"image {path} has values from {numbers.min()} to {numbers.max()}; 8 or 16 bit expected")
    return numbers.astype(np.uint16)


def _as_image(values: npt.NDArray[np.generic], path: Place, bit_depth: int) -> Image.Image:
    """Values of shape (H, W), (H, W, 1) or (H, W, 3), uint8 or uint16, as an image of mode L or RGB."""
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
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.ndim not in (2, 3) or values.shape[2:] not in ((), (3,)):
        raise DataError(f"{path} has frames of shape {values.shape}; (H, W), (H, W, 1) or (H, W, 3) expected")
    return Image.fromarray(np.ascontiguousarray(values))
