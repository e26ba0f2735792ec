"""Small DICOM files for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

PATIENT_NAME = "Zzyzx^Quentin"
"""In every header: must turn up nowhere else."""


EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"


def write_dicom(file: Path, pixels: npt.NDArray[Any] | None, **elements: Any) -> Path:
    """A secondary-capture file: (H, W) or (H, W, 3), or (frames, H, W) with ``NumberOfFrames``; none without pixels."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import generate_uid

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = EXPLICIT_LITTLE_ENDIAN
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid(entropy_srcs=[str(file)])
    dataset.PatientName, dataset.PatientID = PATIENT_NAME, PATIENT_NAME
    if pixels is not None:
        colour = pixels.ndim == 3 and pixels.shape[-1] == 3
        dataset.Rows, dataset.Columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
        dataset.SamplesPerPixel = 3 if colour else 1
        dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
        if colour:
            dataset.PlanarConfiguration = 0
        dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
        dataset.HighBit = dataset.BitsStored - 1
        dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
        dataset.PixelData = np.ascontiguousarray(pixels).tobytes()
        if len(dataset.PixelData) % 2:
            dataset.PixelData += b"\0"
    for name, value in elements.items():
        setattr(dataset, name, value)
    file.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(file, enforce_file_format=True)
    return file
