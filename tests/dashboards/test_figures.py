"""Figures: what they say, and that both backends can draw it."""

import dataclasses
import math
import xml.etree.ElementTree as ET
from functools import cache

import numpy as np
import pandas as pd
import pytest

from dashboards import figures, static
from dashboards.curve_plots import parameter_plots, scale_curves, shifted_plots
from dashboards.plots import CurvePlot, IntervalPlot
from dashboards.row_plots import completeness_plot, forest_plots, subgroup_plots
from dashboards.side_tables import fit_table
from dashboards.style import (
    MAX_LINES,
    amount_text,
    count,
    file_key,
    number,
    p_value,
    signed,
    source_groups,
    source_styles,
)
from tests.dashboards.synthetic import whole_tables


def primary_cells():
    cells = whole_tables().cells
    return cells[cells["primary"]]


@cache
def all_plots():
    tables = whole_tables()
    return [
        *scale_curves(primary_cells(), tables.trial_values, "random"),
        *parameter_plots(tables.scales, "random"),
        *shifted_plots(tables.in_domain_vs_shifted, "random"),
        *forest_plots(tables.contrasts, "random"),
        *subgroup_plots(tables.subgroups, "random"),
        completeness_plot(tables.completeness),
    ]


def plot_of(plots, key):
    return next(plot for plot in plots if plot.key == key)


def test_there_is_a_figure_for_every_question():
    keys = [plot.key for plot in all_plots()]
    assert len(keys) == len(set(keys))
    for expected in (
        "scale_curves_skin_test",
        "scale_curves_brain_site_b",
        "parameters_skin_test",
        "shifted_brain_site_b",
        "contrasts_skin_test",
        "subgroups_skin_test_sex",
        "completeness",
    ):
        assert expected in keys


def test_every_figure_has_words_and_a_table():
    for plot in all_plots():
        assert plot.title
        assert plot.caption
        assert not plot.table.empty
        assert any(character.isdigit() for character in plot.alt), plot.key


def test_alternative_text_holds_the_numbers_of_the_points():
    plot = plot_of(all_plots(), "scale_curves_brain_test")
    for value in plot.table["value"]:
        assert number(value) in plot.alt


def test_points_lie_inside_the_axes():
    for plot in all_plots():
        if not isinstance(plot, CurvePlot):
            continue
        for series in (s for panel in plot.panels for s in panel.series):
            assert all(plot.x_range[0] < x < plot.x_range[1] for x in series.x), plot.key
            assert all(plot.y_range[0] <= y <= plot.y_range[1] for y in [*series.y, *series.dots_y]), plot.key


def test_a_wide_interval_does_not_squeeze_the_points():
    cells = primary_cells().query("task == 'brain' and set == 'test'").copy()
    cells.loc[cells.index[0], ["low", "high"]] = [-40.0, 40.0]
    plot = scale_curves(cells, whole_tables().trial_values, "random")[0]
    assert plot.y_range[1] - plot.y_range[0] < 1.5


def six_amounts(metric="auc"):
    """Cells of two sources at six amounts, on a power law of the error with a little noise."""
    rng = np.random.default_rng(0)
    rows = []
    for source, floor in (("random", 0.15), ("natural", 0.1)):
        for n in (50, 100, 200, 500, 1000, 5000):
            error = (floor + 1.5 * n**-0.5) * math.exp(rng.normal(0, 0.002))
            value = 1 - error if metric == "auc" else error
            row = {"task": "t", "set": "test", "model_scale": "small", "pretraining_source": source, "metric": metric}
            row |= {"data_fraction": f"images={n}", "images": float(n), "primary": True, "value": value}
            rows.append(row | {"low": value - 0.02, "high": value + 0.02, "se": 0.01, "level": 0.95, "n_seeds": 5})
    return pd.DataFrame(rows)


class TestFits:
    """Power laws in the figure of curves."""

    seeds = pd.DataFrame(columns=["task", "set", "model_scale", "pretraining_source", "data_fraction", "value"])

    def plot(self, cells, fits):
        (plot,) = scale_curves(cells, self.seeds, "random", fits)
        return plot

    @pytest.mark.parametrize("metric", ["auc", "nll"])
    def test_are_drawn_between_the_points_and_near_them(self, metric):
        cells = six_amounts(metric)
        fits = fit_table(cells)
        assert fits["identified"].all()
        plot = self.plot(cells, fits)
        assert "power laws" in plot.caption
        for series in plot.panels[0].series:
            fit = series.fit
            assert fit is not None
            assert (fit.x[0], fit.x[-1]) == (pytest.approx(series.x[0]), pytest.approx(series.x[-1]))
            assert max(fit.x) <= max(series.x) * (1 + 1e-12)
            assert np.interp(series.x, fit.x, fit.y) == pytest.approx(series.y, abs=0.01)
            row = fits[fits["pretraining_source"] == series.name].iloc[0]
            predicted = row["last_error_predicted"]
            assert fit.held_out == (pytest.approx(series.x[-1]), 1 - predicted if metric == "auc" else predicted)
            assert plot.y_range[0] <= fit.held_out[1] <= plot.y_range[1]

    def test_both_backends_draw_line_and_ring(self):
        cells = six_amounts()
        with_fits, without = self.plot(cells, fit_table(cells)), self.plot(cells, None)
        drawn = figures.draw(with_fits).data
        assert len(drawn) == len(figures.draw(without).data) + 2 * 2
        lines = [t for t in drawn if t.mode == "lines"]
        rings = [t for t in drawn if t.mode == "markers" and t.marker.symbol == "circle-open"]
        assert len(lines) == len(rings) == 2
        assert all(t.line.dash == "4px,3px" and not t.showlegend for t in lines)
        assert "a fit to all other points puts the last one at" in rings[0].hovertext[0]
        assert static.render(with_fits)[0] != static.render(without)[0]

    def test_what_is_not_identified_is_not_drawn(self):
        cells = six_amounts()
        fits = fit_table(cells).assign(identified=[True, False])
        plot = self.plot(cells, fits)
        drawn = {series.name: series.fit is not None for series in plot.panels[0].series}
        assert sum(drawn.values()) == 1
        assert self.plot(cells, fits.assign(identified=False)).caption == self.plot(cells, None).caption

    def test_nothing_is_drawn_where_amounts_are_not_images(self):
        cells = six_amounts()
        fits = fit_table(cells)
        plot = self.plot(cells.assign(images=math.nan), fits)
        assert all(series.fit is None for series in plot.panels[0].series)


def test_seeds_of_a_panel_are_those_of_its_scale():
    plot = plot_of(all_plots(), "scale_curves_brain_test")
    seeds = whole_tables().trial_values.query("task == 'brain' and set == 'test'")
    for panel in plot.panels:
        for series in panel.series:
            own = seeds.query(f"model_scale == {panel.title!r} and pretraining_source == {series.name!r}")
            assert sorted(series.dots_y) == pytest.approx(sorted(own["value"]))


def test_lines_join_scales_of_one_ladder_only():
    scales = whole_tables().scales
    one = parameter_plots(scales, "random")[0]
    assert all(series.joined and len(series.x) == 2 for panel in one.panels for series in panel.series)
    apart = parameter_plots(scales.assign(rung=scales["model_scale"]), "random")[0]
    assert all(not series.joined and len(series.x) == 1 for panel in apart.panels for series in panel.series)
    drawn = figures.draw(apart)
    assert all("lines" not in trace.mode for trace in drawn.data if trace.name)


def test_one_scale_has_no_figure_against_size():
    scales = whole_tables().scales.query("model_scale == 'small'")
    assert parameter_plots(scales, "random") == []


def test_hollow_marks_are_the_undecided_ones():
    plot = plot_of(all_plots(), "contrasts_skin_test")
    rows = [row for _, rows in plot.panels for row in rows]
    assert {row.filled for row in rows} == {True, False}
    assert all(row.filled == ("undecided" not in row.note) for row in rows)
    starred = [row for row in rows if "★" in row.label]
    assert len(starred) == 8


def test_zone_of_no_practical_meaning_is_drawn_in_every_panel():
    plot = plot_of(all_plots(), "contrasts_skin_test")
    shapes = [s for s in figures.draw(plot).layout.shapes if s.type == "rect"]
    assert len(shapes) == len(plot.panels)
    assert {(s.x0, s.x1) for s in shapes} == {(-0.01, 0.01)}


def test_the_height_of_chance_is_drawn_in_every_panel():
    plot = plot_of(all_plots(), "scale_curves_skin_test")
    assert plot.reference is not None
    low = dataclasses.replace(plot, y_range=(plot.reference - 0.1, plot.y_range[1]))
    lines = [s for s in figures.draw(low).layout.shapes if s.type == "line"]
    assert [(s.y0, s.y1) for s in lines] == [(plot.reference, plot.reference)] * len(plot.panels)
    assert len({s.yref for s in lines}) == len(plot.panels) > 1
    assert not figures.draw(dataclasses.replace(plot, y_range=(plot.reference + 0.01, 1.0))).layout.shapes


def test_panels_of_one_row_share_their_height():
    plot = plot_of(all_plots(), "scale_curves_skin_test")
    layout = figures.draw(plot).layout
    first, *others = (layout[f"yaxis{n}"] for n in ("", *range(2, len(plot.panels) + 1)))
    assert first.title.text == plot.y_label
    assert others
    assert all(axis.matches == "y" and axis.showticklabels is False and not axis.title.text for axis in others)
    assert [layout[f"xaxis{n}"].domain[0] for n in ("", 2)] == pytest.approx([0.0, (1 + 0.035) / 2])


def test_groups_too_small_to_show_are_named_in_the_figure():
    subgroups = whole_tables().subgroups.query("task == 'skin' and set == 'test'").copy()
    small = subgroups["group"] == "M"
    for column in ("value", "low", "high"):
        subgroups.loc[small, column] = np.nan
    subgroups.loc[small, "sufficient"] = False
    subgroups.loc[small, "note"] = "insufficient data (3+, 4−)"
    (plot,) = subgroup_plots(subgroups, "random")
    texts = [a.text for a in figures.draw(plot).layout.annotations]
    assert texts.count("insufficient data (3+, 4−)") == 6


def test_matrix_says_what_failed_and_what_was_excluded():
    matrix = whole_tables().completeness.copy()
    changes: list[dict[str, int | str]] = [{"done": 2, "failed": 1}, {"planned": 0, "done": 0, "reason": "no weights"}]
    for row, change in enumerate(changes):
        for column, value in change.items():
            matrix.loc[row, column] = value
    plot = completeness_plot(matrix)
    assert plot is not None
    flat = [text for line in plot.text for text in line]
    assert "2/3 1✕" in flat
    assert "excluded" in flat
    assert plot.alt == "104 of 105 planned trials are done, 1 failed, 0 are missing."


def test_plotly_draws_every_figure():
    for plot in all_plots():
        drawn = figures.draw(plot)
        assert drawn.layout.height > 100, plot.key
        assert drawn.layout.paper_bgcolor == "white"
        assert len(drawn.data) > 0


@pytest.mark.parametrize(
    "key", ["scale_curves_skin_test", "contrasts_skin_test", "completeness", "shifted_skin_clinic_b"]
)
def test_matplotlib_draws_it_and_always_the_same(key):
    plot = plot_of(all_plots(), key)
    svg, png = static.render(plot)
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    root = ET.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert plot.alt.encode()[:60] in svg
    assert static.render(plot)[0] == svg


def test_names_are_not_taken_for_formulas():
    cells = primary_cells().query("task == 'skin' and set == 'test'").assign(model_scale=r"$\frac{a$")
    (plot,) = scale_curves(cells, whole_tables().trial_values, "random")
    assert rb"$\frac{a$" in static.render(plot)[0]


def test_numbers_that_do_not_exist_draw_nothing_and_break_nothing():
    cells = primary_cells().query("task == 'skin' and set == 'test'").copy()
    cells[["low", "high"]] = np.nan
    (plot,) = scale_curves(cells, whole_tables().trial_values, "random")
    drawn = figures.draw(plot)
    bars = [t.error_y.array for t in drawn.data if t.name]
    assert all(value is None for bar in bars for value in bar)
    static.render(plot)
    assert scale_curves(cells.assign(value=np.nan), whole_tables().trial_values, "random") == []


def test_more_sources_than_can_be_told_apart_get_further_figures():
    names = [f"source{i}" for i in range(8)]
    cells = primary_cells().query("task == 'skin' and set == 'test' and pretraining_source == 'random'")
    many = pd.concat([cells, *(cells.assign(pretraining_source=n) for n in names)])
    plots = scale_curves(many, whole_tables().trial_values, "random")
    assert [plot.key for plot in plots] == ["scale_curves_skin_test", "scale_curves_skin_test_2"]
    for plot in plots:
        assert len(plot.styles) <= MAX_LINES
        assert "random" in plot.styles
    assert set(names) <= {n for plot in plots for n in plot.styles}


def test_sources_differ_in_colour_marker_and_dash():
    sources = ["random", "a", "b", "c", "d", "e"]
    styles = source_styles(sources, "random")
    for attribute in ("colour", "symbol", "dash", "mpl_marker", "mpl_dash"):
        assert len({getattr(style, attribute) for style in styles.values()}) == len(sources), attribute
    assert source_groups(sources, "random") == [sources]


def contrast_on_white(colour):
    def linear(channel):
        c = int(channel, 16) / 255
        return c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4

    r, g, b = (linear(colour[i : i + 2]) for i in (1, 3, 5))
    return 1.05 / (0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05)


def test_lines_reach_a_contrast_of_three_to_one_on_white():
    styles = source_styles(["random", "a", "b", "c", "d", "e"], "random")
    assert min(contrast_on_white(style.colour) for style in styles.values()) >= 3.0


def test_ticks_that_would_overlap_are_left_out():
    cells = primary_cells().query("task == 'skin' and set == 'test' and pretraining_source == 'random'").copy()
    near = cells.query("data_fraction == '1'").assign(data_fraction="0.98", images=890.0)
    (plot,) = scale_curves(pd.concat([cells, near]), whole_tables().trial_values, "random")
    texts = [text for _, text in plot.x_ticks]
    assert "900\n100 %" in texts
    assert "890\n98 %" not in texts


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (number(0.04125), "0.041"),
        (number(-0.5), "−0.500"),
        (number(math.nan), "–"),
        (signed(0.041), "+0.041"),
        (signed(-0.02), "−0.020"),
        (p_value(0.0123), "p = 0.012"),
        (p_value(1e-9), "p < 0.001"),
        (p_value(1.0), "p > 0.99"),
        (p_value(math.nan), "p undefined"),
        (amount_text("0.05"), "5 %"),
        (amount_text("patients=9"), "9 patients"),
        (amount_text("per_class=1"), "1 patient per class"),
        (count(12345), "12\u202f345"),
        (file_key("a", "b"), "a_b"),
    ],
)
def test_text_of_numbers(made, expected):
    assert made == expected


def test_file_names_are_safe_and_do_not_meet():
    names = [file_key("curves", name) for name in ("a/b", "a b", "../../etc", "a-b")]
    assert len(set(names)) == 4
    assert all("/" not in name and " " not in name for name in names)


def test_descriptions_are_of_known_kinds():
    assert {type(plot).__name__ for plot in all_plots()} == {"CurvePlot", "IntervalPlot", "MatrixPlot"}
    assert all(plot.zone == 0.01 for plot in all_plots() if isinstance(plot, IntervalPlot) and "contrasts" in plot.key)
