"""BiT-HyperRule at the edges of its regimes."""

from __future__ import annotations

import pytest

from search_spaces.hyperrule import regime_of, resolution


@pytest.mark.parametrize(
    ("images", "name", "steps", "warmup", "milestones"),
    [
        (1, "small", 500, 100, (201, 301, 401)),
        (19_999, "small", 500, 100, (201, 301, 401)),
        (20_000, "medium", 10_000, 500, (3001, 6001, 9001)),
        (499_999, "medium", 10_000, 500, (3001, 6001, 9001)),
        (500_000, "large", 20_000, 500, (6001, 12_001, 18_001)),
    ],
)
def test_regimes(images, name, steps, warmup, milestones):
    regime = regime_of(images)
    assert (regime.name, regime.steps, regime.warmup_steps, regime.milestones) == (name, steps, warmup, milestones)


@pytest.mark.parametrize(
    ("area", "variant", "is_largest", "expected"),
    [
        (95 * 97, "text", False, (160, 128)),  # 9,215 pixels: 96 x 96 is 9,216
        (96 * 96, "text", False, (448, 384)),
        (96 * 96, "text", True, (512, 480)),
        (96 * 96, "code", False, (512, 480)),
        (32 * 32, "code", True, (160, 128)),
    ],
)
def test_resolution_follows_the_area_of_the_images(area, variant, is_largest, expected):
    assert resolution(area, variant, is_largest) == expected
