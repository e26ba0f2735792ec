"""Each operator against torchvision on single images, and the distribution of what is drawn."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torchvision.transforms import RandomCrop, RandomResizedCrop
from torchvision.transforms.v2 import ElasticTransform, RandomErasing
from torchvision.transforms.v2 import functional as reference

from search_spaces.protocol import Augmentation
from search_spaces.study import Normalisation
from trainables.augmentation import Augment, EvaluationTransform, oversampling
from trainables.augmentation_draws import Draws, draw
from trainables.distortion import elastic_displacement

CPU = torch.device("cpu")
IDENTITY = Normalisation(mean=(0, 0, 0), std=(1, 1, 1))
OFF = Augmentation(crop_scale=(1, 1), crop_ratio=(1, 1), horizontal_flip=0)
EVERYTHING = Augmentation(
    vertical_flip=0.5, rotation_degrees=30, brightness=0.3, contrast=0.3, saturation=0.4, hue=0.2, grid_distortion=0.3,
    elastic=0.02, erasing=0.7,
)  # fmt: skip
SIDES = (64, 56)
"""Of the stored image and of the output, in pixels."""


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _images(batch=4, side=32, seed=0):
    """Smooth images, so that half a pixel of difference shows as a small number and a wrong operator as a large one."""
    rough = torch.rand(batch, 3, 9, 9, generator=_generator(seed))
    smooth = torch.nn.functional.interpolate(rough, size=(side, side), mode="bicubic", align_corners=False)
    return (smooth.clamp(0, 1) * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _draws(batch=4, **changes):
    values = {"centre_x": 0.5, "centre_y": 0.5, "width": 1.0, "height": 1.0, "flip_x": 1.0, "flip_y": 1.0}
    values |= {"angle": 0.0, "brightness": 1.0, "contrast": 1.0} | changes
    return Draws(**{k: torch.as_tensor(v, dtype=torch.float64).expand(batch).clone() for k, v in values.items()})


def _apply(monkeypatch, draws, images, size, augmentation=OFF):
    """The pixels in 0..255, double precision, of fixed parameters."""
    monkeypatch.setattr("trainables.augmentation.draw", lambda *_: draws)
    augment = Augment(augmentation, size, IDENTITY, CPU, dtype=torch.float64)
    return augment(images, _generator()) * 255


def _planar(images):
    return images.permute(0, 3, 1, 2).double()


@pytest.mark.parametrize("pieces", [1, 3, 7])
def test_a_batch_made_in_pieces_is_the_same(monkeypatch, pieces):
    stored, size = SIDES
    whole = Augment(EVERYTHING, size, IDENTITY, CPU)(_images(7, stored), _generator())
    monkeypatch.setattr("trainables.augmentation.CPU_PIECE", -(-7 // pieces) * size**2 // torch.get_num_threads() + 1)
    in_pieces = Augment(EVERYTHING, size, IDENTITY, CPU)
    assert len(in_pieces._pieces(7)) == pieces
    torch.testing.assert_close(in_pieces(_images(7, stored), _generator()), whole)


@pytest.mark.parametrize(("top", "left", "height", "width"), [(0, 0, 32, 32), (3, 5, 20, 24), (8, 0, 16, 17)])
def test_crop_equals_resized_crop(monkeypatch, top, left, height, width):
    images = _images()
    box = {"centre_x": (left + width / 2) / 32, "centre_y": (top + height / 2) / 32}
    draws = _draws(**box, width=width / 32, height=height / 32)
    ours = _apply(monkeypatch, draws, images, 16)
    theirs = reference.resized_crop(_planar(images), top, left, height, width, [16, 16], antialias=False)
    # A crop of 20 pixels to 16 is sampled once per output pixel in both.
    monkeypatch.setattr("trainables.augmentation.oversampling", lambda *_: 1)
    exact = _apply(monkeypatch, draws, images, 16)
    torch.testing.assert_close(exact, theirs, rtol=0, atol=1e-6)
    # With oversampling it stays close, as the images are smooth.
    assert (ours - theirs).abs().mean() < 4


@pytest.mark.parametrize("flip", ["x", "y"])
def test_flips_equal_torchvision_exactly(monkeypatch, flip):
    images = _images(side=16)
    ours = _apply(monkeypatch, _draws(**{f"flip_{flip}": -1.0}), images, 16)
    flipped = reference.horizontal_flip(_planar(images)) if flip == "x" else reference.vertical_flip(_planar(images))
    torch.testing.assert_close(ours, flipped, rtol=0, atol=1e-9)


@pytest.mark.parametrize("degrees", [10.0, -35.0, 90.0])
def test_rotation_equals_torchvision_inside_the_image(monkeypatch, degrees):
    images = _images(side=33)
    ours = _apply(monkeypatch, _draws(angle=math.radians(degrees)), images, 33)
    theirs = reference.rotate(_planar(images), degrees, interpolation=reference.InterpolationMode.BILINEAR)
    torch.testing.assert_close(ours[..., 10:23, 10:23], theirs[..., 10:23, 10:23], rtol=0, atol=1e-3)


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.7])
def test_brightness_and_contrast_equal_torchvision(monkeypatch, factor):
    images = _images(side=16)
    float_images = _planar(images) / 255
    bright = _apply(monkeypatch, _draws(brightness=factor), images, 16, OFF.model_copy(update={"brightness": 0.5}))
    torch.testing.assert_close(bright / 255, reference.adjust_brightness(float_images, factor), rtol=0, atol=1e-9)
    contrast = _apply(monkeypatch, _draws(contrast=factor), images, 16, OFF.model_copy(update={"contrast": 0.5}))
    expected = torch.stack([reference.adjust_contrast(image, factor) for image in float_images])
    torch.testing.assert_close(contrast / 255, expected, rtol=0, atol=2e-4)  # their grey weights have three digits


def test_a_sample_does_not_depend_on_its_neighbours(monkeypatch):
    images, augmentation = _images(6), EVERYTHING.model_copy(update={"elastic": 0.0})
    draws = draw(augmentation, 6, _generator(), *SIDES)
    together = _apply(monkeypatch, draws, images, 16, augmentation)
    for k in range(6):
        drawn = {name: getattr(draws, name) for name in Draws.__slots__}
        one = Draws(**{name: None if value is None else value[k : k + 1] for name, value in drawn.items()})
        alone = _apply(monkeypatch, one, images[k : k + 1], 16, augmentation)
        torch.testing.assert_close(together[k : k + 1], alone, rtol=0, atol=1e-9)


def test_oversampling_comes_near_antialiased_resizing_where_one_sample_does_not(monkeypatch):
    images = torch.randint(0, 256, (8, 128, 128, 3), dtype=torch.uint8, generator=_generator())
    theirs = reference.resize(_planar(images), [32, 32], antialias=True)
    ours = _apply(monkeypatch, _draws(8), images, 32)
    monkeypatch.setattr("trainables.augmentation.oversampling", lambda *_: 1)
    aliased = _apply(monkeypatch, _draws(8), images, 32)
    assert (ours - theirs).std() < 0.5 * (aliased - theirs).std()
    torch.testing.assert_close(ours, torch.nn.functional.avg_pool2d(_planar(images), 4), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("stored", "size", "expected"), [(256, 224, 1), (37, 32, 1), (32, 32, 1), (64, 32, 2), (128, 32, 4)]
)
def test_samples_per_pixel(stored, size, expected):
    assert oversampling(stored, size) == expected


def test_crops_are_distributed_as_those_of_torchvision():
    augmentation = Augmentation(crop_scale=(0.2, 1.0), crop_ratio=(0.6, 5 / 3))
    ours = draw(augmentation, 4000, _generator(), *SIDES)
    side = 2000
    torch.manual_seed(1)
    canvas = torch.empty(1, side, side)
    boxes = np.array([RandomResizedCrop.get_params(canvas, (0.2, 1.0), (0.6, 5 / 3)) for _ in range(4000)]) / side
    top, left, height, width = boxes.T
    pairs = {
        "width": (ours.width, width),
        "height": (ours.height, height),
        "centre_x": (ours.centre_x, left + width / 2),
        "centre_y": (ours.centre_y, top + height / 2),
        "area": (ours.width * ours.height, width * height),
        "ratio": (ours.width / ours.height, width / height),
    }
    for name, (mine, theirs) in pairs.items():
        assert stats.ks_2samp(mine.numpy(), theirs).pvalue > 1e-3, name


def test_boxes_stay_inside_and_ranges_are_kept():
    augmentation = Augmentation(crop_scale=(0.3, 1.0), rotation_degrees=15, brightness=0.2, contrast=0.4)
    d = draw(augmentation, 2000, _generator(3), *SIDES)
    for centre, length in ((d.centre_x, d.width), (d.centre_y, d.height)):
        assert (centre - length / 2).min() >= -1e-12
        assert (centre + length / 2).max() <= 1 + 1e-12
    area = d.width * d.height
    assert 0.3 <= area.min() < 0.35
    assert 0.9 < area.max() <= 1
    assert d.angle.abs().max() <= math.radians(15)
    for value, width in ((d.angle / math.radians(15), 1.0), ((d.brightness - 1) / 0.2, 1), ((d.contrast - 1) / 0.4, 1)):
        assert stats.kstest(value.numpy(), stats.uniform(-width, 2 * width).cdf).pvalue > 1e-3


def test_flip_probability_and_independence():
    d = draw(Augmentation(horizontal_flip=0.3, vertical_flip=0.5), 5000, _generator(4), *SIDES)
    assert (d.flip_x < 0).double().mean() == pytest.approx(0.3, abs=0.025)
    assert (d.flip_y < 0).double().mean() == pytest.approx(0.5, abs=0.025)
    assert abs(np.corrcoef(d.flip_x, d.flip_y)[0, 1]) < 0.05


def test_switching_one_operator_moves_no_other_draw():
    first, second = (draw(Augmentation(rotation_degrees=angle), 50, _generator(), *SIDES) for angle in (0, 45))
    assert torch.equal(first.centre_x, second.centre_x)
    assert torch.equal(first.flip_x, second.flip_x)
    assert not torch.equal(first.angle, second.angle)
    everything = draw(EVERYTHING, 50, _generator(), *SIDES)
    assert torch.equal(first.centre_x, everything.centre_x)
    later = {"saturation": "saturation", "hue": "hue", "erasing": "erased", "grid_distortion": "cells"}
    for off, name in later.items():
        fewer = draw(EVERYTHING.model_copy(update={off: 0.0}), 50, _generator(), *SIDES)
        assert getattr(fewer, name) is None
        for other in set(later.values()) - {name}:
            assert torch.equal(getattr(fewer, other), getattr(everything, other))


def test_an_impossible_ratio_falls_back_to_the_largest_box():
    d = draw(Augmentation(crop_scale=(0.9, 1.0), crop_ratio=(4.0, 5.0)), 8, _generator(), *SIDES)
    assert d.width.tolist() == [1.0] * 8
    assert d.height.tolist() == [0.25] * 8


def test_everything_off_is_the_whole_image_normalised():
    images = _images(side=16)
    normalise = Normalisation(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
    out = Augment(OFF, 16, normalise, CPU)(images, _generator())
    expected = reference.normalize(_planar(images).float() / 255, list(normalise.mean), list(normalise.std))
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)
    assert out.dtype == torch.float32


def test_memory_format_is_as_asked_and_changes_no_value():
    images = _images(side=20)
    plain, last = (
        Augment(Augmentation(), 16, IDENTITY, CPU, channels_last=c)(images, _generator()) for c in (False, True)
    )
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert plain.is_contiguous()
    assert torch.equal(plain, last)


def test_evaluation_without_a_crop_sees_the_whole_image():
    images = _images(2, 32)
    whole = EvaluationTransform(16, IDENTITY, CPU, crop="whole")
    expected = torch.nn.functional.interpolate(_planar(images).float(), size=(16, 16), mode="bilinear", antialias=True)
    torch.testing.assert_close(whole(images) * 255, expected)
    unchanged = EvaluationTransform(32, IDENTITY, CPU, crop="whole")
    torch.testing.assert_close(unchanged(images) * 255, _planar(images).float())


@pytest.mark.parametrize(("stored", "size"), [(256, 224), (37, 32), (8, 7)])
def test_evaluation_of_a_store_of_8_7_is_a_plain_centre_crop(stored, size):
    images = _images(2, stored)
    out = EvaluationTransform(size, IDENTITY, CPU)(images) * 255
    start = (stored - size) // 2
    expected = _planar(images)[..., start : start + size, start : start + size].float()
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-4)


def test_evaluation_of_a_larger_store_is_an_antialiased_centre_crop():
    images = _images(2, 128)
    out = EvaluationTransform(32, IDENTITY, CPU)(images) * 255
    expected = reference.resize(reference.center_crop(_planar(images).float(), [112, 112]), [32, 32], antialias=True)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-3)


def test_evaluation_of_a_store_of_the_input_size_is_the_whole_image():
    images = _images(2, 16)
    torch.testing.assert_close(EvaluationTransform(16, IDENTITY, CPU)(images) * 255, _planar(images).float())


def test_a_fixed_crop_is_a_piece_of_the_stored_image(monkeypatch):
    images = _images(64, side=20)
    fixed = OFF.model_copy(update={"crop": "fixed"})
    draws = draw(fixed, 64, _generator(), 20, 14)
    ours = _apply(monkeypatch, draws, images, 14, fixed)
    lefts, tops = ((20 * (centre - 0.35)).round().int().tolist() for centre in (draws.centre_x, draws.centre_y))
    for k, (left, top) in enumerate(zip(lefts, tops, strict=True)):
        expected = _planar(images)[k, :, top : top + 14, left : left + 14]
        torch.testing.assert_close(ours[k], expected, rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match="of 14 px does not fit stored images of 12 px"):
        draw(fixed, 2, _generator(), 12, 14)


def test_fixed_crops_are_as_often_at_every_place_as_those_of_torchvision():
    drawn = draw(OFF.model_copy(update={"crop": "fixed"}), 4900, _generator(), 10, 4)
    lefts, tops = ((10 * (centre - 0.2)).round().int() for centre in (drawn.centre_x, drawn.centre_y))
    ours = torch.bincount(lefts * 7 + tops, minlength=49).numpy()
    torch.manual_seed(1)
    boxes = [RandomCrop.get_params(torch.empty(1, 10, 10), (4, 4)) for _ in range(4900)]
    theirs = np.bincount([left * 7 + top for top, left, _, _ in boxes], minlength=49)
    assert stats.chisquare(ours).pvalue > 1e-3
    assert stats.chi2_contingency([ours, theirs]).pvalue > 1e-3


@pytest.mark.parametrize("value", [-0.4, 0.0, 0.1, 0.3])
def test_saturation_and_hue_equal_torchvision(monkeypatch, value):
    images = _images(side=16)
    float_images = _planar(images) / 255
    coloured = _apply(monkeypatch, _draws(saturation=1 + value), images, 16)
    expected = reference.adjust_saturation(float_images, 1 + value)
    torch.testing.assert_close(coloured / 255, expected, rtol=0, atol=2e-4)  # their grey weights have three digits
    turned = _apply(monkeypatch, _draws(hue=value), images, 16)
    torch.testing.assert_close(turned / 255, reference.adjust_hue(float_images, value), rtol=0, atol=2e-6)


def test_grey_images_have_no_hue_to_turn(monkeypatch):
    images = _images(side=16)[..., :1].expand(-1, -1, -1, 3).contiguous()
    ours = _apply(monkeypatch, _draws(hue=0.3, saturation=0.2), images, 16)
    torch.testing.assert_close(ours, _planar(images), rtol=0, atol=0.03)  # the grey weights sum to 0.9999


def test_colour_ranges_are_kept():
    d = draw(EVERYTHING, 3000, _generator(5), *SIDES)
    for value in ((d.saturation - 1) / 0.4, d.hue / 0.2):
        assert stats.kstest(value.numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3


def test_erased_boxes_are_distributed_as_those_of_torchvision():
    augmentation = OFF.model_copy(update={"erasing": 0.6})
    boxes = draw(augmentation, 4000, _generator(), 64, 56).erased.numpy()
    erased = boxes[:, 2] > 0
    assert erased.mean() == pytest.approx(0.6, abs=0.03)
    left, top, right, bottom = boxes[erased].T
    torch.manual_seed(0)
    canvas = torch.zeros(3, 56, 56)
    their = RandomErasing(p=1.0, scale=(0.02, 1 / 3), ratio=(0.3, 10 / 3))
    theirs = [their.make_params([canvas]) for _ in range(len(left))]
    pairs = {
        "width": (right - left, [p["w"] for p in theirs]),
        "height": (bottom - top, [p["h"] for p in theirs]),
        "left": (left, [p["j"] for p in theirs]),
        "top": (top, [p["i"] for p in theirs]),
    }
    for name, (mine, other) in pairs.items():
        assert stats.ks_2samp(mine, other).pvalue > 1e-3, name
    assert boxes.min() >= 0
    assert boxes.max() <= 56


def test_erasing_equals_torchvision_and_paints_the_mean_colour(monkeypatch):
    images, normalise = _images(side=16), Normalisation(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
    boxes = torch.tensor([[2, 3, 9, 5], [0, 0, 0, 0], [0, 0, 16, 1], [15, 15, 16, 16]], dtype=torch.float64)
    draws = _draws()
    monkeypatch.setattr("trainables.augmentation.draw", lambda *_: dataclasses.replace(draws, erased=boxes))
    ours = Augment(OFF, 16, normalise, CPU)(images, _generator())
    expected = reference.normalize(_planar(images).float() / 255, list(normalise.mean), list(normalise.std))
    for k, (left, top, right, bottom) in enumerate(boxes.int().tolist()):
        expected[k] = reference.erase(expected[k], top, left, bottom - top, right - left, torch.zeros(3, 1, 1))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def _grid_reference(image, across, down, order=1):
    """One image (S, S) whose even cells show the cells of these widths, pixel by pixel."""
    side = len(image)
    centres = (np.arange(side) + 0.5) / side
    even = np.linspace(0, 1, len(across) + 1)
    at_x, at_y = (np.interp(centres, even, np.concatenate([[0], np.cumsum(cells)])) for cells in (across, down))
    places = np.meshgrid(at_y * side - 0.5, at_x * side - 0.5, indexing="ij")
    return ndimage.map_coordinates(image, places, order=order, mode="nearest")


def test_grid_distortion_equals_scipy_with_image_and_mask_together():
    augmentation = OFF.model_copy(update={"grid_distortion": 0.5, "grid_cells": 4})
    images = _images(3, side=24)
    masks = (images[..., 0] // 64).contiguous()
    cells = draw(augmentation, 3, _generator(), 24, 24).cells.numpy()
    augment = Augment(augmentation, 24, IDENTITY, CPU, dtype=torch.float64)
    pixels, moved = augment.with_masks(images, masks, _generator())
    assert torch.equal(pixels, augment(images, _generator()))
    for k in range(3):
        expected = _grid_reference(images[k, ..., 1].double().numpy(), *cells[k])
        np.testing.assert_allclose(pixels[k, 1].numpy() * 255, expected, atol=1e-6)
        assert np.array_equal(moved[k].numpy(), _grid_reference(masks[k].numpy(), *cells[k], order=0))
    assert set(moved.unique().tolist()) <= set(masks.unique().tolist())


def test_widths_of_cells_are_drawn_uniformly_and_fill_the_image():
    augmentation = OFF.model_copy(update={"grid_distortion": 0.5, "grid_cells": 2})
    cells = draw(augmentation, 4000, _generator(), *SIDES).cells
    torch.testing.assert_close(cells.sum(2), torch.ones(4000, 2, dtype=torch.float64))
    rng = np.random.default_rng(0)
    widths = 1 + 0.5 * (2 * rng.random((4000, 2)) - 1)
    first = widths[:, 0] / widths.sum(1)
    for axis in range(2):
        assert stats.ks_2samp(cells[:, axis, 0].numpy(), first).pvalue > 1e-3
    assert abs(np.corrcoef(cells[:, 0, 0], cells[:, 1, 0])[0, 1]) < 0.06


def test_elastic_distortion_equals_torchvision_with_image_and_mask_together():
    side = 40
    augmentation = OFF.model_copy(update={"elastic": 0.03, "elastic_smoothness": 0.08})
    images = _images(3, side=side)
    masks = (images[..., 0] // 64).contiguous()
    augment = Augment(augmentation, side, IDENTITY, CPU, dtype=torch.float64)
    pixels, moved = augment.with_masks(images, masks, _generator())
    generator = _generator()
    draw(augmentation, 3, generator, side, side)
    noise = (torch.rand(3, 2, side, side, generator=generator) * 2 - 1).double()
    shift = elastic_displacement(noise, 0.03, 0.08)
    for k in range(3):
        displacement = shift[k].permute(1, 2, 0)[None].float()
        theirs = reference.elastic(_planar(images)[k].float(), displacement, fill=None)
        inside = (slice(None), slice(6, -6), slice(6, -6))  # outside the image theirs is black, ours mirrored
        torch.testing.assert_close(pixels[k].float()[inside] * 255, theirs[inside], rtol=0, atol=0.05)
        nearest = reference.elastic(masks[k][None], displacement, interpolation=reference.InterpolationMode.NEAREST)
        assert (moved[k][None] == nearest)[inside].double().mean() > 0.99


def test_elastic_displacements_are_distributed_as_those_of_torchvision():
    side, smoothness, alpha = 60, 0.05, 50.0
    torch.manual_seed(0)
    their = ElasticTransform(alpha=alpha, sigma=smoothness * side)
    theirs = torch.cat([their.make_params([torch.zeros(3, side, side)])["displacement"] for _ in range(40)])
    noise = torch.rand(40, 2, side, side, generator=_generator()) * 2 - 1
    kernel = np.exp(-0.5 * (np.arange(-12, 13) / 3) ** 2)
    kernel /= kernel.sum()
    deviation = alpha / side / 2 * (kernel**2).sum() / math.sqrt(3)  # theirs runs over two units per side
    ours = elastic_displacement(noise, deviation, smoothness)
    centre = slice(12, -12)
    assert ours[..., centre, centre].std().item() == pytest.approx(2 * deviation, rel=0.05)
    # Points 15 pixels apart hardly know of one another.
    mine, other = ours[:, :, 12:-12:15, 12:-12:15], theirs[:, 12:-12:15, 12:-12:15]
    assert stats.ks_2samp(mine.flatten().numpy(), other.flatten().numpy()).pvalue > 1e-3


def test_turned_masks_follow_their_images(monkeypatch):
    images = _images(2, side=32)
    masks = (images[..., 0] // 64).contiguous()
    augment = Augment(OFF, 32, IDENTITY, CPU, dtype=torch.float64)
    monkeypatch.setattr("trainables.augmentation.draw", lambda *_: _draws(2, flip_x=-1.0, angle=math.pi / 2))
    pixels, moved = augment.with_masks(images, masks, _generator())
    torch.testing.assert_close(moved.double(), (pixels[:, 0] * 255 / 64).floor(), rtol=0, atol=1e-9)
    assert not torch.equal(moved, masks)


def test_views_of_test_time_equal_the_ten_crops_of_torchvision():
    images = _images(2, 32)
    ten = EvaluationTransform(28, IDENTITY, CPU, test_time="ten_crop")
    views = torch.stack(list(ten.views(images))) * 255
    tl, tr, bl, br, centre, *flipped = reference.ten_crop(_planar(images).float(), [28, 28])
    crops = [centre, tl, tr, bl, br]
    mirrors = [flipped[k] for k in (4, 0, 1, 2, 3)]
    # Their mirrored crops are cut from the mirrored image: the left one is the mirror image of the right.
    mirrors = [mirrors[k] for k in (0, 2, 1, 4, 3)]
    expected = torch.stack([view for pair in zip(crops, mirrors, strict=True) for view in pair])
    torch.testing.assert_close(views, expected, rtol=0, atol=1e-4)
    flip = list(EvaluationTransform(28, IDENTITY, CPU, test_time="flip").views(images))
    torch.testing.assert_close(torch.stack(flip) * 255, expected[:2], rtol=0, atol=1e-4)
    [single] = EvaluationTransform(28, IDENTITY, CPU).views(images)
    assert torch.equal(single, ten(images))
