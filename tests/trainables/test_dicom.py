from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search_spaces.exceptions import DataError
from tests.trainables.dicom_files import PATIENT_NAME, write_dicom
from trainables.dicom import dicom_size, is_dicom
from trainables.pixels import Colour, image_size, read_mask, read_rgb, shown_size, sixteen_bit_peak

pytest.importorskip("pydicom")
RAMP = np.arange(0, 4096, 1, dtype=np.uint16).reshape(64, 64)
HOUNSFIELD = {"RescaleSlope": "1", "RescaleIntercept": "-1024", "BitsStored": 12, "HighBit": 11}


def test_a_window_of_rescaled_values_fills_black_to_white(tmp_path):
    file = write_dicom(tmp_path / "a.dcm", RAMP, WindowCenter="40", WindowWidth="400", **HOUNSFIELD)
    grey = read_rgb(file)[..., 0]
    hounsfield = RAMP.astype(float) - 1024
    # DICOM PS3.3 C.11.2.1.2.1: between c - 0.5 - (w - 1) / 2 and c - 0.5 + (w - 1) / 2
    expected = np.clip(((hounsfield - 39.5) / 399 + 0.5) * 255, 0, 255)
    assert np.abs(grey - expected).max() <= 0.5
    assert grey[hounsfield <= -160].max() == 0
    assert grey[hounsfield >= 240].min() == 255
    assert image_size(file) == (64, 64)
    assert sixteen_bit_peak(file) is None


def test_a_declared_window_is_used_in_place_of_the_files_own(tmp_path):
    file = write_dicom(tmp_path / "a.dcm", RAMP, WindowCenter="40", WindowWidth="400", **HOUNSFIELD)
    wide = read_rgb(file, window=(0, 2000))[..., 0]
    assert 0 < wide[RAMP == 1024 - 300].min() < 127 < wide[RAMP == 1024 + 300].min() < 255


def test_without_a_window_the_stored_bits_are_the_range(tmp_path):
    file = write_dicom(tmp_path / "a.dcm", RAMP, **HOUNSFIELD)
    np.testing.assert_array_equal(read_rgb(file)[..., 0], np.rint(RAMP / 4095 * 255))
    empty = write_dicom(tmp_path / "c.dcm", RAMP, WindowCenter=None, WindowWidth=None, **HOUNSFIELD)
    np.testing.assert_array_equal(read_rgb(empty), read_rgb(file))
    assert shown_size(empty) == (64, 64)
    signed = write_dicom(tmp_path / "b.dcm", np.array([[-32768, 0], [32767, 1]], dtype=np.int16))
    assert read_rgb(signed)[..., 0].tolist() == [[0, 128], [255, 128]]


def test_monochrome1_is_inverted(tmp_path):
    values = np.array([[0, 255], [10, 200]], dtype=np.uint8)
    file = write_dicom(tmp_path / "a.dcm", values, PhotometricInterpretation="MONOCHROME1")
    assert read_rgb(file)[..., 0].tolist() == (255 - values).tolist()
    assert read_mask(file).tolist() == values.tolist()  # masks are as stored


def test_a_voi_table_goes_before_a_window(tmp_path):
    from pydicom.dataset import Dataset

    table = Dataset()
    table.LUTDescriptor = [4, 0, 8]
    table.LUTData = [0, 255, 128, 64]
    values = np.array([[0, 1], [2, 3]], dtype=np.uint8)
    file = write_dicom(tmp_path / "a.dcm", values, WindowCenter="1", WindowWidth="2")
    import pydicom

    dataset = pydicom.dcmread(file)
    dataset.VOILUTSequence = [table]
    dataset["VOILUTSequence"].value[0]["LUTData"].VR = "US"
    dataset.save_as(file)
    assert read_rgb(file)[..., 0].tolist() == [[0, 255], [128, 64]]


def test_colour_palette_and_declared_grey(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    file = write_dicom(tmp_path / "a.dcm", rgb)
    np.testing.assert_array_equal(read_rgb(file), rgb)
    assert (np.ptp(read_rgb(file, colour=Colour.GREY), axis=2) == 0).all()
    with pytest.raises(DataError, match="is grey; its task declares colour"):
        read_rgb(write_dicom(tmp_path / "g.dcm", rgb[..., 0]), colour=Colour.RGB)


def test_frames(tmp_path):
    frames = np.stack([np.full((4, 6), 60 * i, dtype=np.uint8) for i in range(3)])
    file = write_dicom(tmp_path / "a.dcm", frames, NumberOfFrames=3)
    assert [int(read_rgb(file, frame).max()) for frame in range(3)] == [0, 60, 120]
    assert dicom_size(file, 2) == (6, 4)
    for frame, message in ((None, "one row per frame"), (3, "there is no frame 3")):
        with pytest.raises(DataError, match=message):
            read_rgb(file, frame)
        with pytest.raises(DataError, match=message):
            image_size(file, frame)


@pytest.mark.parametrize("name", ["1.2.840.113", "scan", "scan#2.dcm"])
def test_frames_of_files_whose_names_end_in_anything(tmp_path, name):
    frames = np.stack([np.full((4, 6), 60 * i, dtype=np.uint8) for i in range(3)])
    file = write_dicom(tmp_path / name, frames, NumberOfFrames=3)
    assert [int(read_rgb(file, frame).max()) for frame in range(3)] == [0, 60, 120]
    assert image_size(file, 1) == (6, 4)


def test_frames_with_windows_of_their_own(tmp_path):
    from pydicom.dataset import Dataset

    def group(centre):
        window, item = Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth = centre, "3"
        item.FrameVOILUTSequence = [window]
        return item

    frames = np.stack([np.array([[9, 10], [11, 20]], dtype=np.uint8)] * 2)
    file = write_dicom(
        tmp_path / "a.dcm", frames, NumberOfFrames=2, PerFrameFunctionalGroupsSequence=[group("10.5"), group("100")]
    )
    assert read_rgb(file, 0)[..., 0].tolist() == [[0, 128], [255, 255]]
    assert read_rgb(file, 1).max() == 0


@pytest.mark.parametrize("name", ["examples_jpeg2k.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm"])
def test_compressed_files_are_decoded(name):
    from pydicom.data import get_testdata_file

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = get_testdata_file(name, download=False)
    if file is None:
        pytest.skip("not among pydicom's own files")
    pixels = read_rgb(Path(file))
    assert pixels.std() > 5
    assert pixels.shape[:2] == image_size(Path(file))[::-1]


def test_lossless_compression_changes_nothing():
    from pydicom.data import get_testdata_file

    plain, packed = (Path(str(get_testdata_file(n, download=False))) for n in ("MR_small.dcm", "MR_small_RLE.dcm"))
    np.testing.assert_array_equal(read_rgb(plain), read_rgb(packed))


def waves(dtype=np.uint8):
    rows, columns = np.mgrid[:48, :64]
    return ((100 + 60 * np.sin(columns / 9) + 40 * np.cos(rows / 7)) * np.iinfo(dtype).max / 255).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    "syntax", ["JPEGLosslessProcess14", "JPEGLosslessProcess14_1", "JPEGLSLossless", "RLELossless", "JPEG2000Lossless"]
)
def test_what_scanners_and_archives_compress_without_loss_is_read_as_it_was(tmp_path, syntax, dtype):
    gdcm = pytest.importorskip("gdcm", reason="packs what pydicom cannot")
    plain, packed = write_dicom(tmp_path / "plain.dcm", waves(dtype)), tmp_path / "packed.dcm"
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(plain))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(packed))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    np.testing.assert_array_equal(read_rgb(packed), read_rgb(plain))
    assert np.ptp(read_rgb(packed)) > 150


@pytest.mark.parametrize(("pixels", "most"), [(waves(), 2), (np.stack([waves(), 255 - waves(), waves()], -1), 8)])
def test_jpeg_inside_is_decoded_in_its_colours(tmp_path, pixels, most):
    from pydicom import dcmread
    from pydicom.encaps import encapsulate

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=95)
    dataset = dcmread(write_dicom(tmp_path / "a.dcm", pixels))
    dataset.PixelData = encapsulate([stream.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.50"
    if pixels.ndim == 3:
        dataset.PhotometricInterpretation = "YBR_FULL_422"
    dataset.save_as(tmp_path / "b.dcm", enforce_file_format=True)
    expected = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, -1)
    assert np.abs(read_rgb(tmp_path / "b.dcm").astype(int) - expected).max() <= most


def broken_files(folder):
    whole = write_dicom(folder / "whole.dcm", RAMP)
    cut = folder / "cut.dcm"
    cut.write_bytes(whole.read_bytes()[:-3000])
    head = folder / "head.dcm"
    head.write_bytes(whole.read_bytes()[:200])
    text = folder / "text.dcm"
    text.write_text(f"no DICOM file, but {PATIENT_NAME}")
    packed = write_dicom(folder / "packed.dcm", RAMP)
    data = packed.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.4\0")
    packed.write_bytes(data)
    return {
        "empty.dcm": (write_dicom(folder / "empty.dcm", None), "without pixel data"),
        "cut.dcm": (cut, "damaged, cut short"),
        "head.dcm": (head, "DICOM"),
        "text.dcm": (text, "damaged or no DICOM file"),
        "packed.dcm": (packed, "DICOM"),
        "window.dcm": (
            write_dicom(folder / "window.dcm", RAMP, WindowCenter="1", WindowWidth="0"),
            "DICOM file whose window",
        ),
        "none.dcm": (folder / "none.dcm", "is missing"),
    }


@pytest.mark.parametrize("name", ["empty", "cut", "head", "text", "packed", "window", "none"])
def test_broken_files_are_named_and_their_headers_are_not_told(tmp_path, name, caplog, capsys):
    file, message = broken_files(tmp_path)[f"{name}.dcm"]
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(DataError, match=message) as error:
            read_rgb(file)
    chain = [error.value, error.value.__cause__]
    seen = capsys.readouterr()
    told = [str(e) for e in chain] + [r.getMessage() for r in caplog.records] + [str(w.message) for w in caught]
    assert PATIENT_NAME not in " ".join([*told, seen.out, seen.err])
    assert error.value.__cause__ is None
    assert name in str(error.value)


def test_files_without_a_suffix_are_known_by_their_preamble(tmp_path):
    file = write_dicom(tmp_path / "1.2.3", RAMP)
    assert is_dicom(file)
    assert read_rgb(file).shape == (64, 64, 3)
    assert not is_dicom(tmp_path / "nothing")


def test_a_header_that_promises_too_much_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALECURVES_MAX_PIXELS", "1000")
    file = write_dicom(tmp_path / "a.dcm", RAMP)
    for read in (read_rgb, image_size):
        with pytest.raises(DataError, match=r"64 x 64, 4096 pixels, above the limit of 1000 .*SCALECURVES_MAX_PIXELS"):
            read(file)


PLACEHOLDER = "12345678"

UNSHOWN = {
    "no width": ({"WindowCenter": "1", "WindowWidth": "0"}, "window"),
    "no width given": ({"WindowCenter": "1"}, "window"),
    "narrower than linear": ({"WindowCenter": "1", "WindowWidth": "0.5"}, "window"),
    "no centre": ({"WindowCenter": PLACEHOLDER, "WindowWidth": "400"}, "window"),
    "several": ({"WindowCenter": ["1", "2"], "WindowWidth": ["0", "10"]}, "window"),
    "slope 0": ({"RescaleSlope": "0", "RescaleIntercept": "5"}, "rescaling"),
    "no slope": ({"RescaleSlope": PLACEHOLDER, "RescaleIntercept": "5"}, "rescaling"),
    "endless": ({"RescaleSlope": "1", "RescaleIntercept": PLACEHOLDER}, "rescaling"),
}


def write_unshown(file, elements, text):
    """Placeholders become a text that pydicom does not write, as it is no number."""
    write_dicom(file, RAMP, **elements)
    file.write_bytes(file.read_bytes().replace(PLACEHOLDER.encode(), text.ljust(len(PLACEHOLDER)).encode()))
    return file


@pytest.mark.parametrize("text", ["nan", "inf", "none", ""])
@pytest.mark.parametrize("name", UNSHOWN)
def test_values_without_a_range_are_known_by_the_header(tmp_path, name, text):
    elements, what = UNSHOWN[name]
    file = write_unshown(tmp_path / "a.dcm", elements, text)
    for read in (shown_size, read_rgb):
        with pytest.raises(DataError, match=rf"a.dcm is a DICOM file whose {what} \("):
            read(file)
    assert image_size(file) == (64, 64)
    if what == "window":
        assert shown_size(file, window=(40, 400)) == (64, 64)
        assert read_rgb(file, window=(40, 400)).shape == (64, 64, 3)


@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
def test_a_narrow_window_can_be_shown_if_it_is_not_linear(tmp_path, function):
    file = write_dicom(tmp_path / "a.dcm", RAMP, WindowCenter="9", WindowWidth="0.5", VOILUTFunction=function)
    assert shown_size(file) == (64, 64)
    assert len(np.unique(read_rgb(file))) > 1
