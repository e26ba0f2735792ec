from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from search_spaces.exceptions import DataError, UserError
from trainables.pixels import Colour, image_size, read_mask, read_rgb, shown_size, sixteen_bit_peak

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


def rgb(values):
    return np.repeat(np.asarray(values, dtype=np.uint8)[..., None], 3, axis=2)


def test_the_picture_of_a_camera_file_is_read_without_its_preview(tmp_path):
    picture, preview = (Image.new("RGB", size, colour) for size, colour in (((8, 6), "red"), ((4, 3), "blue")))
    picture.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[preview])
    pixels = read_rgb(tmp_path / "a.jpg")
    assert pixels.shape == (6, 8, 3)
    assert pixels[..., 0].min() > 200 > 60 > pixels[..., 2].max()


def test_bits_that_are_used_become_full_scale(tmp_path):
    values = np.array([[0, 8, 9], [2048, 4094, 4095]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert read_rgb(tmp_path / "a.png", bit_depth=12)[..., 0].tolist() == [[0, 0, 1], [128, 255, 255]]
    np.savez(tmp_path / "a.npz", x=values[None])
    frames = tmp_path / "a.npz#x"
    assert read_rgb(frames, 0, bit_depth=12)[..., 0].tolist() == [[0, 0, 1], [128, 255, 255]]
    assert sixteen_bit_peak(tmp_path / "a.png") == sixteen_bit_peak(frames, 0) == 4095
    with pytest.raises(DataError, match="values up to 4095, above the 11 bits of its task"):
        read_rgb(tmp_path / "a.png", bit_depth=11)
    Image.new("L", (2, 2), 200).save(tmp_path / "b.png")
    assert sixteen_bit_peak(tmp_path / "b.png") is None
    assert read_rgb(tmp_path / "b.png", bit_depth=12).max() == 200


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_grey_becomes_three_channels(tmp_path, suffix):
    Image.fromarray(GREY).save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(read_rgb(tmp_path / f"a.{suffix}"), rgb(GREY))
    assert image_size(tmp_path / f"a.{suffix}") == (4, 3)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_is_divided_by_257(tmp_path, suffix):
    values = np.array([[0, 128, 129, 257], [32768, 65534, 65535, 514]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(read_rgb(tmp_path / f"a.{suffix}"), rgb([[0, 0, 1, 1], [128, 255, 255, 2]]))


def test_white_is_zero_in_sixteen_bits_too(tmp_path):
    values = np.array([[0, 8, 9], [2048, 4094, 4095]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "white.tif", tiffinfo={262: 0})
    Image.fromarray(4095 - values).save(tmp_path / "black.tif")
    with Image.open(tmp_path / "white.tif") as opened:
        assert np.asarray(opened).tolist() == values.tolist(), "Pillow does not heed it"
    shown = read_rgb(tmp_path / "white.tif", bit_depth=12)
    assert shown[..., 0].tolist() == [[255, 255, 254], [127, 0, 0]]
    np.testing.assert_array_equal(shown, read_rgb(tmp_path / "black.tif", bit_depth=12))
    with pytest.raises(DataError, match="values up to 4095, above the 11 bits"):
        read_rgb(tmp_path / "white.tif", bit_depth=11)
    assert sixteen_bit_peak(tmp_path / "white.tif") == 4095
    Image.fromarray(GREY).save(tmp_path / "eight.tif", tiffinfo={262: 0})
    np.testing.assert_array_equal(read_rgb(tmp_path / "eight.tif"), rgb(GREY))


def test_transparency_palette_and_one_bit(tmp_path):
    colour = np.dstack([GREY, GREY // 2, GREY // 3, np.full_like(GREY, 9)])
    Image.fromarray(colour, "RGBA").save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), colour[..., :3])
    palette = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(tmp_path / "p.png")
    assert read_rgb(tmp_path / "p.png").tolist() == [[[10, 20, 30], [40, 50, 60]]]
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "b.png")
    assert read_rgb(tmp_path / "b.png").tolist() == [[[255] * 3, [0] * 3]]


def test_exif_orientation_is_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    Image.fromarray(GREY).save(tmp_path / "a.jpg", exif=exif)
    assert read_rgb(tmp_path / "a.jpg").shape == (3, 4, 3)


def test_npz_frames(tmp_path):
    np.savez(tmp_path / "a.npz", grey=np.stack([GREY, GREY + 1]), colour=rgb(GREY)[None], floats=np.zeros((1, 2, 2)))
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.npz#grey", 1), rgb(GREY + 1))
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.npz#colour", 0), rgb(GREY))
    for path, frame, message in (
        ("a.npz#grey", 2, "has 2 frames"),
        ("a.npz#none", 0, "'none'"),
        ("b.npz#grey", 0, "missing"),
        ("a.npz", 0, "names a frame but no array"),
        ("a.npz#floats", 0, "float64"),
    ):
        with pytest.raises(DataError, match=message):
            read_rgb(tmp_path / path, frame)


def test_npz_is_read_again_when_it_changed(tmp_path):
    import os

    file = tmp_path / "a.npz"
    np.savez(file, grey=GREY[None])
    assert read_rgb(tmp_path / "a.npz#grey", 0)[0, 1, 0] == 20
    np.savez(file, grey=GREY[None] + 1)
    os.utime(file, ns=(1, 1))
    assert read_rgb(tmp_path / "a.npz#grey", 0)[0, 1, 0] == 21


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    Image.fromarray(GREY).resize((400, 300)).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:900])
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(GREY.astype(np.int32) - 5).save(tmp_path / "wide.tif")
    Image.fromarray(GREY).save(tmp_path / "pages.tif", save_all=True, append_images=[Image.fromarray(GREY)])
    for name, message in (
        ("none.png", "missing"),
        ("text.png", "cannot be read"),
        ("cut.jpg", "cannot be decoded"),
        ("float.tif", "floating point"),
        ("wide.tif", "values from -5 to"),
        ("pages.tif", "2 pages"),
    ):
        with pytest.raises(DataError, match=message) as error:
            read_rgb(tmp_path / name)
        assert name in str(error.value)


def test_masks_keep_their_values(tmp_path):
    values = np.array([[0, 1], [300, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == values.tolist()
    Image.fromarray(rgb(GREY)).save(tmp_path / "grey_rgb.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "grey_rgb.png"), GREY)
    Image.fromarray(np.dstack([GREY, GREY, GREY + 1])).save(tmp_path / "colour.png")
    with pytest.raises(DataError, match="one channel"):
        read_mask(tmp_path / "colour.png")
    with pytest.raises(DataError, match="missing"):
        read_mask(tmp_path / "none.png")


def test_pages_of_a_tiff_are_frames(tmp_path):
    pages = [Image.fromarray(GREY + i) for i in range(3)]
    pages[0].save(tmp_path / "p.tif", save_all=True, append_images=pages[1:])
    for i in range(3):
        np.testing.assert_array_equal(read_rgb(tmp_path / "p.tif", i), rgb(GREY + i))
    assert image_size(tmp_path / "p.tif", 2) == (4, 3)
    for frame, message in ((3, "there is no page 3"), (None, "3 pages")):
        with pytest.raises(DataError, match=message):
            image_size(tmp_path / "p.tif", frame)


def test_every_page_is_held_to_the_limit(tmp_path, monkeypatch):
    Image.new("L", (4, 3)).save(tmp_path / "p.tif", save_all=True, append_images=[Image.new("L", (40, 30))])
    monkeypatch.setenv("SCALECURVES_MAX_PIXELS", "100")
    assert image_size(tmp_path / "p.tif", 0) == (4, 3)
    for read in (image_size, read_rgb, sixteen_bit_peak):
        with pytest.raises(DataError, match="40 x 30, 1200 pixels, above the limit of 100"):
            read(tmp_path / "p.tif", 1)


def test_grey_and_colour_by_declaration(tmp_path):
    colour = np.dstack([GREY, GREY // 2, GREY // 3])
    Image.fromarray(colour).save(tmp_path / "c.png")
    Image.fromarray(GREY).save(tmp_path / "g.png")
    luma = np.asarray(Image.fromarray(colour).convert("L"))
    np.testing.assert_array_equal(read_rgb(tmp_path / "c.png", colour=Colour.GREY), rgb(luma))
    np.testing.assert_array_equal(read_rgb(tmp_path / "g.png", colour=Colour.GREY), rgb(GREY))
    np.testing.assert_array_equal(read_rgb(tmp_path / "c.png", colour=Colour.RGB), colour)
    with pytest.raises(DataError, match="is grey; its task declares colour"):
        read_rgb(tmp_path / "g.png", colour=Colour.RGB)


@pytest.mark.parametrize("read", [read_rgb, read_mask, image_size, sixteen_bit_peak])
def test_more_pixels_than_the_limit_are_not_decoded(tmp_path, monkeypatch, read):
    Image.new("1", (20_000, 15_000)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 100_000
    with pytest.raises(DataError, match=r"20000 x 15000, 300000000 pixels, above the limit of 200000000"):
        read(tmp_path / "bomb.png")
    monkeypatch.setenv("SCALECURVES_MAX_PIXELS", "300000000")
    assert image_size(tmp_path / "bomb.png") == (20_000, 15_000)
    monkeypatch.setenv("SCALECURVES_MAX_PIXELS", "many")
    with pytest.raises(UserError, match="SCALECURVES_MAX_PIXELS is 'many'"):
        read(tmp_path / "bomb.png")


@pytest.mark.parametrize("read", [read_rgb, image_size, sixteen_bit_peak])
def test_frames_above_the_limit_are_not_decompressed(tmp_path, monkeypatch, read):
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros((2, 300, 400), np.uint8))
    monkeypatch.setattr(np.lib.format, "read_array", lambda *_args, **_kwargs: pytest.fail("it is decompressed"))
    monkeypatch.setenv("SCALECURVES_MAX_PIXELS", "100000")
    with pytest.raises(DataError, match=r"bomb.npz#x is 400 x 300, 120000 pixels, above the limit of 100000 "):
        read(tmp_path / "bomb.npz#x", 1)


def test_a_damaged_npz_file_is_named(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.arange(5000, dtype=np.uint16).reshape(1, 50, 100) * 13)
    whole = (tmp_path / "a.npz").read_bytes()
    for damaged in (whole[:300], whole[:200] + b"12345678" + whole[208:]):
        (tmp_path / "a.npz").write_bytes(damaged)
        with pytest.raises(DataError, match=r"'x' of .*a.npz cannot be read"):
            read_rgb(tmp_path / "a.npz#x", 0)


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        (np.float32, "holds floating point values; 8 or 16 bit expected"),
        (np.int32, "holds numbers of 32 bits; 8 or 16 bit expected"),
    ],
)
def test_files_of_other_numbers_are_known_by_their_header_and_may_be_masks(tmp_path, dtype, message):
    Image.fromarray(GREY.astype(dtype)).save(tmp_path / "deep.tif")
    with pytest.raises(DataError, match=f"deep.tif {message}"):
        shown_size(tmp_path / "deep.tif")
    assert image_size(tmp_path / "deep.tif") == (4, 3)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_files_of_usual_depths_can_be_shown(tmp_path, mode):
    Image.new(mode, (4, 3)).save(tmp_path / "a.tif")
    assert shown_size(tmp_path / "a.tif") == (4, 3)
    assert read_rgb(tmp_path / "a.tif").shape == (3, 4, 3)
