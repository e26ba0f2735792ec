"""Each operator against torchvision on single images, and the distribution of what is drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as reference

from search_spaces.protocol import Augmentation
from search_spaces.study import Normalisation
from trainables.augmentation import Augment, Draws, EvaluationTransform, affine_maps, draw, oversampling

CPU = torch.device("cpu")
IDENTITY = Normalisation(mean=(0, 0, 0), std=(1, 1, 1))
OFF = Augmentation(crop_scale=(1, 1), crop_ratio=(1, 1), horizontal_flip=0)


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


@pytest.mark.parametrize(("top", "left", "height", "width"), [(0, 0, 32, 32), (3, 5, 20, 24), (8, 0, 16, 17)])
def test_crop_equals_resized_crop(monkeypatch, top, left, height, width):
    images = _images()
    box = {"centre_x": (left + width / 2) / 32, "centre_y": (top + height / 2) / 32}
    draws = _draws(**box, width=width / 32, height=height / 32)
    ours = _apply(monkeypatch, draws, images, 16)
    theirs = reference.resized_crop(_planar(images), top, left, height, width, [16, 16], antialias=False)
    # A crop of 20 pixels to 16 is sampled once per output pixel in both.
    plain = Augment(OFF, 16, IDENTITY, CPU, dtype=torch.float64)
    plain_maps = affine_maps(draws).flatten(1)
    monkeypatch.setattr("trainables.augmentation.oversampling", lambda *_: 1)
    exact = plain._sample(_planar(images), plain_maps)
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
    images, augmentation = _images(6), Augmentation(rotation_degrees=30, brightness=0.3, contrast=0.3)
    draws = draw(augmentation, 6, _generator())
    together = _apply(monkeypatch, draws, images, 16, augmentation)
    for k in range(6):
        one = Draws(**{name: getattr(draws, name)[k : k + 1] for name in Draws.__slots__})
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
    ours = draw(augmentation, 4000, _generator())
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
    d = draw(augmentation, 2000, _generator(3))
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
    d = draw(Augmentation(horizontal_flip=0.3, vertical_flip=0.5), 5000, _generator(4))
    assert (d.flip_x < 0).double().mean() == pytest.approx(0.3, abs=0.025)
    assert (d.flip_y < 0).double().mean() == pytest.approx(0.5, abs=0.025)
    assert abs(np.corrcoef(d.flip_x, d.flip_y)[0, 1]) < 0.05


def test_switching_one_operator_moves_no_other_draw():
    first, second = (draw(Augmentation(rotation_degrees=angle), 50, _generator()) for angle in (0, 45))
    assert torch.equal(first.centre_x, second.centre_x)
    assert torch.equal(first.flip_x, second.flip_x)
    assert not torch.equal(first.angle, second.angle)


def test_an_impossible_ratio_falls_back_to_the_largest_box():
    d = draw(Augmentation(crop_scale=(0.9, 1.0), crop_ratio=(4.0, 5.0)), 8, _generator())
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
