"""DICOM files as 8-bit images: modality and VOI transforms, MONOCHROME1, frames.

Only geometry and grey values leave this module. Headers name patients, so no value of a header, and no message of
pydicom, which may quote one, gets into an error, a warning or a log.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, MutableSequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from search_spaces.exceptions import DataError, UserError
from trainables.pixel_limit import refuse_too_large
from trainables.places import RemoteError, is_remote, open_bytes

if TYPE_CHECKING:
    from pydicom import Dataset

    from trainables.places import Place

DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".dic"})
"""Suffixes of DICOM files, in lower case; others are recognised by their preamble."""

Window = tuple[float, float]
"""Centre and width of a grey-value window, in units of the rescaled values (Hounsfield units in CT)."""

_PREAMBLE_BYTES = 128
_PIXEL_ELEMENTS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_GREY = ("MONOCHROME1", "MONOCHROME2")
_DEFERRED = 4096
"""Bytes above which a value is not read when only the size of an image is asked for."""

_LENGTH_NOT_TOLD = 0xFFFFFFFF
_SILENCED = r"(pydicom|pylibjpeg|openjpeg|libjpeg|rle|trainables\.dicom)"


def is_dicom(file: Place) -> bool:
    """Whether this is a DICOM file, by its suffix or else its preamble; a file that cannot be opened is none."""
    if file.suffix.lower() in DICOM_SUFFIXES:
        return True
    try:
        with open_bytes(file) as stream:
            return bool(stream.read(_PREAMBLE_BYTES + 4)[_PREAMBLE_BYTES:] == b"DICM")
    except OSError:
        return False


def dicom_size(
    file: Place, frame: int | None = None, shown: bool = False, window: Window | None = None
) -> tuple[int, int]:
    """Width and height in pixels, from the header.

    Args:
        file: The file.
        frame: See ``read_dicom``.
        shown: Whether the header must let ``read_dicom`` show the values, with ``window`` if that is given.
        window: See ``read_dicom``.

    Raises:
        DataError: The file is missing, no DICOM file, holds no pixels, or fewer than it says, or not this frame.
    """
    with _opened(file, only_header=True) as dataset:
        index = _checked_frame(dataset, file, frame)
        if shown and str(dataset.PhotometricInterpretation) in _GREY:
            _refuse_no_range(dataset, file, index, window)
        size = int(dataset.Columns), int(dataset.Rows)
        cut_short = _looks_cut_short(dataset, file)
    if cut_short:
        read_stored(file, frame)
    return size


def read_dicom(file: Place, frame: int | None = None, window: Window | None = None) -> npt.NDArray[np.uint8]:
    """One frame as it is meant to be seen, uint8, shape (H, W) or (H, W, 3).

    Stored values pass the modality transform (rescale slope and intercept, or its table), then ``window``, else the
    file's VOI table or first window (DICOM PS3.3 C.11.2), else the full range of the stored bits. MONOCHROME1, where
    0 is white, is inverted; a palette is applied.

    Args:
        file: The file.
        frame: Which frame of several, from 0; None for a file of one.
        window: Used for all files instead of their own windows.

    Raises:
        DataError: The file is missing or cannot be decoded, holds no pixels, or not this frame.
    """
    from pydicom.pixels.processing import apply_color_lut
    from pydicom.pixels.utils import pixel_array

    with _opened(file) as dataset:
        index = _checked_frame(dataset, file, frame)
        values = pixel_array(dataset, index=index)
        photometric = str(dataset.PhotometricInterpretation)
        if photometric == "PALETTE COLOR":
            palette = apply_color_lut(values, dataset)
            return _eight_bits(palette.astype(np.float64), 0, 255 if palette.dtype.itemsize == 1 else 65535)
        if photometric not in _GREY:
            if values.dtype == np.uint8:
                return np.ascontiguousarray(values)
            return _eight_bits(values.astype(np.float64), 0, 2 ** int(dataset.BitsStored) - 1)
        _refuse_no_range(dataset, file, index, window)
        seen = _grey(values, dataset, index, window)
        return 255 - seen if photometric == "MONOCHROME1" else seen


def read_stored(file: Place, frame: int | None = None) -> npt.NDArray[np.generic]:
    """One frame's values as stored, without any transform: masks.

    Raises:
        DataError: See ``read_dicom``.
    """
    from pydicom.pixels.utils import pixel_array

    with _opened(file) as dataset:
        stored: npt.NDArray[np.generic] = pixel_array(dataset, index=_checked_frame(dataset, file, frame), raw=True)
        return stored


@contextmanager
def _opened(file: Place, only_header: bool = False) -> Iterator[Dataset]:
    """The data set of a file; what goes wrong while it is used becomes one DataError without header values."""
    try:
        import pydicom
    except ImportError as error:
        raise UserError(f"{file} is a DICOM file; to read it: pip install 'scalecurves[dicom]'") from error
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    warnings.filterwarnings("ignore", module=_SILENCED)
    dataset: Dataset | None = None
    try:
        with open_bytes(file) as stream:
            dataset = pydicom.dcmread(
                str(file) if isinstance(file, Path) else stream, defer_size=_DEFERRED if only_header else None
            )
            _refuse_without_pixels(dataset, file)
            refuse_too_large(int(dataset.Columns), int(dataset.Rows), file)
            yield dataset
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"image {file} is missing") from None
    except RemoteError as error:
        raise DataError(f"image {file} cannot be read: {error}") from None
    except OSError as error:
        raise DataError(f"image {file} cannot be read: {error.strerror or type(error).__name__}") from None
    except Exception as error:  # pydicom and its decoders raise anything; their messages may quote the header
        raise DataError(f"image {file} cannot be decoded as DICOM{_likely_reason(error, dataset)}") from None


def _likely_reason(error: Exception, dataset: Dataset | None) -> str:
    """In words, without any value of the header but its transfer syntax."""
    from pydicom.pixels.decoders.base import get_decoder

    if dataset is None:
        return f": it is damaged or no DICOM file ({type(error).__name__})"
    try:
        syntax = dataset.file_meta.TransferSyntaxUID
        if not get_decoder(syntax).is_available:
            return f": no decoder for {syntax.name} is installed; pip install 'scalecurves[dicom]'"
    except (NotImplementedError, AttributeError, KeyError):
        return f" ({type(error).__name__}): its transfer syntax is missing or not supported"
    return f" ({type(error).__name__}): the pixel data are damaged, cut short or of an unsupported kind"


def _refuse_without_pixels(dataset: Dataset, file: Place) -> None:
    if not any(element in dataset for element in _PIXEL_ELEMENTS):
        raise DataError(f"image {file} is a DICOM file without pixel data")
    if not dataset.get("Rows") or not dataset.get("Columns"):
        raise DataError(f"image {file} is a DICOM file without a size (Rows and Columns)")


def _looks_cut_short(dataset: Dataset, file: Place) -> bool:
    """Whether the file ends before its pixels do; of compressed ones, whose length is not told, nobody can tell."""
    from pydicom.dataelem import RawDataElement
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    if is_remote(file) or dataset.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        return False
    size = file.stat().st_size
    elements: list[Any] = [dataset.get_item(name, keep_deferred=True) for name in _PIXEL_ELEMENTS if name in dataset]
    told = [e for e in elements if isinstance(e, RawDataElement) and e.length != _LENGTH_NOT_TOLD]
    return any(element.value_tell + element.length > size for element in told)


def _checked_frame(dataset: Dataset, file: Place, frame: int | None) -> int:
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frame is None and frames > 1:
        raise DataError(f"image {file} has {frames} frames; the table needs one row per frame (column 'frame', from 0)")
    if frame is not None and not 0 <= frame < frames:
        raise DataError(f"image {file} has {frames} frames; there is no frame {frame}")
    return frame or 0


def _refuse_no_range(dataset: Dataset, file: Place, frame: int, window: Window | None) -> None:
    """Nothing, for a grey image whose rescaling and window leave a range of values to show.

    Raises:
        DataError: They do not.
    """
    modality = _with_frame_groups(dataset, frame, "PixelValueTransformationSequence")
    if not modality.get("ModalityLUTSequence"):
        slope, intercept = _number(modality, "RescaleSlope", 1), _number(modality, "RescaleIntercept", 0)
        if not math.isfinite(slope * intercept) or slope == 0:
            raise DataError(
                f"image {file} is a DICOM file whose rescaling (RescaleSlope, RescaleIntercept) is by 0 or by no "
                "number; numbers expected, the slope other than 0"
            )
    voi = _with_frame_groups(dataset, frame, "FrameVOILUTSequence")
    if window is not None or voi.get("VOILUTSequence") or not _has_window(voi):
        return
    centre, width = _number(voi, "WindowCenter", 0), _number(voi, "WindowWidth", 0)
    linear = str(voi.get("VOILUTFunction") or "LINEAR").upper() == "LINEAR"
    if not math.isfinite(centre + width) or not (width >= 1 if linear else width > 0):
        raise DataError(
            f"image {file} is a DICOM file whose window (WindowCenter, WindowWidth) is of no width or no number; "
            "--window CENTRE,WIDTH gives all files another"
        )


def _has_window(voi: Dataset) -> bool:
    """Whether a window is given; an element without a value is none."""
    return voi.get("WindowCenter") is not None


def _number(dataset: Dataset, element: str, default: float) -> float:
    """The first value of an element; NaN where that is no number."""
    try:
        value = dataset.get(element, default)
        return float(value[0] if isinstance(value, MutableSequence) else value)
    except (TypeError, ValueError, IndexError):
        return math.nan


def _grey(
    stored: npt.NDArray[np.generic], dataset: Dataset, frame: int, window: Window | None
) -> npt.NDArray[np.uint8]:
    from pydicom.pixels.processing import apply_modality_lut, apply_voi, apply_windowing

    modality = _with_frame_groups(dataset, frame, "PixelValueTransformationSequence")
    values = apply_modality_lut(stored, modality).astype(np.float64)
    voi = _with_frame_groups(dataset, frame, "FrameVOILUTSequence")
    if window is None and voi.get("VOILUTSequence"):
        bits = int(voi.VOILUTSequence[0].LUTDescriptor[2])
        return _eight_bits(apply_voi(values.astype(np.int64), voi).astype(np.float64), 0, 2**bits - 1)
    if window is not None or _has_window(voi):
        return _eight_bits(apply_windowing(values, _eight_bit_window(voi, window)), 0, 255)
    return _eight_bits(values, *_full_range(modality))


def _with_frame_groups(dataset: Dataset, frame: int, sequence: str) -> Dataset:
    """The elements of a frame: of its own functional group, else the shared one, else the data set's."""
    for groups, position in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        found = dataset.get(groups)
        if found and len(found) > position and found[position].get(sequence):
            item = found[position].get(sequence)[0]
            for element in ("PhotometricInterpretation", "BitsStored", "PixelRepresentation"):
                setattr(item, element, dataset.get(element))
            chosen: Dataset = item
            return chosen
    return dataset


def _eight_bit_window(voi: Dataset, window: Window | None) -> Dataset:
    """What ``apply_windowing`` reads, so that its result fills 0 to 255."""
    from pydicom import Dataset

    made = Dataset()
    made.PhotometricInterpretation, made.BitsStored, made.PixelRepresentation = "MONOCHROME2", 8, 0
    if window is not None:
        made.WindowCenter, made.WindowWidth = window
        return made
    made.WindowCenter, made.WindowWidth = voi.WindowCenter, voi.WindowWidth
    if voi.get("VOILUTFunction"):
        made.VOILUTFunction = voi.VOILUTFunction
    return made


def _full_range(dataset: Dataset) -> tuple[float, float]:
    """The rescaled values of the smallest and the largest number that the stored bits can hold."""
    if dataset.get("ModalityLUTSequence"):
        return 0.0, 2.0 ** int(dataset.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
    bits, signed = int(dataset.BitsStored), int(dataset.get("PixelRepresentation") or 0)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
    ends = sorted((low * slope + intercept, high * slope + intercept))
    return ends[0], ends[1]


def _eight_bits(values: npt.NDArray[np.float64], low: float, high: float) -> npt.NDArray[np.uint8]:
    scaled = np.rint((values - low) * (255.0 / (high - low)))
    return np.clip(scaled, 0, 255).astype(np.uint8)
