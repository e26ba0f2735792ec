"""Figures that carry the verdict: what they show, and that both backends draw it."""

from __future__ import annotations

import dataclasses
import math

import pytest

from dashboards.evidence import Evidence
from dashboards.figures import draw
from dashboards.label_tables import SAVES
from dashboards.static import render
from dashboards.verdict.where import where_answers
from dashboards.verdict_plots import best_set_plots, label_savings_plots
from tests.dashboards.test_verdict import evidence, tables


def savings_plots():
    return label_savings_plots(tables().label_savings, tables().label_tests, "random")


def test_each_set_has_a_figure_with_a_row_per_curve():
    plots = savings_plots()
    assert [plot.key for plot in plots] == ["label_savings_skin_test", "label_savings_skin_clinic_b"]
    for plot in plots:
        assert [title for title, _ in plot.panels] == ["small", "large"]
        assert sum(len(rows) for _, rows in plot.panels) == len(plot.table) == 4
        assert plot.x_log
        assert [x for x, _ in plot.x_ticks] == [45, 180, 900]


def test_censored_sides_are_arrows_to_the_end_of_the_axis():
    plot = savings_plots()[0]
    rows = {(title, row.name): row for title, of_panel in plot.panels for row in of_panel}
    saved, not_shown = rows["small", "natural"], rows["small", "natural_meanvar"]
    assert saved.filled
    assert (saved.open_low, saved.open_high) == (True, False)
    assert (saved.low, saved.reference) == (plot.x_range[0], 900)
    assert not not_shown.filled
    assert not_shown.open_high
    assert not_shown.high == plot.x_range[1]
    assert saved.note == "saves 95 % of images"


def test_the_alternative_text_holds_the_numbers():
    alt = savings_plots()[0].alt
    assert "natural, small: saves 95 % of images, between 45 images or fewer and 45 images, of 900" in alt
    assert "no upper end" in alt


def test_members_of_the_best_set_are_filled():
    plot = best_set_plots(tables().best_sets, "random")[0]
    table = plot.table[plot.table["data_fraction"] == "0.05"]
    (panel,) = [p for p in plot.panels if p.title == "5 %"]
    for series in panel.series:
        mine = table[table["pretraining_source"] == series.name]
        assert list(series.hollow) == [not member for member in mine["member"]]
        assert list(series.x) == list(mine["parameters"])
    assert "0.4 M" in [text for _, text in plot.x_ticks]


@pytest.mark.parametrize("make", [savings_plots, lambda: best_set_plots(tables().best_sets, "random")])
def test_both_backends_draw_it(make):
    plot = make()[0]
    figure = draw(plot)
    symbols = {str(s) for trace in figure.data if trace.marker for s in _listed(trace.marker.symbol)}
    if plot.key.startswith("label"):
        assert {"triangle-left", "triangle-right", "x"} <= symbols
        assert figure.layout.xaxis.type == "log"
        assert figure.layout.xaxis.range[0] == pytest.approx(math.log10(plot.x_range[0]))
    else:
        assert any("white" in _listed(trace.marker.color) for trace in figure.data if trace.marker)
    svg, png = render(plot)
    assert b"mathdefault" not in svg
    assert png.startswith(b"\x89PNG")


def _listed(value):
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def test_a_crossing_is_told_only_where_it_is_shown_on_both_sides():
    made: Evidence = evidence()
    reach = (
        tables()
        .reach.iloc[[0]]
        .assign(
            helps_at="0.05",
            hurts_at="1",
            data_fraction="0.05",
            images=45.0,
            crossing_shown=True,
            crossing=300.0,
            crossing_low=200.0,
            crossing_high=900.0,
            crossing_left_censored=False,
            crossing_right_censored=True,
        )
    )
    contrasts = tables().contrasts
    row, at_all = reach.iloc[0], contrasts["data_fraction"] == "1"
    for axis in ("task", "set", "pretraining_source", "model_scale"):
        at_all &= contrasts[axis] == row[axis]
    both = contrasts.assign(verdict=contrasts["verdict"].mask(at_all, "hurts"))
    shown = where_answers(made, dataclasses.replace(tables(), reach=reach, contrasts=both))[0]
    assert "it hurts at 100 %" in shown.sentence
    assert "cross near 300 images (95 % set 200 to at least 900)" in shown.sentence
    hidden = reach.assign(crossing_shown=False)
    assert "cross" not in where_answers(made, dataclasses.replace(tables(), reach=hidden, contrasts=both))[0].sentence
    unconfirmed = where_answers(made, dataclasses.replace(tables(), reach=reach))[0]
    assert "cross" not in unconfirmed.sentence
    assert unconfirmed.numbers["unconfirmed_at"] == "1"


def test_the_planted_saving_is_the_one_that_is_drawn():
    rows = tables().label_savings
    assert set(rows.loc[rows["word"] == SAVES, "pretraining_source"]) == {"natural"}
