"""Caveats that depend on the recipe."""

from __future__ import annotations

import pandas as pd

from dashboards.narrative import image_size_caveats, regime_caveats


def test_a_rule_that_jumps_inside_a_curve_is_named_with_its_task():
    rows = [("skin", "small"), ("skin", "medium"), ("chest", "small"), ("chest", "small"), ("bone", None)]
    lines = regime_caveats(pd.DataFrame(rows, columns=["task", "regime"]))
    assert len(lines) == 1
    assert lines[0].startswith("skin: ")
    assert "(medium, small)" in lines[0]


def test_records_without_a_regime_have_no_such_caveat():
    assert regime_caveats(pd.DataFrame({"task": ["skin"]})) == []
    assert regime_caveats(pd.DataFrame({"task": ["skin"], "regime": [None]})) == []
    assert regime_caveats(pd.DataFrame()) == []


def test_scales_whose_images_have_other_sizes_are_named_with_their_task():
    rows = [("skin", "r50", "448/384"), ("skin", "r152", "512/480"), ("chest", "r50", "160/128"), ("bone", "r50", None)]
    [line] = image_size_caveats(pd.DataFrame(rows, columns=["task", "model_scale", "image_size"]))
    assert line.startswith("skin: ")
    assert "448/384 px for r50; 512/480 px for r152" in line
    assert image_size_caveats(pd.DataFrame({"task": ["skin"]})) == image_size_caveats(pd.DataFrame()) == []
